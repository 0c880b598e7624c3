package integration

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Each kind of bad input has its own clear answer; nothing crashes, and the good
// neighbour counts (contract §1, §7).
func TestBadInput(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "data"), 4)
	now := time.Now().UTC().Format(time.RFC3339)
	good := func(id string) string {
		return fmt.Sprintf(`{"event_id":%q,"timestamp":"%s","app_id":"bad","user_id":"u","model":"m","input_tokens":1,"output_tokens":1}`, id, now)
	}
	with := func(old, text string) string { return strings.Replace(good("x"), old, text, 1) }
	deep := func(n int) string {
		return with(`"model"`, `"extra":`+strings.Repeat("[", n)+strings.Repeat("]", n)+`,"model"`)
	}
	id := func(n int) string { return strings.Repeat("é", n) }

	t.Run("whole requests", func(t *testing.T) {
		for _, c := range []struct {
			name, body string
			status     int
			code       string
		}{
			{"empty body", "", 400, "INVALID_JSON"},
			{"cut in the middle", `{"events":[` + good("x")[:50], 400, "INVALID_JSON"},
			{"NaN", `{"events":[` + with(`"input_tokens":1`, `"input_tokens":NaN`) + `]}`, 400, "INVALID_JSON"},
			{"Infinity", `{"events":[` + with(`"input_tokens":1`, `"input_tokens":-Infinity`) + `]}`, 400, "INVALID_JSON"},
			{"invalid UTF-8 outside the events", "{\"batch_id\":\"\xff\",\"events\":[]}", 400, "INVALID_JSON"},
			{"repeated key outside the events", `{"batch_id":"a","batch_id":"b","events":[]}`, 400, "INVALID_JSON"},
			{"trailing text", `{"events":[` + good("x") + `]} x`, 400, "INVALID_JSON"},
			{"a list", `[]`, 422, "VALIDATION_ERROR"},
			{"no events", `{}`, 422, "VALIDATION_ERROR"},
			{"empty batch", `{"events":[]}`, 422, "VALIDATION_ERROR"},
			{"batch id of 129 characters", `{"batch_id":"` + id(129) + `","events":[` + good("x") + `]}`, 422, "VALIDATION_ERROR"},
			{"20,001 events", `{"events":[0` + strings.Repeat(",0", 20_000) + `]}`, 413, "TOO_MANY_EVENTS"},
			{"16 MiB + 1", `{"events":[` + strings.Repeat(" ", 16<<20) + `]}`, 413, "PAYLOAD_TOO_LARGE"},
			{"16 million brackets", strings.Repeat("[", 16<<20), 422, "VALIDATION_ERROR"},
		} {
			t.Run(c.name, func(t *testing.T) {
				a := request(t, p, "POST", "/api/usage/ingest", c.body)
				var e struct {
					Detail string `json:"detail"`
					Code   string `json:"error_code"`
					Status int    `json:"status_code"`
				}
				a.want(t, c.status).into(t, &e)
				if e.Code != c.code || e.Status != c.status || e.Detail == "" {
					t.Errorf("%+v, want %s", e, c.code)
				}
			})
		}
	})

	t.Run("single events", func(t *testing.T) {
		for i, c := range []struct{ name, event, code string }{
			{"no object", `"text"`, "NOT_AN_OBJECT"},
			{"invalid UTF-8", with("\"u\"", "\"\xff\""), "INVALID_TEXT"},
			{"lone surrogate", with(`"u"`, `"\ud800"`), "INVALID_TEXT"},
			{"repeated key", with(`"model":"m"`, `"model":"m","model":"m"`), "REPEATED_KEY"},
			{"fraction", with(`"input_tokens":1`, `"input_tokens":5.0`), "INVALID_NUMBER"},
			{"exponent", with(`"input_tokens":1`, `"input_tokens":1e3`), "INVALID_NUMBER"},
			{"negative", with(`"input_tokens":1`, `"input_tokens":-1`), "OUT_OF_RANGE"},
			{"too many tokens", with(`"input_tokens":1`, `"input_tokens":1000000001`), "OUT_OF_RANGE"},
			{"text for a number", with(`"input_tokens":1`, `"input_tokens":"1"`), "INVALID_TYPE"},
			{"depth 65", deep(62), "TOO_DEEP"},
			{"id of 129 characters", with(`"x"`, `"`+id(129)+`"`), "INVALID_LENGTH"},
			{"model of 257 characters", with(`"m"`, `"`+id(257)+`"`), "INVALID_LENGTH"},
			{"no app", with(`"app_id":"bad",`, ``), "MISSING_FIELD"},
			{"timestamp without zone", with(now, strings.TrimSuffix(now, "Z")), "INVALID_TIMESTAMP"},
			{"35 days old", with(now, time.Now().UTC().AddDate(0, 0, -35).Format(time.RFC3339)), "TIMESTAMP_TOO_OLD"},
			{"25 hours ahead", with(now, time.Now().UTC().Add(25*time.Hour).Format(time.RFC3339)), "TIMESTAMP_IN_FUTURE"},
			{"total below the sum", with(`"input_tokens":1`, `"total_tokens":1,"input_tokens":1`), "TOTAL_BELOW_SUM"},
			{"metadata of 5 KiB", with(`"model"`, `"metadata":{"a":"`+strings.Repeat("x", 5<<10)+`"},"model"`), "METADATA_TOO_LARGE"},
		} {
			t.Run(c.name, func(t *testing.T) {
				var r result
				request(t, p, "POST", "/api/usage/ingest", `{"events":[`+c.event+`,`+good(fmt.Sprint("good-", i))+`]}`).want(t, 200).into(t, &r)
				if r.Accepted != 1 || r.Rejected != 1 || len(r.Errors) != 1 || r.Errors[0].Code != c.code || r.Errors[0].Index != 0 {
					t.Errorf("%+v, want %s and the neighbour counted", r, c.code)
				}
			})
		}
		for i, event := range []string{deep(61), with(`"x"`, `"`+id(128)+`"`), with(`"m"`, `"`+id(256)+`"`)} {
			event = strings.Replace(event, `"x"`, fmt.Sprintf(`"limit-%d"`, i), 1)
			var r result
			request(t, p, "POST", "/api/usage/ingest", `{"events":[`+event+`]}`).want(t, 200).into(t, &r)
			if r.Rejected != 0 {
				t.Errorf("at the limit (%d): %+v", i, r)
			}
		}
	})

	t.Run("one good and 999 bad events", func(t *testing.T) {
		list := make([]json.RawMessage, 1000)
		for i := range list {
			list[i] = json.RawMessage(`{"app_id":"bad"}`)
		}
		list[500] = json.RawMessage(good("the good one"))
		var r result
		request(t, p, "POST", "/api/usage/ingest", map[string]any{"events": list}).want(t, 200).into(t, &r)
		if r.Accepted != 1 || r.Rejected != 999 || len(r.Errors) != 999 {
			t.Errorf("accepted %d, rejected %d, %d errors", r.Accepted, r.Rejected, len(r.Errors))
		}
	})

	t.Run("conflict", func(t *testing.T) {
		request(t, p, "POST", "/api/usage/ingest", `{"events":[`+good("again")+`]}`).want(t, 200)
		var r result
		other := strings.Replace(good("again"), `"input_tokens":1`, `"input_tokens":2`, 1)
		request(t, p, "POST", "/api/usage/ingest", `{"events":[`+other+`,`+good("again")+`]}`).want(t, 200).into(t, &r)
		if r.Accepted != 0 || r.Duplicates != 1 || r.Rejected != 1 || r.Errors[0].Code != "conflict" {
			t.Errorf("%+v", r)
		}
	})

	t.Run("keys and media types", func(t *testing.T) {
		body := `{"events":[` + good("k") + `]}`
		request(t, p, "POST", "/api/usage/ingest", body, "X-Internal-API-Key", "").want(t, 401)
		request(t, p, "POST", "/api/usage/ingest", body, "X-Internal-API-Key", "wrong").want(t, 403)
		request(t, p, "POST", "/api/usage/ingest", body, "X-Internal-API-Key", "", "Authorization", "Bearer wrong").want(t, 401)
		request(t, p, "POST", "/api/usage/ingest", body, "Content-Type", "text/plain").want(t, 415)
		request(t, p, "GET", "/api/nothing", nil).want(t, 404)
		request(t, p, "DELETE", "/api/usage/ingest", nil).want(t, 405)
	})
	stop(t, p)
}
