package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// readCSV reads a whole source, or up to the first error.
func readCSV(text string, plan csvPlan) ([]row, error) {
	if plan.idPrefix == "" {
		plan.idPrefix = "test"
	}
	source, err := newCSVSource(strings.NewReader(text), plan)
	if err != nil {
		return nil, err
	}
	var rows []row
	for {
		r, err := source.next()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return rows, err
		}
		rows = append(rows, r)
	}
}

func values(kv ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

var whoAndWhat = values("user_id", "u", "model", "m")

func TestCSVForms(t *testing.T) {
	plain := "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16T18:17:04Z,3180,8\n"
	for name, text := range map[string]string{
		"plain":                     plain,
		"no newline at the end":     strings.TrimSuffix(plain, "\n"),
		"CRLF":                      strings.ReplaceAll(plain, "\n", "\r\n"),
		"CRLF, no newline":          strings.TrimSuffix(strings.ReplaceAll(plain, "\n", "\r\n"), "\r\n"),
		"byte order mark":           "\xef\xbb\xbf" + plain,
		"byte order mark and quote": "\xef\xbb\xbf\"TIMESTAMP\"" + strings.TrimPrefix(plain, "TIMESTAMP"),
		"quotes":                    strings.ReplaceAll(plain, "3180", `"3180"`),
		"blanks":                    strings.ReplaceAll(plain, ",", " , "),
		"empty lines":               strings.ReplaceAll(plain, "\n", "\n\n"),
	} {
		t.Run(name, func(t *testing.T) {
			rows, err := readCSV(text, csvPlan{constant: whoAndWhat, defaultApp: "a"})
			if err != nil || len(rows) != 2 {
				t.Fatalf("%d rows, %v", len(rows), err)
			}
			first, second := rows[0], rows[1]
			if e := first.event; e.EventID != "test-1" || e.AppID != "a" || e.UserID != "u" || e.Model != "m" || e.InputTokens != 4808 || e.OutputTokens != 10 {
				t.Errorf("first row: %+v", e)
			}
			if got := instant(first.at); got != "2023-11-16T18:17:03.97996Z" {
				t.Errorf("first instant: %s", got)
			}
			if second.event.EventID != "test-2" || second.event.InputTokens != 3180 {
				t.Errorf("second row: %+v", second.event)
			}
		})
	}
}

func TestAllFields(t *testing.T) {
	text := "Event_ID,timestamp,APP_ID,user_id,model,input_tokens,output_tokens,total_tokens,cached_tokens,reasoning_tokens,tenant_id,workflow_id,chat_id,run_id,agent_name,invocation_id,cached,cost,duration_sec,metadata,unused\n" +
		`e,1700000000,a,u,m,1,2,4,5,6,t,w,c,r,n,i,true,0.000000001,1.5,"{ ""k"": 1 }",x` + "\n" +
		"f,1700000000,a,u,m,1,2,,,,,,,,,,,,,,\n"
	rows, err := readCSV(text, csvPlan{})
	if err != nil || len(rows) != 2 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	e := rows[0].event
	if *e.TotalTokens != 4 || e.CachedTokens != 5 || e.ReasoningTokens != 6 || e.TenantID != "t" || e.WorkflowID != "w" || e.ChatID != "c" ||
		e.RunID != "r" || e.AgentName != "n" || e.InvocationID != "i" || !e.Cached || e.Cost != "0.000000001" || e.DurationSec != 1.5 || string(e.Metadata) != `{"k":1}` {
		t.Errorf("%+v", e)
	}
	if f := rows[1].event; f.TotalTokens != nil || f.Metadata != nil || f.EventID != "f" {
		t.Errorf("empty cells are not absent fields: %+v", f)
	}
}

func TestMapping(t *testing.T) {
	const head = "When,In,Out,who,model\n"
	const line = "1700000000,1,2,someone,from-file\n"
	mapped := values("timestamp", "When", "input_tokens", "in", "output_tokens", "Out")
	for _, tt := range []struct {
		name              string
		head              string
		columns, constant map[string]string
		fail              string
	}{
		{"named", head, mapped, values("user_id", "u"), ""},
		{"not found", head, values("timestamp", "Then"), nil, "no column Then"},
		{"nothing for a field", head, nil, nil, "no column for timestamp"},
		{"two of one kind", "timestamp,model,user,prompt_tokens,ContextTokens,output_tokens\n", nil, nil, "columns prompt_tokens and ContextTokens"},
		{"the exact name goes before others", "timestamp,model,user,input_tokens,ContextTokens,output_tokens\n", nil, nil, ""},
		{"a value that cannot be", head, mapped, values("user_id", strings.Repeat("u", 129)), "at most 128"},
		{"an empty value", head, mapped, values("user_id", ""), "empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rows, err := readCSV(tt.head, csvPlan{columns: tt.columns, constant: tt.constant, defaultApp: "a"})
			if tt.fail == "" && err != nil || tt.fail != "" && (err == nil || !strings.Contains(err.Error(), tt.fail)) {
				t.Errorf("%d rows, error %v, want %q", len(rows), err, tt.fail)
			}
		})
	}
	rows, err := readCSV(head+line, csvPlan{columns: mapped, constant: values("user_id", "u", "model", "given"), defaultApp: "a"})
	if err != nil || rows[0].event.InputTokens != 1 || rows[0].event.Model != "given" {
		t.Errorf("%+v, %v", rows, err)
	}
	if _, err := readCSV("", csvPlan{}); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("an empty file: %v", err)
	}
}

