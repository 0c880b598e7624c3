package live

import (
	"strconv"
	"strings"
	"time"

	"grout/schemas"
)

const (
	// typeError answers a frame of a client that changes nothing.
	typeError = "stream.error"
	// typeSlow tells a client that it has read too slowly, and lost nothing.
	typeSlow = "stream.slow"
)

// appendEnvelope adds a frame as clients see it (contract §6).
func appendEnvelope(b []byte, f *Frame) []byte { return appendAs(b, f, f.Type, f.Data) }

// appendAs adds an envelope with the chat, number and instant of a frame.
func appendAs(b []byte, f *Frame, kind string, data []byte) []byte {
	b = schemas.AppendJSONString(append(b, `{"type":`...), kind)
	b = append(append(b, `,"data":`...), data...)
	if f.ChatID != "" {
		b = schemas.AppendJSONString(append(b, `,"chat_id":`...), f.ChatID)
	}
	if f.Sequence > 0 {
		b = strconv.AppendUint(append(b, `,"sequence":`...), f.Sequence, 10)
	}
	return append(schemas.AppendJSONString(append(b, `,"timestamp":`...), f.Timestamp), '}')
}

// mirror adds the AG-UI frame that follows an orchestration event, and gives its type; none
// when there is none. It has the number of its origin, and no place of its own.
func mirror(b []byte, f *Frame) (kind string, _ []byte) {
	if !strings.HasPrefix(f.Kind, "orchestration.") {
		return "", b
	}
	thread := f.ChatID
	if thread == "" {
		thread = f.RunID
	}
	kind, data, err := schemas.AppendAGUI(nil, thread, f.Data)
	if err != nil || kind == "" { // facts are grout's own, and one that cannot be read is shown as it is
		return "", b
	}
	return kind, appendAs(b, f, kind, data)
}

// errorFrame says why a client's frame changed nothing. last is the number of the last frame
// that the client was sent.
func errorFrame(chat string, last uint64, at time.Time, fault *schemas.Error) []byte {
	data := schemas.AppendJSONString([]byte(`{"code":`), string(fault.Code))
	data = append(schemas.AppendJSONString(append(data, `,"detail":`...), fault.Detail), '}')
	return appendAs(nil, &Frame{ChatID: chat, Sequence: last, Timestamp: instant(at)}, typeError, data)
}

// slowFrame says for how long nothing could be sent.
func slowFrame(chat string, last uint64, at time.Time, waited time.Duration) []byte {
	data := strconv.AppendInt([]byte(`{"waited_ms":`), waited.Milliseconds(), 10)
	return appendAs(nil, &Frame{ChatID: chat, Sequence: last, Timestamp: instant(at)}, typeSlow, append(data, '}'))
}

func instant(at time.Time) string { return schemas.InstantText(at.UnixNano()) }
