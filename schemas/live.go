package schemas

import "strconv"

// What a client may send on a WebSocket (contract §6).
const LiveResume = "client.resume"

// Codes of the frame stream.error, which answers a frame that changes nothing.
const (
	CodeUnknownFrame  Code = "UNKNOWN_FRAME"
	CodeInvalidFrame  Code = "INVALID_FRAME"
	CodeSequenceAhead Code = "SEQUENCE_AHEAD"
)

// ParseLiveResume reads the frame of a client that asks for what follows a number of its
// chat. It is read like every other body: strictly, but for fields that it does not know.
func ParseLiveResume(frame []byte) (last uint64, fault *Error) {
	v, err := readJSONValue(frame)
	if err != nil {
		return 0, Errorf(CodeInvalidFrame, "The frame cannot be read: %s", err.Detail)
	}
	r, kind, number := fieldReader{}, "", jsonValue{}
	if !r.fields(nil, v, map[string]func(*fieldPath, jsonValue){
		"type":          func(at *fieldPath, v jsonValue) { r.text(at, v, &kind, 1, MaxNameChars) },
		"last_sequence": func(_ *fieldPath, v jsonValue) { number = v },
	}) || r.faults != nil || kind == "" {
		return 0, Errorf(CodeInvalidFrame, "A frame must be an object with a type")
	}
	if kind != LiveResume {
		return 0, Errorf(CodeUnknownFrame, "The frame %v is not known here; known is %s", shown(kind), LiveResume)
	}
	last, bad := strconv.ParseUint(number.text, 10, 63)
	if bad != nil || number.text[0] == '+' {
		return 0, Errorf(CodeInvalidFrame, "last_sequence must be a whole number from 0 to the chat's last one")
	}
	return last, nil
}
