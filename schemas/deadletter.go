package schemas

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
)

// DeadLetter is a command that could not be read or applied, with the whole
// original (contract §8).
type DeadLetter struct {
	ID    string // of the letter
	AppID string // empty when it could not be read
	Kind  string // likewise
	Cause Cause
	// CorrelationID and TraceParent are those of the command, empty when unknown.
	CorrelationID, TraceParent string

	Code     Code
	Reason   string
	Attempts int
	Original OriginalMessage
}

// OriginalMessage is a message as its stream held it, or one command's frame of
// a group.
type OriginalMessage struct {
	Subject  string
	Headers  map[string][]string
	Data     []byte
	Sequence uint64
	Time     int64 // nanoseconds since 1970 UTC
}

// DeadLetterData is the data of ai.mozaiks.dead_letter.v1.
type DeadLetterData struct {
	Code     Code               `json:"code"`
	Reason   string             `json:"reason"`
	Attempts int                `json:"attempts"`
	Original DeadLetterOriginal `json:"original"`
}

// DeadLetterOriginal is the original inside a dead letter's data.
type DeadLetterOriginal struct {
	Subject    string              `json:"subject"`
	Headers    map[string][]string `json:"headers"`
	DataBase64 string              `json:"data_base64"`
	Sequence   uint64              `json:"sequence"`
	Time       string              `json:"time"`
}

// AppendJSON adds the structured CloudEvent of the letter.
func (l *DeadLetter) AppendJSON(dst []byte, time int64) []byte {
	valid := *l // what a damaged frame says may be no text at all
	l = &valid
	for _, s := range [...]*string{&l.ID, &l.AppID, &l.Kind, &l.Cause.ID, &l.Cause.Source, &l.CorrelationID, &l.TraceParent, &l.Reason, &l.Original.Subject} {
		*s = strings.ToValidUTF8(*s, "\uFFFD")
	}
	app := l.AppID
	if app == "" {
		app = "-"
	}
	dst = append(dst, `{"specversion":"1.0","id":`...)
	dst = AppendJSONString(dst, l.ID)
	dst = append(dst, `,"source":`...)
	dst = AppendJSONString(dst, AppSource(app, "grout"))
	dst = append(dst, `,"type":`...)
	dst = AppendJSONString(dst, TypeDeadLetter)
	dst = append(dst, `,"time":"`...)
	dst = AppendInstant(dst, time)
	dst = append(dst, `","datacontenttype":"application/json","partitionkey":`...)
	dst = AppendJSONString(dst, app)
	if l.Cause.ID != "" {
		dst = append(dst, `,"causationid":`...)
		dst = AppendJSONString(dst, l.Cause.ID)
		dst = append(dst, `,"causationsource":`...)
		dst = AppendJSONString(dst, l.Cause.Source)
	}
	dst = appendTextField(dst, `,"correlationid":`, l.CorrelationID)
	dst = appendTextField(dst, `,"traceparent":`, l.TraceParent)
	dst = append(dst, `,"data":{"code":`...)
	dst = AppendJSONString(dst, string(l.Code))
	dst = append(dst, `,"reason":`...)
	dst = AppendJSONString(dst, l.Reason)
	dst = append(dst, `,"attempts":`...)
	dst = strconv.AppendInt(dst, int64(l.Attempts), 10)
	dst = append(dst, `,"original":{"subject":`...)
	dst = AppendJSONString(dst, l.Original.Subject)
	dst = append(dst, `,"headers":`...)
	headers := l.Original.Headers
	if headers == nil {
		headers = map[string][]string{}
	}
	text, err := json.Marshal(headers) // keys sorted; strings always encode
	if err != nil {
		text = []byte("{}")
	}
	dst = append(dst, text...)
	dst = append(dst, `,"data_base64":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, l.Original.Data)
	dst = append(dst, `","sequence":`...)
	dst = strconv.AppendUint(dst, l.Original.Sequence, 10)
	dst = append(dst, `,"time":"`...)
	dst = AppendInstant(dst, l.Original.Time)
	return append(dst, `"}}}`...)
}

// AppendJSON adds the data of usage.rejected.
func (d *UsageRejectedData) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"app_id":`...)
	dst = AppendJSONString(dst, d.AppID)
	dst = append(dst, `,"count":`...)
	dst = strconv.AppendInt(dst, int64(d.Count), 10)
	dst = append(dst, `,"rejected":[`...)
	for i := range d.Rejected {
		r := &d.Rejected[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"batch_id":`...)
		dst = AppendJSONString(dst, r.BatchID)
		dst = append(dst, `,"index":`...)
		dst = strconv.AppendUint(dst, uint64(r.Index), 10)
		dst = appendTextField(dst, `,"event_id":`, r.EventID)
		dst = append(dst, `,"code":`...)
		dst = AppendJSONString(dst, string(r.Code))
		dst = append(dst, `,"detail":`...)
		dst = AppendJSONString(dst, r.Detail)
		dst = append(dst, '}')
	}
	return append(dst, ']', '}')
}
