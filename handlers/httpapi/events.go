package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// Pages of a collection (contract §1).
const (
	defaultPage = 100
	maxPage     = 1_000
)

// usageEvents serves GET /api/usage/events (contract §7): single events, newest
// first by their place in the log.
func (s *Server) usageEvents(c echo.Context) error {
	who := callerOf(c)
	q, err := s.eventQuery(c.Request().URL.RawQuery, who)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	unknownRun, err := s.mayFilter(ctx, who, &q)
	if err != nil {
		return err
	}
	page, err := s.Reads.Events(ctx, q)
	if err != nil {
		return fmt.Errorf("list of events: %w", err)
	}
	if unknownRun && len(page.Events) == 0 && q.Before == (schemas.EventPlace{}) {
		return errNoRun
	}
	out := newStream(c, "application/json")
	out.buf = append(out.buf, `{"events":[`...)
	for i := range page.Events {
		if i > 0 {
			out.buf = append(out.buf, ',')
		}
		out.buf = page.Events[i].AppendJSON(out.buf)
		if err := out.full(); err != nil {
			return err
		}
	}
	out.buf = append(out.buf, `],"next_cursor":`...)
	if page.More {
		out.buf = append(out.buf, '"')
		out.buf = append(out.buf, cursorOf(&q, page.Next)...)
		out.buf = append(out.buf, '"', '}')
	} else {
		out.buf = append(out.buf, "null}"...)
	}
	return out.end()
}

// mayFilter refuses a user's filter that names somebody else's chat or run. A run may be
// named by events alone: one that is not known is the user's when the user has events of
// it, and else as unknown as somebody else's.
func (s *Server) mayFilter(ctx context.Context, who caller, q *schemas.EventQuery) (unknownRun bool, err error) {
	if who.wholeApp() {
		return false, nil
	}
	if q.ChatID != "" {
		if _, err := s.chatOf(ctx, who, q.AppID, q.ChatID); err != nil {
			return false, err
		}
	}
	if q.RunID == "" {
		return false, nil
	}
	r, err := s.Runs.Run(ctx, q.AppID, q.RunID)
	switch {
	case err != nil:
		return false, fmt.Errorf("run of a filter: %w", err)
	case r != nil && !who.owns(r.UserID):
		return false, errNoRun
	}
	return r == nil, nil
}

// eventQuery reads the parameters of GET /api/usage/events.
func (s *Server) eventQuery(raw string, who caller) (schemas.EventQuery, error) {
	p, err := readQuery(raw, "app_id", "tenant_id", "user_id", "model", "workflow_id", "chat_id", "run_id", "from", "to", "limit", "cursor")
	if err != nil {
		return schemas.EventQuery{}, err
	}
	q := schemas.EventQuery{
		AppID:      p.text("app_id", s.AppID, schemas.MaxIDChars),
		TenantID:   p.text("tenant_id", "", schemas.MaxIDChars),
		UserID:     p.text("user_id", "", schemas.MaxIDChars),
		Model:      p.text("model", "", schemas.MaxNameChars),
		WorkflowID: p.text("workflow_id", "", schemas.MaxNameChars),
		ChatID:     p.text("chat_id", "", schemas.MaxIDChars),
		RunID:      p.text("run_id", "", schemas.MaxIDChars),
		From:       p.instant("from", schemas.FirstInstant),
		To:         p.instant("to", schemas.LastInstant),
		Limit:      p.number("limit", defaultPage, 1, maxPage),
	}
	if p.err() == nil && q.From >= q.To {
		p.fault("to", "to must be after from", "value_error")
	}
	if err := p.err(); err != nil {
		return q, err
	}
	if q.AppID, q.UserID, err = who.scope(s, q.AppID, q.UserID); err != nil { // a cursor is of what was asked for in the end
		return q, err
	}
	if text, given := p.get("cursor"); given {
		var ok bool
		if q.Before, ok = placeOf(&q, text); !ok {
			p.fault("cursor", "cursor must be the next_cursor of a page of this very query", "value_error")
		}
	}
	return q, p.err()
}

// instant reads an RFC 3339 instant as nanoseconds since 1970 UTC.
func (q query) instant(name string, absent int64) int64 {
	v, given := q.get(name)
	if !given {
		return absent
	}
	nanos, err := schemas.ParseInstant(v)
	if err != nil {
		msg := name + " " + err.Detail
		if strings.Contains(v, " ") {
			msg += " (a + of the zone is sent as %2B)"
		}
		q.fault(name, msg, "datetime")
		return absent
	}
	return nanos
}

// number reads a whole number, written with digits only.
func (q query) number(name string, absent, least, most int) int {
	v, given := q.get(name)
	if !given {
		return absent
	}
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil || int(n) < least || int(n) > most {
		q.fault(name, fmt.Sprintf("%s must be a whole number from %d to %d", name, least, most), "int_range")
		return absent
	}
	return int(n)
}

// A cursor holds a place and a digest of the query that it goes on with. Form 1:
// form, sequence, chunk, index, digest.
const (
	cursorForm   = 1
	cursorDigest = 8
)

var cursorText = base64.RawURLEncoding.Strict()

func cursorOf(q *schemas.EventQuery, at schemas.EventPlace) string {
	b := []byte{cursorForm}
	for _, n := range [...]uint64{at.Seq, uint64(at.Chunk), uint64(at.Index)} {
		b = binary.AppendUvarint(b, n)
	}
	return cursorText.EncodeToString(append(b, digestOf(q)...))
}

func placeOf(q *schemas.EventQuery, text string) (at schemas.EventPlace, ok bool) {
	b, err := cursorText.DecodeString(text)
	if err != nil || len(b) < 1+cursorDigest || b[0] != cursorForm {
		return at, false
	}
	var numbers [3]uint64
	rest := b[1:]
	for i := range numbers {
		n, size := binary.Uvarint(rest)
		if size <= 0 {
			return at, false
		}
		numbers[i], rest = n, rest[size:]
	}
	at = schemas.EventPlace{Seq: numbers[0], Chunk: uint32(numbers[1]), Index: uint32(numbers[2])}
	return at, at.Seq > 0 && cursorOf(q, at) == text
}

// digestOf tells queries apart by what they ask for. Pages of one query may have
// different lengths.
func digestOf(q *schemas.EventQuery) []byte {
	var b []byte
	for _, s := range [...]string{q.AppID, q.TenantID, q.UserID, q.Model, q.WorkflowID, q.ChatID, q.RunID} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(q.From))
	b = binary.BigEndian.AppendUint64(b, uint64(q.To))
	sum := sha256.Sum256(b)
	return sum[:cursorDigest]
}
