package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

// readJSONFile reads all events of a text; faults are listed as texts.
func readJSONFile(text, format string, plan csvPlan) (rows []row, bad []string, err error) {
	s, err := newSource(strings.NewReader(text), format, plan)
	if err != nil {
		return nil, nil, err
	}
	for {
		r, err := s.next()
		fault := (*badRow)(nil)
		switch {
		case errors.Is(err, io.EOF):
			return rows, bad, nil
		case errors.As(err, &fault):
			bad = append(bad, fault.Error())
		case err != nil:
			return rows, bad, err
		default:
			rows = append(rows, r)
		}
	}
}

func jsonEvent(id string, more string) string {
	return fmt.Sprintf(`{"event_id":%q,"timestamp":"2026-01-26T15:30:00Z","app_id":"a","user_id":"u","model":"m","input_tokens":1,"output_tokens":2%s}`, id, more)
}

func TestNDJSON(t *testing.T) {
	plan := csvPlan{idPrefix: "f", defaultApp: "dev"}
	text := "\xef\xbb\xbf" + jsonEvent("e1", "") + "\r\n\n" +
		`{"Time":1769441400,"User":"ann","modelName":"m","ContextTokens":"7","GeneratedTokens":3,"cost":0.25,"metadata":{"k": [1]},"cached":true}` + "\n" +
		"broken\n[]\nnull\n" +
		jsonEvent("e2", `,"model":"x"`) + "\n" +
		jsonEvent("e3", `,"cost":-1e999,"unknown":{"a":null},"chat_id":null`) + "\n" +
		`{"user_id":""}` + "\n" + strings.Repeat(" ", 2*maxLine) + "\n" + strings.Repeat("x", 2*maxLine) + "\n" + jsonEvent("e4", "")
	rows, bad, err := readJSONFile(text, formatNDJSON, plan)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i := range rows {
		ids = append(ids, fmt.Sprintf("%s@%d", rows[i].event.EventID, rows[i].line))
	}
	if want := []string{"e1@1", "f-3@3", "e3@8", "e4@12"}; !slices.Equal(ids, want) {
		t.Errorf("events %v, want %v", ids, want)
	}
	if e := rows[1].event; e.AppID != "dev" || e.UserID != "ann" || e.InputTokens != 7 || e.OutputTokens != 3 || e.Cost != "0.25" || !e.Cached || string(e.Metadata) != `{"k":[1]}` || rows[1].at.Unix() != 1769441400 {
		t.Errorf("%+v at %s", e, rows[1].at)
	}
	for i, want := range []string{"line 4: is no JSON object", "line 5: is no JSON object", "line 6: is null", "line 7: is no JSON object", "line 9, key user_id: is empty", "line 10: is longer", "line 11: is longer"} {
		if i >= len(bad) || !strings.HasPrefix(bad[i], want) {
			t.Fatalf("faults %q, want %q at %d", bad, want, i)
		}
	}
	sum := int64(0)
	for i := range rows {
		sum += rows[i].bytes
	}
	if sum == 0 || sum > int64(len(text)) {
		t.Errorf("%d of %d bytes were read", sum, len(text))
	}
}

func TestJSONFiles(t *testing.T) {
	list := "[" + jsonEvent("e1", "") + ",\n" + jsonEvent("e2", "") + "]"
	for name, c := range map[string]struct {
		text string
		ids  string
		bad  string
		err  string
	}{
		"list":               {" " + list + "\n", "e1 e2", "", ""},
		"object":             {`{"batch_id":"x","n":{"a":[1]},"events":` + list + `,"more":[{}]}`, "e1 e2", "", ""},
		"empty list":         {"[]", "", "", ""},
		"faulty event":       {"[" + jsonEvent("e1", "") + ",7," + jsonEvent("e3", `,"run_id":"r","run_id":"r"`) + "," + jsonEvent("e4", "") + "]", "e1 e4", "event 2: is no JSON object|event 3: is no JSON object", ""},
		"nothing":            {"", "", "", "is empty"},
		"one event":          {jsonEvent("e1", ""), "", "", "--format ndjson"},
		"events is no list":  {`{"events":7}`, "", "", "no list"},
		"a text":             {`"x"`, "", "", "no list"},
		"broken":             {"[" + jsonEvent("e1", "") + "}", "e1", "", "is not JSON"},
		"cut":                {"[" + jsonEvent("e1", ""), "e1", "", "ends early"},
		"cut object":         {`{"events":[` + jsonEvent("e1", "") + "]", "e1", "", "ends early"},
		"something behind":   {list + "x", "e1 e2", "", "behind the list"},
		"two lists":          {`{"events":[],"events":[]}`, "", "", "two lists"},
		"two lists of lists": {list + list, "e1 e2", "", "behind the list"},
	} {
		t.Run(name, func(t *testing.T) {
			rows, bad, err := readJSONFile(c.text, formatJSON, csvPlan{idPrefix: "f"})
			var ids []string
			for i := range rows {
				ids = append(ids, rows[i].event.EventID)
			}
			if strings.Join(ids, " ") != c.ids || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("events %v, %v; want %s and %q", ids, err, c.ids, c.err)
			}
			for i, want := range strings.Split(c.bad, "|") {
				if c.bad != "" && (i >= len(bad) || !strings.HasPrefix(bad[i], want)) {
					t.Errorf("faults %q, want %q", bad, c.bad)
				}
			}
		})
	}
}

