package httpapi

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
)

func reportOf(r schemas.UsageReport) func(context.Context, schemas.UsageQuery) (schemas.UsageReport, error) {
	return func(context.Context, schemas.UsageQuery) (schemas.UsageReport, error) { return r, nil }
}

func failing(err error) func(context.Context, schemas.UsageQuery) (schemas.UsageReport, error) {
	return func(context.Context, schemas.UsageQuery) (schemas.UsageReport, error) {
		return schemas.UsageReport{}, err
	}
}

func hour(text string) int64 {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t.Unix() / 3600
}

func TestUsageQueryIsPassedOn(t *testing.T) {
	for raw, want := range map[string]schemas.UsageQuery{
		"": {AppID: "app_1", From: schemas.FirstHour, To: schemas.LastHour, Window: schemas.WindowNone, MaxRows: 100_000},
		"app_id=a&tenant_id=t&user_id=u&model=m&workflow_id=w&from=2026-01-26T00:00:00Z&to=2026-01-27T02:00:00%2B02:00&window=day&group_by=model,user_id&format=json": {
			AppID: "a", TenantID: "t", UserID: "u", Model: "m", WorkflowID: "w",
			From: hour("2026-01-26T00:00:00Z"), To: hour("2026-01-27T00:00:00Z"), Window: schemas.WindowDay,
			GroupBy: []schemas.Dimension{schemas.ByModel, schemas.ByUser}, MaxRows: 100_000,
		},
		"from=1970-01-01T00:00:00.000Z&window=hour&group_by=app_id,tenant_id,user_id,workflow_id,model": {
			AppID: "app_1", From: 0, To: schemas.LastHour, Window: schemas.WindowHour, MaxRows: 100_000,
			GroupBy: []schemas.Dimension{schemas.ByApp, schemas.ByTenant, schemas.ByUser, schemas.ByWorkflow, schemas.ByModel},
		},
		"window=month&model=" + url.QueryEscape(strings.Repeat("é", 256)): {
			AppID: "app_1", To: schemas.LastHour, Window: schemas.WindowMonth, MaxRows: 100_000, Model: strings.Repeat("é", 256),
		},
	} {
		s := serve(t)
		var got schemas.UsageQuery
		s.reads.usage = func(ctx context.Context, q schemas.UsageQuery) (schemas.UsageReport, error) {
			if _, limited := ctx.Deadline(); !limited {
				t.Error("the read has no time limit")
			}
			got = q
			return schemas.UsageReport{}, nil
		}
		s.do("GET", "/api/usage?"+raw, nil).is(200)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", raw, diff)
		}
	}
}

func TestBadUsageQueries(t *testing.T) {
	for raw, want := range map[string]struct {
		code schemas.Code
		name string
	}{
		"window=week":                        {schemas.CodeValidation, "window"},
		"window=":                            {schemas.CodeValidation, "window"},
		"window=day&window=day":              {schemas.CodeValidation, "window"},
		"group_by=color":                     {schemas.CodeValidation, "group_by"},
		"group_by=":                          {schemas.CodeValidation, "group_by"},
		"group_by=model,":                    {schemas.CodeValidation, "group_by"},
		"group_by=model,model":               {schemas.CodeValidation, "group_by"},
		"group_by=model&group_by=user_id":    {schemas.CodeValidation, "group_by"},
		"format=xml":                         {schemas.CodeValidation, "format"},
		"format=":                            {schemas.CodeValidation, "format"},
		"user_id=":                           {schemas.CodeValidation, "user_id"},
		"app_id=":                            {schemas.CodeValidation, "app_id"},
		"app_id=" + strings.Repeat("a", 129): {schemas.CodeValidation, "app_id"},
		"tenant_id=%ff":                      {schemas.CodeValidation, "tenant_id"},
		"model=" + strings.Repeat("a", 257):  {schemas.CodeValidation, "model"},
		"workflow_id=" + strings.Repeat("a", 257): {schemas.CodeValidation, "workflow_id"},
		"userid=u":                     {schemas.CodeValidation, "userid"},
		"User_id=u":                    {schemas.CodeValidation, "User_id"},
		"from=yesterday":               {schemas.CodeValidation, "from"},
		"from=2026-01-26":              {schemas.CodeValidation, "from"},
		"from=2026-01-26T00:00:00":     {schemas.CodeValidation, "from"},
		"to=2026-01-26T00:00:00+02:00": {schemas.CodeValidation, "to"},
		"from=1969-12-31T23:00:00Z":    {schemas.CodeValidation, "from"},
		"to=9999-01-01T00:00:00Z":      {schemas.CodeValidation, "to"},
		"from=2026-01-26T00:00:00Z&to=2026-01-26T00:00:00Z": {schemas.CodeValidation, "to"},
		"from=2026-01-27T00:00:00Z&to=2026-01-26T00:00:00Z": {schemas.CodeValidation, "to"},
		"from=2026-01-26T00:30:00Z":                         {schemas.CodeWindowAlignment, "from"},
		"to=2026-01-26T00:00:01Z":                           {schemas.CodeWindowAlignment, "to"},
		"to=2026-01-26T00:00:00.000000001Z":                 {schemas.CodeWindowAlignment, "to"},
		"from=2026-01-26T00:00:00%2B05:30":                  {schemas.CodeWindowAlignment, "from"},
	} {
		s := serve(t)
		fields := s.do("GET", "/api/usage?"+raw, nil).is(422, want.code).json()["errors"].([]any)
		loc := fields[0].(map[string]any)["loc"].([]any)
		if diff := cmp.Diff([]any{"query", want.name}, loc); diff != "" || len(fields) != 1 {
			t.Errorf("%s: %v", raw, fields)
		}
	}
	s := serve(t)
	s.do("GET", "/api/usage?a=%zz", nil).is(422, schemas.CodeValidation)
	s.do("GET", "/api/usage?a;b", nil).is(422, schemas.CodeValidation)
	a := s.do("GET", "/api/usage?userid=u&window=x&zzz=1", nil).is(422)
	if d := a.json()["detail"].(string); !strings.Contains(d, "did you mean user_id?") || !strings.Contains(d, "known are app_id") {
		t.Errorf("detail: %s", d)
	}
	both := s.do("GET", "/api/usage?window=x&user_id=", nil).is(422)
	if n := len(both.json()["errors"].([]any)); n != 2 {
		t.Errorf("%d faults are told, want 2", n)
	}
}

func TestUsageErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   schemas.Code
	}{
		{fmt.Errorf("sum: %w", schemas.Errorf(schemas.CodeTooManyRows, "too many")), 422, schemas.CodeTooManyRows},
		{fmt.Errorf("sum: %w", context.DeadlineExceeded), 503, schemas.CodeUnavailable},
		{schemas.Errorf(schemas.CodeUnavailable, "away"), 503, schemas.CodeUnavailable},
		{schemas.Errorf("NEVER_HEARD_OF", "x"), 500, schemas.CodeInternal},
		{errors.New("x"), 500, schemas.CodeInternal},
	} {
		s := serve(t)
		s.reads.usage = failing(c.err)
		a := s.do("GET", "/api/usage", nil).is(c.status, c.code)
		if c.status == 503 {
			a.has("Retry-After", "1")
		}
	}
}

var sums = schemas.UsageSums{Events: 1, InputTokens: 2, OutputTokens: 3, TotalTokens: 5, CachedTokens: 1, ReasoningTokens: 1, Cost: schemas.AmountOf(1_000_000_001)}

func instant(text string) time.Time {
	return time.Unix(hour(text)*3600, 0).In(time.FixedZone("x", 3600))
}

func TestUsageReport(t *testing.T) {
	s := serve(t)
	s.reads.usage = reportOf(schemas.UsageReport{
		Rows: []schemas.UsageRow{
			{WindowStart: instant("2026-01-26T00:00:00Z"), WindowEnd: instant("2026-01-27T00:00:00Z"), Group: []string{"u\"1", ""}, UsageSums: sums},
			{WindowStart: instant("2026-01-27T00:00:00Z"), Group: []string{"u2", "w"}, UsageSums: schemas.UsageSums{Cost: schemas.AmountOf(-500_000_000)}},
		},
		Totals: sums,
	})
	const (
		figures = `"events":1,"input_tokens":2,"output_tokens":3,"total_tokens":5,"cached_tokens":1,"reasoning_tokens":1,"cost":1.000000001}`
		nothing = `"events":0,"input_tokens":0,"output_tokens":0,"total_tokens":0,"cached_tokens":0,"reasoning_tokens":0,"cost":-0.5}`
	)
	want := `{"app_id":"a b","from":"2026-01-26T00:00:00Z","to":null,"window":"day","rows":[` +
		`{"window_start":"2026-01-26T00:00:00Z","window_end":"2026-01-27T00:00:00Z","user_id":"u\"1","workflow_id":null,` + figures + `,` +
		`{"window_start":"2026-01-27T00:00:00Z","window_end":null,"user_id":"u2","workflow_id":"w",` + nothing + `],"totals":{` + figures + `}`
	query := "app_id=a+b&from=2026-01-26T01:00:00%2B01:00&window=day&group_by=user_id,workflow_id"
	s.do("GET", "/api/usage?"+query, nil).is(200).has("Content-Type", "application/json").has("Vary", "Accept").body(want)
	s.do("HEAD", "/api/usage?"+query, nil).is(200).has("Content-Length", fmt.Sprint(len(want))).body("")
	s.do("GET", "/api/usage?format=json&"+query, nil, "Accept: text/csv").body(want)
}

