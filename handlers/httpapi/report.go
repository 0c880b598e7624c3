package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// stream sends a long body in pieces, or a short one with its length.
type stream struct {
	c       echo.Context
	media   string
	buf     []byte
	started bool
}

const streamPiece = 64 << 10

func newStream(c echo.Context, media string) *stream {
	return &stream{c: c, media: media, buf: make([]byte, 0, 4<<10)}
}

// full sends what there is when it is worth a write.
func (s *stream) full() error {
	if len(s.buf) < streamPiece {
		return nil
	}
	s.start()
	_, err := s.c.Response().Write(s.buf)
	s.buf = s.buf[:0]
	return err
}

func (s *stream) start() {
	if !s.started {
		s.started = true
		s.c.Response().Header().Set("Content-Type", s.media)
		s.c.Response().WriteHeader(http.StatusOK)
	}
}

func (s *stream) end() error {
	if !s.started {
		s.c.Response().Header().Set("Content-Length", strconv.Itoa(len(s.buf)))
	}
	s.start()
	_, err := s.c.Response().Write(s.buf)
	return err
}

// sendReport answers a usage query as JSON (contract §7).
func sendReport(c echo.Context, q *reportQuery, report *schemas.UsageReport) error {
	out := newStream(c, "application/json")
	b := append(out.buf, `{"app_id":`...)
	b = appendAnyText(b, q.AppID)
	b = append(b, `,"from":`...)
	b = appendTime(b, hourTime(q.From, q.fromOpen))
	b = append(b, `,"to":`...)
	b = appendTime(b, hourTime(q.To, q.toOpen))
	b = append(b, `,"window":`...)
	b = appendAnyText(b, string(q.Window))
	out.buf = append(b, `,"rows":[`...)
	for i := range report.Rows {
		if i > 0 {
			out.buf = append(out.buf, ',')
		}
		out.buf = appendRow(out.buf, q.GroupBy, &report.Rows[i])
		if err := out.full(); err != nil {
			return err
		}
	}
	b = append(out.buf, `],"totals":{`...)
	b = appendSums(b, &report.Totals)
	out.buf = append(b, '}', '}')
	return out.end()
}

func appendRow(b []byte, by []schemas.Dimension, row *schemas.UsageRow) []byte {
	b = append(b, `{"window_start":`...)
	b = appendTime(b, row.WindowStart)
	b = append(b, `,"window_end":`...)
	b = appendTime(b, row.WindowEnd)
	b = append(b, ',')
	for i, d := range by {
		b = append(b, '"')
		b = append(b, d...)
		b = append(b, '"', ':')
		b = appendGroup(b, row.Group[i])
		b = append(b, ',')
	}
	b = appendSums(b, &row.UsageSums)
	return append(b, '}')
}

// appendGroup writes a group's value; what its events did not have is null.
func appendGroup(b []byte, v string) []byte {
	if v == "" {
		return append(b, "null"...)
	}
	return appendAnyText(b, v)
}

var sumNames = [...]string{"events", "input_tokens", "output_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"}

func counts(s *schemas.UsageSums) [len(sumNames)]int64 {
	return [...]int64{s.Events, s.InputTokens, s.OutputTokens, s.TotalTokens, s.CachedTokens, s.ReasoningTokens}
}

func appendSums(b []byte, s *schemas.UsageSums) []byte { return schemas.AppendSumFields(b, s) }

// hourTime is an end of a report; zero when it is open.
func hourTime(hour int64, open bool) time.Time {
	if open {
		return time.Time{}
	}
	return time.Unix(hour*int64(time.Hour/time.Second), 0)
}

// appendTime writes an instant in UTC, null for the zero one.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, "null"...)
	}
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, time.RFC3339)
	return append(b, '"')
}
