package store

import (
	"bytes"
	"context"
	"fmt"
	"math"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// Look reads what entitlements keep as it was committed at one instant. It sees every
// command that was answered before it began.
type Look struct {
	bolt         *bbolt.Tx
	store        *Store
	live, frozen *generation
	now          int64
	at           uint64 // log position of the newest message that it sees
	buckets      [bucketCount]bucket
}

// Look runs fn on what is committed. What fn is given ends with it.
func (s *Store) Look(fn func(*Look) error) (err error) {
	defer s.db.shield(&err)()
	l, err := s.beginLook()
	if err != nil {
		return err
	}
	defer func() { _ = l.bolt.Rollback() }()
	return fn(l)
}

// beginLook never shows what is committed and not yet merged: the ids of that are not
// found, and its usage is not in the sums.
func (s *Store) beginLook() (*Look, error) {
	l, merged, err := s.tryLook()
	if err != nil || merged {
		return l, err
	}
	_ = l.bolt.Rollback()
	s.merging.RLock()
	defer s.merging.RUnlock()
	l, _, err = s.tryLook()
	return l, err
}

func (s *Store) tryLook() (l *Look, merged bool, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	bolt, err := s.db.Begin(false)
	if err != nil {
		return nil, false, err
	}
	defer func() {
		if l == nil { // a damaged page ended it
			_ = bolt.Rollback()
		}
	}()
	at, err := readApplied(bolt)
	if err != nil {
		return nil, false, fmt.Errorf("position: %w", err)
	}
	l = &Look{bolt: bolt, store: s, live: s.overlay.live, frozen: s.overlay.frozen, now: at.Now, at: logPosition(at.Epoch, at.Seq)}
	return l, l.at == logPosition(s.applied.Epoch, s.applied.Seq), nil
}

func (l *Look) bucket(id bucketID) bucket {
	b := &l.buckets[id]
	if b.Bucket == nil {
		*b = bucketOf(l.bolt, id)
	}
	return *b
}

// Now is handler time of the newest command.
func (l *Look) Now() int64 { return l.now }

// Config gives what a name stood for at an instant; nil when it stood for nothing.
func (l *Look) Config(name string, asOf int64) (*ConfigVersion, error) {
	if asOf == Newest {
		if v := l.store.Config(name); v == nil || v.Place.Seq <= l.at { // else it came after the look began
			return v, nil
		}
	}
	prefix := appendText(nil, name)
	c := l.bucket(bucketConfig).cursor()
	for k, v := c.before(after(prefix)); bytes.HasPrefix(k, prefix); k, v = c.prev() {
		version, err := parseConfig(k, v)
		if err != nil || version.At <= asOf {
			return version, err
		}
	}
	return nil, c.err
}

// ScopeUsage is what usage of a scope sums up to inside some hours.
type ScopeUsage struct {
	Tokens schemas.Tokens
	Models map[string]int64 // total tokens of the models that were asked for
	Latest uint32           // the last hour with a row of the scope, when it was asked for
}

// Of gives the sum that counts in an allocation.
func (u *ScopeUsage) Of(allocation string) int64 {
	switch allocation {
	case schemas.AllocationTotal:
		return u.Tokens.Total
	case schemas.AllocationInput:
		return u.Tokens.Input
	case schemas.AllocationOutput:
		return u.Tokens.Output
	}
	model, _ := schemas.ModelOf(allocation)
	return u.Models[model]
}

// UsageQuestion asks what usage of a scope with timestamps in [From, To) sums up to:
// nanoseconds since 1970 UTC, on the hour; To 0 is no end.
type UsageQuestion struct {
	AppID       string
	Scope       schemas.Scope
	Allocations []string // of models, which are counted one by one
	From, To    int64
	Latest      bool // what lies behind To is looked through for Latest
}

// scopeSum adds up the rows of one scope.
type scopeSum struct {
	ScopeUsage
	scope schemas.Scope
	first uint32
	end   uint32 // of what is summed
	last  uint32 // of what is read
	err   error
}

func newScopeSum(q *UsageQuestion) *scopeSum {
	s := &scopeSum{scope: q.Scope, ScopeUsage: ScopeUsage{Models: map[string]int64{}}}
	for _, a := range q.Allocations {
		if model, ok := schemas.ModelOf(a); ok {
			s.Models[model] = 0
		}
	}
	s.first, s.end, s.last = hourOf(q.From), schemas.LastHour, schemas.LastHour
	if q.To != 0 {
		s.end = hourOf(q.To)
	}
	if !q.Latest {
		s.last = s.end
	}
	return s
}

func (s *scopeSum) inside(hour uint32) bool { return hour >= s.first && hour < s.last }

func (s *scopeSum) row(hour uint32, rest string, sums *schemas.UsageSums) {
	f, err := parseRest(rest)
	if err != nil {
		s.err = err
		return
	}
	s.add(hour, f.tenant, f.user, f.model, sums)
}

func (s *scopeSum) add(hour uint32, tenant, user, model string, sums *schemas.UsageSums) {
	if s.scope.Kind == schemas.ScopeTenant && s.scope.ID != tenant || s.scope.Kind == schemas.ScopeUser && s.scope.ID != user {
		return
	}
	s.Latest = max(s.Latest, hour)
	if hour >= s.end {
		return
	}
	s.Tokens.Total = addSaturating(s.Tokens.Total, sums.TotalTokens)
	s.Tokens.Input = addSaturating(s.Tokens.Input, sums.InputTokens)
	s.Tokens.Output = addSaturating(s.Tokens.Output, sums.OutputTokens)
	if have, asked := s.Models[model]; asked {
		s.Models[model] = addSaturating(have, sums.TotalTokens)
	}
}

func addSaturating(a, b int64) int64 {
	switch sum := a + b; {
	case b > 0 && sum < a:
		return math.MaxInt64
	case b < 0 && sum > a:
		return math.MinInt64
	default:
		return sum
	}
}

// Usage answers a question about usage.
func (l *Look) Usage(q *UsageQuestion) (ScopeUsage, error) {
	s := newScopeSum(q)
	return s.result(l.rows(context.Background(), q.AppID, s.first, s.last, s.row))
}

// rows passes on the aggregates of an app in some hours.
func (l *Look) rows(ctx context.Context, app string, from, to uint32, do rowFunc) error {
	fold, err := readFoldState(l.bolt)
	if err != nil {
		return fmt.Errorf("fold: %w", err)
	}
	l.store.mu.RLock() // it may have grown since the look began: no harm
	l.live.each(app, from, to, do)
	l.store.mu.RUnlock()
	v := view{bolt: l.bolt, frozen: l.frozen, fold: fold}
	return v.rows(ctx, app, from, to, do)
}

func (s *scopeSum) result(err error) (ScopeUsage, error) {
	if err == nil {
		err = s.err
	}
	return s.ScopeUsage, err
}

// Usage answers a question about usage, up to and with everything that the running
// message has recorded.
func (tx *Tx) Usage(q *UsageQuestion) (ScopeUsage, error) {
	s := newScopeSum(q)
	add := func(e *schemas.UsageEvent) {
		if hour := hourOf(e.Timestamp); e.AppID == q.AppID && s.inside(hour) {
			counted := schemas.CountedOf(e)
			s.add(hour, e.TenantID, e.UserID, e.Model, &counted)
		}
	}
	for _, e := range tx.stage.events {
		add(e)
	}
	if own := tx.usage.index[q.AppID]; own != nil {
		for i := range own.events {
			add(own.events[i].event)
		}
	}
	for _, a := range tx.stage.adjustments {
		if a.AppID == q.AppID && s.inside(a.Hour) {
			s.add(a.Hour, a.TenantID, a.UserID, a.Model, &a.Delta)
		}
	}
	tx.store.overlay.live.each(q.AppID, s.first, s.last, s.row)
	v := view{bolt: tx.bolt, frozen: tx.store.overlay.frozen, fold: tx.fold}
	u, err := s.result(v.rows(context.Background(), q.AppID, s.first, s.last, s.row))
	return u, faultOf("sum usage", err)
}