func TestKeysOfJSON(t *testing.T) {
	tokens := `"timestamp":"2026-01-26T15:30:00Z","model":"m","input_tokens":1,"output_tokens":2`
	for name, c := range map[string]struct {
		plan csvPlan
		text string
		want string // user, or the fault
	}{
		"named":           {csvPlan{idPrefix: "f", defaultApp: "a", columns: values("user_id", "WHO")}, `{"who":"ann","user_id":"x",` + tokens + `}`, "ann"},
		"named and gone":  {csvPlan{idPrefix: "f", defaultApp: "a", columns: values("user_id", "who")}, `{"user_id":"x",` + tokens + `}`, "line 1: has no user_id"},
		"constant":        {csvPlan{idPrefix: "f", defaultApp: "a", constant: values("user_id", "me")}, `{"user_id":"x",` + tokens + `}`, "me"},
		"number":          {csvPlan{idPrefix: "f", defaultApp: "a"}, `{"user_id":42,` + tokens + `}`, "42"},
		"missing":         {csvPlan{idPrefix: "f", defaultApp: "a"}, `{` + tokens + `}`, "line 1: has no user_id"},
		"null is missing": {csvPlan{idPrefix: "f", defaultApp: "a"}, `{"user_id":null,` + tokens + `}`, "line 1: has no user_id"},
		"no app":          {csvPlan{idPrefix: "f"}, `{"user_id":"u",` + tokens + `}`, "line 1: has no app_id"},
		"no name":         {csvPlan{defaultApp: "a"}, `{"user_id":"u",` + tokens + `}`, "line 1: has no event_id"},
		"fraction":        {csvPlan{idPrefix: "f", defaultApp: "a"}, `{"user_id":"u","total_tokens":1.5,` + tokens + `}`, "line 1, key total_tokens:"},
	} {
		t.Run(name, func(t *testing.T) {
			rows, bad, err := readJSONFile(c.text, formatNDJSON, c.plan)
			got := strings.Join(bad, "")
			if len(rows) == 1 {
				got = rows[0].event.UserID
			}
			if err != nil || !strings.HasPrefix(got, c.want) {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestIngestOfNDJSON(t *testing.T) {
	clean(t)
	l := newLedger(t)
	var b strings.Builder
	for i := range 25 {
		fmt.Fprintf(&b, "{\"timestamp\":\"2026-01-26T15:30:00Z\",\"input_tokens\":%d,\"output_tokens\":1}\n", i)
	}
	for _, name := range []string{"usage.ndjson", "usage.JSONL"} {
		if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile("usage.json", []byte("["+strings.ReplaceAll(strings.TrimSpace(b.String()), "\n", ",")+"]"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, file := range []string{"usage.ndjson", "usage.ndjson", "usage.JSONL", "usage.json"} {
		code, sum, stderr := ingestRun(t, ingestArgs(l, file, "--batch-size", "10")...)
		if code != 0 || sum.Accepted != 25 || sum.Events != 25 || i > 0 && sum.ReplayedBatches != 3 || strings.Contains(stderr, "columns") {
			t.Errorf("%s: exit %d, %+v\n%s", file, code, sum, stderr)
		}
	}
	if err := os.WriteFile("bad.json", []byte(`[7]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := ingestRun(t, ingestArgs(l, "bad.json")...); code != 1 || !strings.Contains(stderr, "bad.json: event 1: is no JSON object") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

// stdin gives the test a standard input to write to.
func stdin(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	old := os.Stdin
	os.Stdin = r
	t.Cleanup(func() {
		os.Stdin = old
		r.Close()
		w.Close()
	})
	return w
}

// A pipe that goes silent has what came through it sent, and its end ends the run.
func TestIngestOfStandardInput(t *testing.T) {
	clean(t)
	l := newLedger(t)
	in := stdin(t)
	first := make(chan struct{})
	l.before = func(n int, _ http.ResponseWriter, _ *http.Request) bool {
		if n == 1 {
			close(first)
		}
		return false
	}
	go func() {
		fmt.Fprintln(in, jsonEvent("e1", ""))
		<-first
		fmt.Fprintln(in, jsonEvent("e2", ""))
		in.Close()
	}()
	code, sum, stderr := ingestRun(t, "ingest", "-", "--format", "ndjson", "--url", l.URL, "-o", "json")
	if code != 0 || sum.Accepted != 2 || sum.Batches != 2 {
		t.Errorf("exit %d, %+v\n%s", code, sum, stderr)
	}
}

// A shuffle waits for all of a pipe, however often that is silent.
func TestShuffleOfASilentPipe(t *testing.T) {
	errs := []error{nil, errIdle, nil, errIdle, io.EOF}
	in := &ingestion{}
	rows, err := in.shuffled(func() (row, error) {
		err := errs[0]
		errs = errs[1:]
		return row{}, err
	})
	if err != nil || len(rows) != 2 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
}