func TestEmptyReport(t *testing.T) {
	s := serve(t)
	s.reads.usage = reportOf(schemas.UsageReport{})
	s.do("GET", "/api/usage", nil).is(200).body(`{"app_id":"app_1","from":null,"to":null,"window":"none","rows":[],"totals":{` +
		`"events":0,"input_tokens":0,"output_tokens":0,"total_tokens":0,"cached_tokens":0,"reasoning_tokens":0,"cost":0}}`)
}

func TestUsageCSV(t *testing.T) {
	s := serve(t)
	s.reads.usage = reportOf(schemas.UsageReport{Rows: []schemas.UsageRow{
		{WindowStart: instant("2026-01-26T00:00:00Z"), WindowEnd: instant("2026-01-27T00:00:00Z"), Group: []string{`say "hi", you`, ""}, UsageSums: sums},
		{Group: []string{"=1+1", "a\r\nb"}, UsageSums: schemas.UsageSums{Events: -1, Cost: schemas.AmountOf(-1)}},
		{Group: []string{"\tx", "-2,3"}},
		{Group: []string{"+x", "@x"}},
	}})
	const head = "window_start,window_end,user_id,workflow_id,events,input_tokens,output_tokens,total_tokens,cached_tokens,reasoning_tokens,cost\r\n"
	want := head +
		"2026-01-26T00:00:00Z,2026-01-27T00:00:00Z,\"say \"\"hi\"\", you\",,1,2,3,5,1,1,1.000000001\r\n" +
		",,'=1+1,\"a\r\nb\",-1,0,0,0,0,0,-0.000000001\r\n" +
		",,'\tx,\"'-2,3\",0,0,0,0,0,0,0\r\n" +
		",,'+x,'@x,0,0,0,0,0,0,0\r\n"
	const path = "/api/usage?group_by=user_id,workflow_id"
	a := s.do("GET", path+"&format=csv", nil).is(200).has("Content-Type", "text/csv; charset=utf-8").body(want)
	records, err := csv.NewReader(strings.NewReader(a.text)).ReadAll()
	if err != nil || len(records) != 5 || records[1][2] != `say "hi", you` {
		t.Errorf("a CSV reader gets %q, %v", records, err)
	}
	for accept, isCSV := range map[string]bool{
		"text/csv": true, "text/csv, */*": true, "Text/CSV;q=0.5, */*;q=0.1": true, "application/json;q=0.4, text/csv;q=0.5": true,
		"text/csv;q=0": false, "*/*": false, "application/json": false, "text/csv;q=0.5, application/json;q=0.9": false,
		"application/json, text/csv": false, "text/csv;q=x": false, "": false, "image/png": false,
	} {
		want := "application/json"
		if isCSV {
			want = "text/csv; charset=utf-8"
		}
		a := s.do("GET", path, nil, "Accept: "+accept).is(200)
		if got := a.header.Get("Content-Type"); got != want {
			t.Errorf("Accept %q gives %s", accept, got)
		}
	}
	s.do("GET", "/api/usage?format=csv&window=x", nil).is(422, schemas.CodeValidation)
}

func TestLongReportsAreSentInPieces(t *testing.T) {
	s := serve(t)
	rows := make([]schemas.UsageRow, 5000)
	for i := range rows {
		rows[i] = schemas.UsageRow{Group: []string{fmt.Sprint("user_", i)}, UsageSums: sums}
	}
	s.reads.usage = reportOf(schemas.UsageReport{Rows: rows})
	got := s.do("GET", "/api/usage?group_by=user_id", nil).is(200).json()["rows"].([]any)
	if len(got) != len(rows) || got[4999].(map[string]any)["user_id"] != "user_4999" {
		t.Errorf("%d rows, want %d", len(got), len(rows))
	}
	text := s.do("GET", "/api/usage?group_by=user_id&format=csv", nil).is(200).text
	if n := strings.Count(text, "\r\n"); n != len(rows)+1 {
		t.Errorf("%d lines, want %d", n, len(rows)+1)
	}
}
