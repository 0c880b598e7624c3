package schemas

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func TestDeadLettersAreCloudEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		l := DeadLetter{
			ID: FactID(Cause{"c", "s"}, 0), AppID: text.Draw(t, "app"), Kind: text.Draw(t, "kind"), Cause: Cause{text.Draw(t, "cause"), text.Draw(t, "source")},
			Code: CodePoison, Reason: text.Draw(t, "reason"), Attempts: rapid.IntRange(0, 9).Draw(t, "attempts"),
			Original: OriginalMessage{
				Subject: text.Draw(t, "subject"), Data: rapid.SliceOfN(rapid.Byte(), 0, 99).Draw(t, "data"),
				Headers:  rapid.MapOfN(text, rapid.SliceOfN(text, 0, 2), 0, 3).Draw(t, "headers"),
				Sequence: rapid.Uint64().Draw(t, "sequence"), Time: rapid.Int64().Draw(t, "stored"),
			},
		}
		at := rapid.Int64().Draw(t, "time")
		e := parseEvent(t, l.AppendJSON(nil, at))
		app := l.AppID
		if app == "" {
			app = "-"
		}
		extensions := map[string]any{"partitionkey": app}
		if l.Cause.ID != "" {
			extensions["causationid"] = l.Cause.ID
			extensions["causationsource"] = l.Cause.Source
		}
		if d := cmp.Diff(extensions, e.Extensions()); d != "" {
			t.Fatal(d)
		}
		if e.ID() != l.ID || e.Type() != "ai.mozaiks.dead_letter.v1" || e.Source() != AppSource(app, "grout") || e.Time().UnixNano() != at {
			t.Fatal(e)
		}
		var got DeadLetterData
		if err := json.Unmarshal(e.Data(), &got); err != nil {
			t.Fatal(err)
		}
		want := DeadLetterData{Code: l.Code, Reason: l.Reason, Attempts: l.Attempts, Original: DeadLetterOriginal{
			Subject: l.Original.Subject, Headers: l.Original.Headers, Sequence: l.Original.Sequence,
			DataBase64: base64.StdEncoding.EncodeToString(l.Original.Data),
			Time:       time.Unix(0, l.Original.Time).UTC().Format(time.RFC3339Nano),
		}}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}

func TestDeadLetterGolden(t *testing.T) {
	l := DeadLetter{
		ID: FactID(Cause{"c-1", "//mozaiks.ai/grout/http"}, 0), AppID: "app 1", Kind: "usage.ingest", Cause: Cause{"c-1", "//mozaiks.ai/grout/http"},
		CorrelationID: "corr-1", TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		Code: CodeUndecodable, Reason: "the payload of usage.ingest cannot be read", Attempts: 1,
		Original: OriginalMessage{
			Subject: "mozaiks.v1.grp.0", Headers: map[string][]string{"ce-id": {"g-1"}, "Nats-Schedule": {"<a>", "b"}}, Data: []byte("\x00original\xff"),
			Sequence: 42, Time: 1_774_000_000_000_000_000,
		},
	}
	golden(t, "dead_letter_v1.golden", append(l.AppendJSON(nil, 1_774_000_000_123_456_789), '\n'))
}

// The original goes whole into the letter, so the largest group decides.
func TestLargestDeadLetterFits(t *testing.T) {
	for _, c := range widestCharacters {
		id, long := strings.Repeat(c, MaxIDChars), strings.Repeat(c, 1024)
		l := DeadLetter{
			ID: FactID(Cause{}, 0), AppID: id, Kind: long, Cause: Cause{long, long}, CorrelationID: long, TraceParent: long, Code: CodeUndecodable, Reason: long, Attempts: 1,
			Original: OriginalMessage{Subject: long, Headers: map[string][]string{long: {long, long}}, Data: bytes.Repeat([]byte{0xff}, MaxGroupBytes)},
		}
		if n := len(l.AppendJSON(nil, 0)); n >= maxNATSPayload {
			t.Errorf("%d bytes", n)
		}
	}
}
