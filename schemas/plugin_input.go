package schemas

import (
	"math"
	"strings"
	"unicode/utf8"
)

// PluginInput is the body of an execute request as read (contract §4).
type PluginInput struct {
	Data   []byte   // the client's object without the reserved keys
	Action string   // empty: none
	ChatID string   // empty: none
	DryRun bool     // nothing is to run
	Digest [16]byte // of what Data says, however it is written
}

// reservedKeys are what only grout tells a plugin, and what only grout is told.
var reservedKeys = map[string]bool{
	"app_id": true, "user_id": true, "user_jwt": true, "_context": true, "_entitlements": true, dryRunKey: true,
}

const dryRunKey = "_entitlement_dry_run"

// ParsePluginInput reads the body of an execute request. Data may be part of it. Reserved
// keys of the object are dropped, however they are spelled. Text that is no object is
// INVALID_JSON, a field that grout reads and cannot is VALIDATION_ERROR.
func ParsePluginInput(body []byte) (in PluginInput, err *Error) {
	v, err := readJSONValue(body)
	if err != nil && err.Code != CodeInvalidJSON {
		return in, err
	}
	if err != nil || v.is() != '{' {
		return in, Errorf(CodeInvalidJSON, "Invalid JSON payload")
	}
	r, root := fieldReader{}, (*fieldPath)(nil)
	reserved := false
	v.each(func(name string, value jsonValue) {
		reserved = reserved || reservedKeys[name]
		switch {
		case value.null():
		case name == "action" && value.is() == '"': // another value names no action
			in.Action = value.string().decoded()
		case name == "chat_id":
			r.text(root.under(name), value, &in.ChatID, 1, MaxIDChars)
		case name == dryRunKey:
			r.flag(root.under(name), value, &in.DryRun)
		}
	})
	if err := r.err(); err != nil {
		return PluginInput{}, err
	}
	text := v.text
	if reserved {
		text = withoutReserved(v)
	}
	form, _ := canonicalJSON(text, math.MaxInt)
	in.Data, in.Digest = []byte(text), digest16(form)
	return in, nil
}

// withoutReserved gives the object without the reserved keys, its values as they were
// written.
func withoutReserved(v jsonValue) string {
	b := append(make([]byte, 0, len(v.text)), '{')
	v.each(func(name string, value jsonValue) {
		if reservedKeys[name] {
			return
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(AppendJSONString(b, name), ':')
		b = append(b, value.text...)
	})
	return viewString(append(b, '}'))
}

// ActionName is what a body names as the action; text that is too long for a name is none.
func ActionName(text string) string {
	if len(text) > 4*MaxNameChars || utf8.RuneCountInString(text) > MaxNameChars {
		return ""
	}
	return strings.Clone(text)
}
