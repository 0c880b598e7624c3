package integration

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"grout/integration/process"
)

// letter is a dead letter as the API tells it.
type letter struct {
	ID, Status, Code, Reason string
	App                      *string `json:"app_id"`
	Kind                     *string
	Attempts                 int64
	Subject                  string
	Original                 *struct {
		Headers map[string][]string
		Data    string `json:"data_base64"`
	}
}

type letterPage struct {
	Letters []letter `json:"dead_letters"`
	Next    *string  `json:"next_cursor"`
}

func letters(t testing.TB, p *process.Process, query string) (list []letter) {
	t.Helper()
	for cursor := ""; ; {
		var page letterPage
		request(t, p, "GET", "/api/dlq?limit=2"+query+cursor, nil).want(t, 200).into(t, &page)
		list = append(list, page.Letters...)
		if page.Next == nil {
			return list
		}
		cursor = "&cursor=" + *page.Next
	}
}

// TestDeadLetters: messages that are no commands are filed with all their bytes and
// headers, are found by filters, cannot be sent again, and are dropped for good: also by a
// grout that was killed.
func TestDeadLetters(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		data := filepath.Join(t.TempDir(), "data")
		p := start(t, data, partitions)
		binary := []byte("\x00\xff not JSON \xc3\x28")
		var sent []*nats.Msg
		for i := range 5 {
			app := fmt.Sprintf("app-%d", i%2)
			m := &nats.Msg{Subject: "mozaiks.v1.cmd." + app + ".usage.void", Data: append(slices.Clone(binary), byte(i)), Header: nats.Header{"X-Test": {"a", "b"}}}
			if i == 4 {
				m.Subject = "mozaiks.v1.cmd." + app + ".no.such"
			}
			sent = append(sent, m)
		}
		js := publisher(t, p)
		for _, m := range sent {
			publish(t, js, m)
		}
		waitFor(t, func() bool { return len(letters(t, p, "")) == len(sent) })
		for query, n := range map[string]int{
			"&app_id=app-0": 3, "&app_id=app-1": 2, "&kind=usage.void": 4, "&code=INVALID_JSON": 4, "&code=UNKNOWN_KIND": 1, "&status=dropped": 0,
			"&status=all": 5, "&since=2100-01-01T00:00:00Z": 0, "&before=2100-01-01T00:00:00Z": 5, "&app_id=app-0&kind=usage.void": 2, "&app_id=nobody": 0,
		} {
			if list := letters(t, p, query); len(list) != n {
				t.Errorf("%s: %d letters, want %d", query, len(list), n)
			}
		}
		letterIsWhole(t, p, letters(t, p, ""), sent)
		lettersCounted(t, p, 5)

		id := letters(t, p, "&kind=usage.void")[0].ID
		request(t, p, "POST", "/api/dlq/"+id+"/retry", nil).want(t, 409)
		request(t, p, "DELETE", "/api/dlq/"+id, nil).want(t, 200)
		p.Kill()
		p = start(t, data, partitions)
		var l letter
		request(t, p, "GET", "/api/dlq/"+id, nil).want(t, 200).into(t, &l)
		if l.Status != "dropped" || len(letters(t, p, "")) != 4 {
			t.Errorf("after a kill it is %s, and %d wait", l.Status, len(letters(t, p, "")))
		}
		request(t, p, "DELETE", "/api/dlq/"+id, nil).want(t, 200)
		request(t, p, "POST", "/api/dlq/"+id+"/retry", nil).want(t, 409)
		lettersCounted(t, p, 4)
		lettersRefused(t, p)
		lettersOnTheCommandLine(t, p, data)
		lettersCounted(t, p, 0)
		stop(t, p)
	})
}

func letterIsWhole(t *testing.T, p *process.Process, list []letter, sent []*nats.Msg) {
	t.Helper()
	for _, l := range list {
		var whole letter
		request(t, p, "GET", "/api/dlq/"+l.ID, nil).want(t, 200).into(t, &whole)
		if whole.Original == nil {
			t.Fatalf("%+v has no original", whole)
		}
		data, err := base64.StdEncoding.DecodeString(whole.Original.Data)
		known := slices.ContainsFunc(sent, func(m *nats.Msg) bool { return bytes.Equal(m.Data, data) })
		if err != nil || !known || !slices.Equal(whole.Original.Headers["X-Test"], []string{"a", "b"}) {
			t.Errorf("the original is %q with %v (%v)", data, whole.Original.Headers, err)
		}
	}
}

