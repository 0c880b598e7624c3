package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestWhen(t *testing.T) {
	now := time.Date(2026, 1, 31, 15, 20, 0, 0, time.FixedZone("", 3600))
	for text, want := range map[string]string{
		"now": "2026-01-31T14:20:00Z relative", "today": "2026-01-31T00:00:00Z", "yesterday": "2026-01-30T00:00:00Z",
		"-90m": "2026-01-31T12:50:00Z relative", "-24h": "2026-01-30T14:20:00Z relative", "-7d": "2026-01-24T14:20:00Z relative", "-2w": "2026-01-17T14:20:00Z relative",
		"2026-01-05": "2026-01-05T00:00:00Z", "2026-01-05T10:00:00+02:00": "2026-01-05T08:00:00Z",
		"-": "", "24h": "", "-1y": "", "-99999999999999999999h": "", "-9999999d": "", "tomorrow": "", "": "", "2026-13-01": "", "2026-01-05T10:00:00": "",
	} {
		at, err := parseWhen(text, now)
		got := instant(at.Time)
		if at.relative {
			got += " relative"
		}
		if (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("%q is %s, %v; want %s", text, got, err, want)
		}
	}
}

// reports answers every usage query with one text and keeps the queries.
type reports struct {
	*httptest.Server
	queries []url.Values
	text    string
	status  int
}

func newReports(t *testing.T, text string) *reports {
	r := &reports{text: text, status: 200}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("X-Internal-API-Key") != "the-internal-key" || req.URL.Path != "/api/usage" {
			problem(w, 403, "FORBIDDEN", "no")
			return
		}
		r.queries = append(r.queries, req.URL.Query())
		w.WriteHeader(r.status)
		fmt.Fprint(w, r.text)
	}))
	t.Cleanup(r.Close)
	return r
}

func sums(events, in, out int) string {
	return fmt.Sprintf(`"events":%d,"input_tokens":%d,"output_tokens":%d,"total_tokens":%d,"cached_tokens":0,"reasoning_tokens":7,"cost":0.125`, events, in, out, in+out)
}

func TestUsageTable(t *testing.T) {
	clean(t)
	t.Setenv("INTERNAL_API_KEY", "the-internal-key")
	s := newReports(t, `{"app_id":"shop\u001b[31m","from":null,"to":null,"window":"day","rows":[`+
		`{"window_start":"2026-01-30T00:00:00Z","window_end":"2026-01-31T00:00:00Z","user_id":"ann","model":null,`+sums(1500, 20000, 3)+`},`+
		`{"window_start":"2026-01-31T00:00:00Z","window_end":"2026-02-01T00:00:00Z","user_id":"ben\n","model":"m",`+sums(1, 1, 1)+`}],"totals":{`+sums(1501, 20001, 4)+`}}`)
	code, stdout, stderr := grout(t, "usage", "--url", s.URL, "--group-by", "user_id,model", "--window", "day",
		"--app", "shop", "--user", "u", "--tenant", "t", "--model", "m", "--workflow", "w", "--from", "2026-01-30", "--to", "2026-01-31T05:00:00Z")
	want := "app shop\ufffd[31m, times in UTC\n\n" +
		"day         user_id  model  events   input  output   total  reasoning   cost\n" +
		"2026-01-30  ann      -       1,500  20,000       3  20,003          7  0.125\n" +
		"2026-01-31  ben\ufffd     m           1       1       1       2          7  0.125\n" +
		"total                        1,501  20,001       4  20,005          7  0.125\n"
	if code != 0 || stdout != want {
		t.Errorf("exit %d, %s\n%s\nwant\n%s", code, stderr, stdout, want)
	}
	q := "app_id=shop&from=2026-01-30T00%3A00%3A00Z&group_by=user_id%2Cmodel&model=m&tenant_id=t&to=2026-01-31T05%3A00%3A00Z&user_id=u&window=day&workflow_id=w"
	if got := s.queries[0].Encode(); got != q {
		t.Errorf("asked for %s, want %s", got, q)
	}
}