func TestBadRows(t *testing.T) {
	const head = "timestamp,input_tokens,output_tokens\n1700000000,1,2\n"
	for text, want := range map[string]string{
		"1700000000,x,2\n":                     `line 3, column input_tokens: "x" is not a whole number`,
		"1700000000,-1,2\n":                    "line 3, column input_tokens",
		"1700000000,1000000001,2\n":            "0 to 1000000000",
		"1700000000,1.0,2\n":                   "line 3, column input_tokens",
		"1700000000,,2\n":                      "is empty, but input_tokens is required",
		"yesterday,1,2\n":                      "line 3, column timestamp",
		"3000-01-01T00:00:00Z,1,2\n":           "between the years",
		"1700000000,1\n":                       "line 3: wrong number of fields",
		"1700000000,1,2,3\n":                   "line 3: wrong number of fields",
		"1700000000,\"1,2\n":                   "line 3: ",
		"\n\"1700000000\n\",1,2\n1700,1,\"x\n": "line 6: ",
	} {
		rows, err := readCSV(head+text, csvPlan{constant: whoAndWhat, defaultApp: "a"})
		bad := (*badRow)(nil)
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if want != "line 6: " && len(rows) != 1 {
			t.Errorf("%q: %d rows before it", text, len(rows))
		}
	}
}

// The numbers in ids count records, so a bad row takes one whether it is
// skipped now or corrected later.
func TestBadRowsKeepTheirNumber(t *testing.T) {
	source, err := newCSVSource(strings.NewReader("timestamp,input_tokens,output_tokens\n1,x,2\n1\n1,1,2\n"), csvPlan{constant: whoAndWhat, defaultApp: "a", idPrefix: "p"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := source.next(); err == nil {
			t.Fatal("a bad row was accepted")
		}
	}
	if r, err := source.next(); err != nil || r.event.EventID != "p-3" || r.line != 4 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestInstants(t *testing.T) {
	for in, want := range map[string]string{
		"2023-11-16T18:17:03Z":             "2023-11-16T18:17:03Z",
		"2023-11-16T18:17:03.5+02:00":      "2023-11-16T16:17:03.5Z",
		"2023-11-16 18:17:03.9799600":      "2023-11-16T18:17:03.97996Z",
		"2023-11-16 18:17:03":              "2023-11-16T18:17:03Z",
		"2024-05-10 00:00:00.009930+00:00": "2024-05-10T00:00:00.00993Z",
		"2023-11-16T18:17:03":              "2023-11-16T18:17:03Z",
		"1700000000":                       "2023-11-14T22:13:20Z",
		"1700000000.25":                    "2023-11-14T22:13:20.25Z",
		"1700000000123":                    "2023-11-14T22:13:20.123Z",
	} {
		got, err := parseInstant(in)
		if err != nil || instant(got) != want || got.Location() != time.UTC {
			t.Errorf("parseInstant(%q) = %s, %v; want %s", in, instant(got), err, want)
		}
	}
	for _, in := range []string{"", "now", "2023-11-16", "-1", "17000000001234567", "1.0000000000", "1.x", "1700000000123.5", "1e9"} {
		if got, err := parseInstant(in); err == nil {
			t.Errorf("parseInstant(%q) = %s, want an error", in, got)
		}
	}
}

// trace finds the real trace, which lies beside the project.
func trace(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../../shared/data/azure_llm_2023_code.csv")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the trace is missing: %v", err)
		}
		t.Skipf("SKIPPED, the trace is missing: %v", err)
	}
	return path
}

func TestRealTrace(t *testing.T) {
	text, err := os.ReadFile(trace(t))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := readCSV(string(text), csvPlan{constant: whoAndWhat, defaultApp: "a"})
	if err != nil {
		t.Fatal(err)
	}
	var input, output, bytes int64
	ids := map[string]bool{}
	for _, r := range rows {
		input += r.event.InputTokens
		output += r.event.OutputTokens
		bytes += r.bytes
		ids[r.event.EventID] = true
	}
	if len(rows) != 8_819 || len(ids) != 8_819 || input != 18_059_974 || output != 245_896 {
		t.Errorf("%d rows, %d ids, %d input, %d output", len(rows), len(ids), input, output)
	}
	if header := int64(len("TIMESTAMP,ContextTokens,GeneratedTokens\r\n")); bytes != int64(len(text))-header && bytes != int64(len(text)) {
		t.Errorf("rows account for %d of %d bytes", bytes, len(text))
	}
}