func lettersCounted(t *testing.T, p *process.Process, n int) {
	t.Helper()
	var ready struct {
		Letters int `json:"dead_letters"`
	}
	request(t, p, "GET", "/ready", nil).want(t, 200).into(t, &ready)
	sum := 0
	for line := range strings.Lines(string(request(t, p, "GET", "/metrics", nil).body)) {
		if rest, ok := strings.CutPrefix(line, "grout_dead_letters{"); ok {
			one := 0
			_, value, _ := strings.Cut(rest, "} ")
			fmt.Sscan(value, &one)
			sum += one
		}
	}
	if ready.Letters != n || sum != n {
		t.Errorf("/ready tells of %d dead letters, the metrics of %d, want %d", ready.Letters, sum, n)
	}
}

func lettersRefused(t *testing.T, p *process.Process) {
	t.Helper()
	for path, status := range map[string]int{
		"/api/dlq?status=gone": 422, "/api/dlq?cursor=x": 422, "/api/dlq?cursor=0.-1.2": 422, "/api/dlq?limit=0": 422, "/api/dlq?nothing=1": 422,
		"/api/dlq?since=yesterday": 422, "/api/dlq/nobody": 404, "/api/dlq/" + strings.Repeat("x", 129): 422, "/api/dlq/a%2Fb": 404,
	} {
		request(t, p, "GET", path, nil).want(t, status)
	}
	request(t, p, "POST", "/api/dlq/nobody/retry", nil).want(t, 404)
	request(t, p, "DELETE", "/api/dlq/nobody", nil).want(t, 404)
	request(t, p, "GET", "/api/dlq", nil, "X-Internal-API-Key", "").want(t, 401)
	request(t, p, "DELETE", "/api/dlq/nobody", nil, "X-Internal-API-Key", "wrong").want(t, 403)
	if a := request(t, p, "PUT", "/api/dlq/nobody", nil); a.status != http.StatusMethodNotAllowed {
		t.Errorf("PUT: %d", a.status)
	}
}

func lettersOnTheCommandLine(t *testing.T, p *process.Process, data string) {
	t.Helper()
	run := func(args ...string) (string, error) {
		cmd := exec.Command(grout, append([]string{"dlq"}, append(args, "--url", p.URL)...)...)
		cmd.Env = append(os.Environ(), "INTERNAL_API_KEY="+process.InternalKey, "MOZAIKS_DATA_DIR="+data)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run("list", "-o", "json", "--kind", "usage.void")
	var page letterPage
	if err != nil || json.Unmarshal([]byte(out), &page) != nil || len(page.Letters) != 3 {
		t.Fatalf("list: %v %s", err, out)
	}
	id := page.Letters[0].ID
	for want, args := range map[string][]string{
		"UNKNOWN_KIND":        {"list"},
		"header        X-Tes": {"show", id},
		"not JSON":            {"show", id, "--raw"},
		"no dead letter":      {"list", "--app", "nobody"},
		"waiting":             {"list", "--status", "all"},
	} {
		if out, err := run(args...); err != nil || !strings.Contains(out, want) {
			t.Errorf("%q: %v, no %q in\n%s", args, err, want, out)
		}
	}
	for want, args := range map[string][]string{
		"NOT_RETRYABLE":  {"retry", id},
		"NOT_FOUND":      {"drop", "nobody"},
		"go with --all":  {"drop", id, "--kind", "usage.void"},
		"choose them":    {"drop"},
		"letters go on":  {"retry", "--all"},
		"--since":        {"list", "--since", "someday"},
		"status must be": {"list", "--status", "gone"},
	} {
		if out, err := run(args...); err == nil || !strings.Contains(out, want) {
			t.Errorf("%q: %v, no %q in\n%s", args, err, want, out)
		}
	}
	if out, err := run("drop", id); err != nil || !strings.Contains(out, "dropped") {
		t.Errorf("drop: %v %s", err, out)
	}
	if out, err := run("drop", "--all", "--before", "1h"); err == nil {
		t.Errorf("drop with a time that is none: %s", out)
	}
	if out, err := run("drop", "--all"); err != nil || strings.Count(out, "dropped") != 3 {
		t.Errorf("drop --all: %v %s", err, out)
	}
}