func TestUsagePassesThrough(t *testing.T) {
	clean(t)
	t.Setenv("INTERNAL_API_KEY", "the-internal-key")
	t.Setenv("MOZAIKS_APP_ID", "own")
	s := newReports(t, "as,it\r\nis,1\r\n")
	if _, stdout, _ := grout(t, "usage", "--url", s.URL, "-o", "csv"); stdout != s.text {
		t.Errorf("csv is %q", stdout)
	}
	if _, stdout, _ := grout(t, "usage", "--url", s.URL, "-o", "json", "--from", "-24h"); stdout != s.text+"\n" {
		t.Errorf("json is %q", stdout)
	}
	if q := s.queries[0]; q.Get("format") != "csv" || q.Get("app_id") != "own" || q.Get("window") != "none" || q.Has("from") {
		t.Errorf("asked for %v", q)
	}
	if from, err := time.Parse(time.RFC3339, s.queries[1].Get("from")); err != nil || from.Minute() != 0 || time.Since(from) < 24*time.Hour || time.Since(from) > 25*time.Hour {
		t.Errorf("-24h is %s", s.queries[1].Get("from"))
	}
}

func TestUsageChart(t *testing.T) {
	clean(t)
	t.Setenv("INTERNAL_API_KEY", "the-internal-key")
	t.Setenv("COLUMNS", "40")
	s := newReports(t, `{"app_id":"a","window":"hour","rows":[`+
		`{"window_start":"2026-01-30T10:00:00Z",`+sums(1, 1000, 0)+`},{"window_start":"2026-01-30T13:00:00Z",`+sums(1, 1, 0)+`}],"totals":{`+sums(2, 1001, 0)+`}}`)
	code, stdout, stderr := grout(t, "usage", "--url", s.URL, "--chart", "--from", "-24h")
	want := "total tokens of app a, 1,001 in all, times in UTC\n\n" +
		"2026-01-30 10:00 1,000 ████████████████\n" +
		"2026-01-30 11:00     0\n" +
		"2026-01-30 12:00     0\n" +
		"2026-01-30 13:00     1 ▏\n"
	if code != 0 || stdout != want {
		t.Errorf("exit %d, %s\n%s\nwant\n%s", code, stderr, stdout, want)
	}
	if s.queries[0].Get("window") != "hour" {
		t.Errorf("asked for %v", s.queries[0])
	}
	s.text = `{"app_id":"a","window":"none","rows":[{"window_start":null,"user_id":"ann","model":"m",` + sums(4, 1, 0) + `}],"totals":{` + sums(4, 1, 0) + `}}`
	_, stdout, _ = grout(t, "usage", "--url", s.URL, "--chart", "--group-by", "user_id,model", "--measure", "cost")
	if !strings.Contains(stdout, "cost of app a, 0.125 in all") || !strings.Contains(stdout, "\nann  m 0.125 ████") {
		t.Error(stdout)
	}
	if strings.Contains(stdout, "\x1b") {
		t.Error("colours where there is no terminal")
	}
}

func TestUsageFaults(t *testing.T) {
	clean(t)
	t.Setenv("INTERNAL_API_KEY", "the-internal-key")
	s := newReports(t, `{"detail":"from must be on the hour (UTC)","error_code":"WINDOW_ALIGNMENT","status_code":422}`)
	s.status = 422
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--from", "2026-01-30T10:30:00Z"}, 1, "from must be on the hour (UTC) (WINDOW_ALIGNMENT)"},
		{[]string{"--from", "lately"}, 2, "--from"},
		{[]string{"--to", ""}, 2, "--to is empty"},
		{[]string{"--window", "week"}, 2, "none, hour, day, month"},
		{[]string{"--chart", "-o", "csv"}, 2, "--chart"},
		{[]string{"--measure", "users"}, 2, "choices"},
		{[]string{"extra"}, 2, "extra"},
	} {
		code, stdout, stderr := grout(t, append([]string{"usage", "--url", s.URL}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.want) || stdout != "" {
			t.Errorf("%q: exit %d, %q %q", c.args, code, stdout, stderr)
		}
	}
	s.status, s.text = 200, "<html>"
	if code, _, stderr := grout(t, "usage", "--url", s.URL); code != 1 || !strings.Contains(stderr, "not grout's") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

func TestBars(t *testing.T) {
	bars := []bar{{"a", 100, "100"}, {strings.Repeat("é", 50), 50, "50"}, {"none", 0, "0"}}
	got := renderBars(bars, 80, "<", ">")
	for line := range strings.Lines(got) {
		if n := len([]rune(strings.Trim(line, "\n"))); n > 80+len("<>") {
			t.Errorf("%d characters: %s", n, line)
		}
	}
	lines := strings.Split(got, "\n")
	if !strings.Contains(lines[0], " 100 <█") || !strings.Contains(lines[1], "…  50 <█") || strings.Contains(lines[2], "<") {
		t.Error(got)
	}
	if n := strings.Count(renderBars([]bar{{"x", 1, "1"}}, 1, "", ""), "█"); n != leastBar {
		t.Errorf("a bar on a narrow terminal has %d characters", n)
	}
}
