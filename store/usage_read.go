package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// Usage sums the aggregates that a query asks for. It sees every command that
// was answered before it began.
func (s *Store) Usage(ctx context.Context, q schemas.UsageQuery) (_ schemas.UsageReport, err error) {
	defer s.db.shield(&err)()
	if err := ctx.Err(); err != nil {
		return schemas.UsageReport{}, err
	}
	sum := summation{q: &q, groups: map[string]*schemas.UsageRow{}, exact: true}
	q.From, q.To = min(max(q.From, schemas.FirstHour), schemas.LastHour), min(max(q.To, schemas.FirstHour), schemas.LastHour)
	from, to := uint32(q.From), uint32(q.To)
	v, err := s.view(q.AppID, from, to, sum.row)
	if err != nil {
		return schemas.UsageReport{}, err
	}
	defer v.close()
	err = v.rows(ctx, q.AppID, from, to, sum.row)
	if err == nil {
		err = sum.err
	}
	if err == nil && !sum.exact {
		s.overflowed.Store(true)
		err = schemas.Errorf(schemas.CodeSumTooLarge, "a count of the report is beyond 9223372036854775807: ask for a shorter time or for less at once")
	}
	if err != nil {
		return schemas.UsageReport{}, err
	}
	return sum.report(), nil
}

// rowFunc takes one aggregate row; several may have one key.
type rowFunc func(hour uint32, rest string, sums *schemas.UsageSums)

// view is one consistent look at the aggregates: a read transaction and the
// generations that belong to it.
type view struct {
	bolt   *bbolt.Tx
	frozen *generation
	fold   foldState
}

// view opens a look and passes the live rows of an app on. The live generation is
// read under the lock under which commits are merged, the frozen one never changes.
func (s *Store) view(app string, from, to uint32, do rowFunc) (*view, error) {
	v, err := s.beginView(app, from, to, do)
	if err != nil {
		return nil, err
	}
	whole := false
	defer func() {
		if !whole { // also when a damaged page has ended it
			v.close()
		}
	}()
	if v.fold, err = readFoldState(v.bolt); err != nil {
		return nil, err
	}
	whole = true
	return v, nil
}

func (s *Store) beginView(app string, from, to uint32, do rowFunc) (*view, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	bolt, err := s.db.Begin(false)
	if err != nil {
		return nil, err
	}
	s.overlay.live.each(app, from, to, do)
	return &view{bolt: bolt, frozen: s.overlay.frozen}, nil
}

func (v *view) close() { _ = v.bolt.Rollback() }

// rows passes on what is frozen and what is in the bucket. Between a commit and
// its merge the transaction knows a fold's end or beginning that memory does not
// show yet: the number of the fold decides, and in both cases the rows are
// counted once.
func (v *view) rows(ctx context.Context, app string, from, to uint32, do rowFunc) error {
	if g := v.frozen; g != nil && v.fold.To != 0 && v.fold.Number == g.number {
		var key []byte
		g.each(app, from, to, func(hour uint32, rest string, sums *schemas.UsageSums) {
			key = append(appendHourAppKey(key[:0], hour, app), rest...)
			if v.fold.pendingRow(key) {
				do(hour, rest, sums)
			}
		})
	}
	return scanHours(ctx, v.bolt, app, from, to, do)
}

