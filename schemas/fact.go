package schemas

import (
	"crypto/sha256"
	"encoding/base32"
	"net/url"
	"strconv"
	"time"
)

// Cause names the command that a fact follows from; facts of a whole group
// follow from the group (architecture §2.4).
type Cause struct {
	ID     string
	Source string
}

// FactHead holds the CloudEvents attributes of a fact.
type FactHead struct {
	Kind          string
	AppID         string
	ID            string
	Subject       string // the entity, e.g. batch/b1
	Time          int64  // nanoseconds since 1970 UTC: the instant of its command
	Sequence      uint64 // order of the app's facts, from 1
	ChatSequence  uint64 // see ChatSequenceAttribute; 0: the fact is about no chat
	Cause         Cause
	CorrelationID string
	TraceParent   string
}

var idEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// FactID derives the id of the n-th fact of a cause, the same in every replay.
func FactID(c Cause, n uint32) string {
	h := sha256.New()
	h.Write(appendText(nil, c.Source))
	h.Write([]byte(c.ID))
	sum := h.Sum(nil)
	return idEncoding.EncodeToString(sum[:16]) + "." + strconv.FormatUint(uint64(n), 10)
}

// AppSource is the CloudEvents source of what belongs to an app.
func AppSource(app, part string) string {
	return "//mozaiks.ai/app/" + url.PathEscape(app) + "/" + part
}

// AppendFact adds the structured CloudEvent of a fact whose data is written by
// data, which must add one JSON value.
func AppendFact(dst []byte, h *FactHead, data func([]byte) []byte) []byte {
	dst = append(dst, `{"specversion":"1.0","id":`...)
	dst = AppendJSONString(dst, h.ID)
	dst = append(dst, `,"source":`...)
	dst = AppendJSONString(dst, AppSource(h.AppID, "grout"))
	dst = append(dst, `,"type":`...)
	dst = AppendJSONString(dst, TypeOf(h.Kind))
	dst = append(dst, `,"subject":`...)
	dst = AppendJSONString(dst, h.Subject)
	dst = append(dst, `,"time":"`...)
	dst = AppendInstant(dst, h.Time)
	dst = append(dst, `","datacontenttype":"application/json","partitionkey":`...)
	dst = AppendJSONString(dst, h.AppID)
	dst = append(dst, `,"sequence":"`...)
	dst = append(dst, sequenceText(h.Sequence)...)
	dst = append(dst, '"')
	if h.ChatSequence != 0 {
		dst = append(dst, `,"`+ChatSequenceAttribute+`":"`...)
		dst = append(strconv.AppendUint(dst, h.ChatSequence, 10), '"')
	}
	for _, a := range [...]struct{ name, value string }{
		{"causationid", h.Cause.ID},
		{"causationsource", h.Cause.Source},
		{"correlationid", h.CorrelationID},
		{"traceparent", h.TraceParent},
	} {
		if a.value == "" {
			continue
		}
		dst = append(dst, ',', '"')
		dst = append(dst, a.name...)
		dst = append(dst, '"', ':')
		dst = AppendJSONString(dst, a.value)
	}
	dst = append(dst, `,"data":`...)
	dst = data(dst)
	return append(dst, '}')
}

// sequenceText pads to 20 digits, so that text order is number order.
func sequenceText(n uint64) string {
	s := strconv.FormatUint(n, 10)
	return "00000000000000000000"[len(s):] + s
}

// AppendInstant adds nanoseconds since 1970 as an RFC 3339 instant in UTC.
func AppendInstant(dst []byte, nanos int64) []byte {
	return time.Unix(0, nanos).UTC().AppendFormat(dst, time.RFC3339Nano)
}

// AppendJSONString adds s as a JSON string. s is valid UTF-8 wherever it came
// through this package's parsers.
func AppendJSONString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexUpper[c>>4], hexUpper[c&15])
		}
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

// AppendCost adds nano-units as an exact decimal number.
func AppendCost(dst []byte, nanos int64) []byte {
	n := uint64(nanos)
	if nanos < 0 {
		dst = append(dst, '-')
		n = -n // the smallest int64 has no positive counterpart of its own
	}
	return appendUnits(dst, n)
}
