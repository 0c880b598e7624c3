package schemas

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// The payloads of what grout writes itself, as they are stored.
func TestOwnPayloads(t *testing.T) {
	type payload interface {
		EncodePayload([]byte) []byte
		DecodePayload([]byte) error
	}
	for _, c := range []struct {
		golden   string
		in, read payload
	}{
		{"clock_set_payload_v1.golden", &ClockChange{To: 1_774_000_000_123_456_789}, &ClockChange{}},
		{"clock_tick_payload_v1.golden", &Tick{}, &Tick{}},
		{"segment_expire_payload_v1.golden", &SegmentExpiry{Before: -1_774_000_000}, &SegmentExpiry{}},
		{"delivery_mark_payload_v1.golden", &DeliveryMark{DeliverySet, DeliveryStand{
			Name: "webhook.crm", Source: DeliverFacts, Seq: 70_000, Index: 3, Stream: 1_774_000_000_123_456_789, Delivered: 900, Refused: 2,
			Stopped: "410 Gone", StoppedAt: 1_774_000_001_000_000_000, Gaps: 1, Gap: DeliveryGap{From: 10, To: 20, At: -5, Until: 7},
		}}, &DeliveryMark{}},
		{"letter_file_payload_v1.golden", &LetterFiling{
			Kind: "usage.void", Code: CodeAppMismatch, Reason: "größe", Cause: Cause{ID: "c-1", Source: "//crm"},
			Original: OriginalMessage{
				Subject: "mozaiks.v1.in.platform.0.app%2E1.usage.void", Sequence: 70_000, Time: 1_774_000_000_123_456_789,
				Headers: map[string][]string{"ce-id": {"c-1"}, "X": {"1", "2"}}, Data: []byte("{\x00"),
			},
		}, &LetterFiling{}},
		{"command_refuse_payload_v1.golden", &CommandRefusal{
			Kind: "plugin.execute", Digest: [16]byte{1, 15: 2}, Code: CodeNotFound, Detail: "Plugin 'x' not found or disabled", Subject: "run/r-1",
		}, &CommandRefusal{}},
		{"config_set_payload_v1.golden", NewConfigChange("plugins.demo-1_x", []byte(`{"a":[1,2]}`)), &ConfigChange{}},
	} {
		b := c.in.EncodePayload(nil)
		goldenBytes(t, c.golden, b)
		if err := c.read.DecodePayload(b); err != nil || !reflect.DeepEqual(c.in, c.read) {
			t.Errorf("%s: %+v, %v", c.golden, c.read, err)
		}
		for n := range b {
			if c.read.DecodePayload(b[:n]) == nil {
				t.Errorf("%s: %d of %d bytes are a payload", c.golden, n, len(b))
			}
		}
		if c.read.DecodePayload(append(b, 0)) == nil {
			t.Errorf("%s: a byte too many is taken", c.golden)
		}
		b[0]++
		if c.read.DecodePayload(b) == nil {
			t.Errorf("%s: an unknown form is taken", c.golden)
		}
	}
}

func TestConfigChanges(t *testing.T) {
	for _, c := range []struct {
		name, content string
		fine          bool
	}{
		{"rules", `{"version":1}`, true},
		{"a", `null`, true},
		{strings.Repeat("x", MaxConfigName), `"` + strings.Repeat("y", MaxConfigBytes-2) + `"`, true},
		{"", `{}`, false},
		{"Rules", `{}`, false},
		{"ru les", `{}`, false},
		{"rülés", `{}`, false},
		{strings.Repeat("x", MaxConfigName+1), `{}`, false},
		{"rules", ``, false},
		{"rules", `{`, false},
		{"rules", `{} {}`, false},
		{"rules", `"` + strings.Repeat("y", MaxConfigBytes-1) + `"`, false},
	} {
		change := NewConfigChange(c.name, []byte(c.content))
		var read ConfigChange
		err := read.DecodePayload(change.EncodePayload(nil))
		if (err == nil) != c.fine {
			t.Errorf("%.20s %.20s: %v", c.name, c.content, err)
		}
		if known := (*Error)(nil); err != nil && (!errors.As(err, &known) || known.Code != CodeValidation) {
			t.Errorf("%.20s %.20s: %v", c.name, c.content, err)
		}
	}
	forged := NewConfigChange("rules", []byte(`{"version":1}`))
	forged.Content = []byte(`{"version":2}`)
	if forged.Validate() == nil {
		t.Error("a content that is not the digest's is taken")
	}
}

func TestRules(t *testing.T) {
	r, err := ParseRules(Rules{Version: 7}.Change().Content)
	if err != nil || r.Version != 7 {
		t.Errorf("%+v %v", r, err)
	}
	for _, text := range []string{`{}`, `{"version":0}`, `[]`, `{"version":"1"}`} {
		if _, err := ParseRules(json.RawMessage(text)); err == nil {
			t.Errorf("%s names a version", text)
		}
	}
}
