package schemas

import (
	"strings"
	"testing"
)

func TestParseRunUsage(t *testing.T) {
	text := `[
		{"model":"gpt-4","input_tokens":10,"output_tokens":5},
		{"model":"gpt-4","input_tokens":1,"output_tokens":2,"total_tokens":9,"cost":0.25,"timestamp":"2026-03-01T12:00:00Z","agent_name":"Writer",
		 "event_id":"mine","app_id":"other","user_id":5,"tenant_id":[],"run_id":"r","chat_id":"c","metadata":{"b":1,"a":2}},
		{"model":"gpt-4","input_tokens":1},
		7,
		{"model":"gpt-4","input_tokens":1,"output_tokens":2,"total_tokens":2},
		{"model":"m","input_tokens":0,"output_tokens":0,"timestamp":null}
	]`
	events, rejected, err := ParseRunUsage([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != 3 || events[0].TotalTokens != 15 || events[0].Timestamp != 0 || events[0].Index != 0 || events[2].Index != 5 || events[2].Timestamp != 0 {
		t.Errorf("%+v", events)
	}
	e := events[1]
	if e.TotalTokens != 9 || e.Cost != 250_000_000 || e.AgentName != "Writer" || e.Timestamp == 0 || string(e.Metadata) != `{"a":2,"b":1}` {
		t.Errorf("%+v", e)
	}
	if e.EventID+e.AppID+e.UserID+e.TenantID+e.RunID+e.ChatID != "" {
		t.Errorf("ids and owner are the run's, not %+v", e)
	}
	var codes []string
	for _, r := range rejected {
		codes = append(codes, string(r.Code))
	}
	if got := strings.Join(codes, " "); got != "MISSING_FIELD NOT_AN_OBJECT TOTAL_BELOW_SUM" {
		t.Error(got)
	}
}

func TestParseRunUsageRefused(t *testing.T) {
	for text, want := range map[string]Code{
		`{"model":"m"}`: CodeValidation, `"x"`: CodeValidation, `[`: CodeInvalidJSON, ``: CodeInvalidJSON, `[] x`: CodeInvalidJSON,
		"[" + strings.Repeat("1,", MaxEventsPerBatch) + "1]": CodeTooManyEvents,
	} {
		events, rejected, err := ParseRunUsage([]byte(text))
		if err == nil || err.Code != want || events != nil || rejected != nil {
			t.Errorf("%.20s: %v, %d events, want %s", text, err, len(events), want)
		}
	}
	for _, text := range []string{"[]", " null "} {
		if events, rejected, err := ParseRunUsage([]byte(text)); err != nil || events != nil || rejected != nil {
			t.Errorf("%s: %v %v %v", text, events, rejected, err)
		}
	}
}

func TestRunUsageIDsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, run := range []string{"r", "r1", "é"} {
		for attempt := range int64(3) {
			for i := range 3 {
				id := RunUsageID(run, attempt, i)
				if seen[id] || len(id) > MaxIDChars {
					t.Errorf("%s of %s/%d/%d", id, run, attempt, i)
				}
				seen[id] = true
			}
		}
	}
}

func FuzzParseRunUsage(f *testing.F) {
	f.Add([]byte(`[{"model":"m","input_tokens":1,"output_tokens":2}]`))
	f.Add([]byte(`[{"model":"m","model":"n"},null,[[]],{"timestamp":null}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		events, _, err := ParseRunUsage(text)
		if err != nil && events != nil {
			t.Error("events beside an error")
		}
		for i := range events {
			if e := &events[i]; e.Model == "" || e.TotalTokens < e.InputTokens+e.OutputTokens || e.EventID != "" {
				t.Errorf("%+v", e)
			}
		}
	})
}