// scanHours passes on the bucket's rows of an app, hour by hour.
func scanHours(ctx context.Context, bolt *bbolt.Tx, app string, from, to uint32, do rowFunc) error {
	c := bucketOf(bolt, bucketHours).cursor()
	prefix := appendHourAppKey(nil, from, app)
	k, value := c.seek(prefix)
	for k != nil {
		hour := binary.BigEndian.Uint32(k)
		if hour >= to {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		prefix = appendHourAppKey(prefix[:0], hour, app)
		switch {
		case bytes.HasPrefix(k, prefix):
			if err := eachHour(value, func(rest string, sums *schemas.UsageSums) { do(hour, rest, sums) }); err != nil {
				return fmt.Errorf("aggregates at %x: %w", k, err)
			}
			k, value = c.next()
		case bytes.Compare(k, prefix) < 0: // before the app in this hour
			k, value = c.seek(prefix)
		case hour+1 >= to:
			return nil
		default: // behind it: on to the next hour
			k, value = c.seek(appendHourAppKey(prefix[:0], hour+1, app))
		}
	}
	return c.err
}

// summation groups rows as a query asks.
type summation struct {
	q      *schemas.UsageQuery
	groups map[string]*schemas.UsageRow
	totals schemas.UsageSums
	key    []byte
	exact  bool
	err    error
}

func (s *summation) row(hour uint32, rest string, sums *schemas.UsageSums) {
	if s.err != nil {
		return
	}
	f, err := parseRest(rest)
	if err != nil {
		s.err = err
		return
	}
	q := s.q
	if q.TenantID != "" && q.TenantID != f.tenant || q.UserID != "" && q.UserID != f.user ||
		q.WorkflowID != "" && q.WorkflowID != f.workflow || q.Model != "" && q.Model != f.model {
		return
	}
	s.exact = s.totals.Add(sums) && s.exact
	start, end := windowOf(q, hour)
	s.key = binary.BigEndian.AppendUint32(s.key[:0], start)
	for _, d := range q.GroupBy {
		s.key = appendText(s.key, f.of(d, q.AppID))
	}
	g := s.groups[string(s.key)]
	if g == nil {
		if q.MaxRows > 0 && len(s.groups) >= q.MaxRows {
			s.err = schemas.Errorf(schemas.CodeTooManyRows, "the report has more than %d rows: ask for a shorter time, a longer window or fewer groups", q.MaxRows)
			return
		}
		g = &schemas.UsageRow{}
		if start != schemas.FirstHour || q.Window != schemas.WindowNone {
			g.WindowStart = time.Unix(int64(start)*3600, 0).UTC()
		}
		if end != schemas.LastHour {
			g.WindowEnd = time.Unix(int64(end)*3600, 0).UTC()
		}
		for _, d := range q.GroupBy {
			g.Group = append(g.Group, strings.Clone(f.of(d, q.AppID)))
		}
		s.groups[string(s.key)] = g
	}
	s.exact = g.Add(sums) && s.exact
}

// windowOf gives the hours of the calendar window (UTC) that an hour lies in.
func windowOf(q *schemas.UsageQuery, hour uint32) (start, end uint32) {
	switch q.Window {
	case schemas.WindowHour:
		return hour, hour + 1
	case schemas.WindowDay:
		return hour - hour%24, hour - hour%24 + 24
	case schemas.WindowMonth:
		t := time.Unix(int64(hour)*3600, 0).UTC()
		first := time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
		return uint32(first.Unix() / 3600), uint32(first.AddDate(0, 1, 0).Unix() / 3600)
	default:
		return uint32(q.From), uint32(q.To)
	}
}

func (s *summation) report() schemas.UsageReport {
	r := schemas.UsageReport{Rows: make([]schemas.UsageRow, 0, len(s.groups)), Totals: s.totals}
	for _, g := range s.groups {
		if g.UsageSums != (schemas.UsageSums{}) { // all of its events are voided
			r.Rows = append(r.Rows, *g)
		}
	}
	slices.SortFunc(r.Rows, func(a, b schemas.UsageRow) int {
		return cmp.Or(a.WindowStart.Compare(b.WindowStart), slices.Compare(a.Group, b.Group))
	})
	return r
}

// restFields are the texts of an aggregate's key behind hour and app.
type restFields struct{ tenant, user, workflow, model string }

func parseRest(rest string) (f restFields, err error) {
	for _, to := range [...]*string{&f.tenant, &f.user, &f.workflow, &f.model} {
		n, size := uint64(0), 0
		for shift := 0; ; shift += 7 {
			if size >= len(rest) || shift > 28 {
				return f, errDamaged
			}
			c := rest[size]
			size++
			n |= uint64(c&0x7f) << shift
			if c < 0x80 {
				break
			}
		}
		if n > uint64(len(rest)-size) {
			return f, errDamaged
		}
		*to, rest = rest[size:size+int(n)], rest[size+int(n):]
	}
	if rest != "" {
		return f, errDamaged
	}
	return f, nil
}

func (f *restFields) of(d schemas.Dimension, app string) string {
	switch d {
	case schemas.ByTenant:
		return f.tenant
	case schemas.ByUser:
		return f.user
	case schemas.ByWorkflow:
		return f.workflow
	case schemas.ByModel:
		return f.model
	default:
		return app
	}
}
