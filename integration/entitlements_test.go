package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"grout/integration/process"
	"grout/schemas"
)

// entitlements is what GET /api/v1/entitlements/{app_id} tells, as far as it is looked at.
type entitlements struct {
	Plan     struct{ Tier, Name, Status string }
	Revision *int64
	Features map[string]bool
	Budgets  []struct {
		Scope       string
		Allocations []allocation
	}
	SyncedAt *time.Time `json:"synced_at"`
}

type allocation struct {
	Name                      string
	Limit                     int64
	Effective                 int64 `json:"effective_limit"`
	Used, Reserved, Remaining int64
}

func entitled(t testing.TB, p *process.Process, path string) (e entitlements) {
	t.Helper()
	request(t, p, "GET", "/api/v1/entitlements/"+path, nil).want(t, 200).into(t, &e)
	return e
}

// standing gives used/reserved of every allocation by scope and name.
func (e entitlements) standing() map[string]string {
	m := map[string]string{}
	for _, b := range e.Budgets {
		for _, a := range b.Allocations {
			m[b.Scope+" "+a.Name] = fmt.Sprintf("%d+%d of %d", a.Used, a.Reserved, a.Effective)
		}
	}
	return m
}

type checked struct {
	Allowed                bool
	Decision, Reason       string
	Used, Limit, Remaining *int64
}

func check(t testing.TB, p *process.Process, body string) (c checked) {
	t.Helper()
	request(t, p, "POST", "/api/entitlements/check", body).want(t, 200).into(t, &c)
	return c
}

// refusal is the error of an answer.
func (a answer) refusal(t testing.TB, status int, code schemas.Code) {
	t.Helper()
	var e struct {
		Code schemas.Code `json:"error_code"`
	}
	a.want(t, status).into(t, &e)
	if e.Code != code {
		t.Fatalf("error_code %s, want %s: %s", e.Code, code, a.body)
	}
}

func spend(t testing.TB, p *process.Process, app, user, model, id string, tokens int) {
	t.Helper()
	request(t, p, "POST", "/api/usage/ingest", map[string]any{"events": []any{map[string]any{
		"event_id": id, "timestamp": time.Now().UTC().Format(time.RFC3339Nano), "app_id": app, "user_id": user, "model": model, "input_tokens": tokens, "output_tokens": 0,
	}}}).want(t, 200)
}

// From a sync to a budget that bites, through a kill, with the facts of all of it.
func TestBudgetBites(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		data := filepath.Join(t.TempDir(), "data")
		p := start(t, data, partitions)
		if e := entitled(t, p, "shop"); e.SyncedAt != nil || e.Plan.Name != "Open Source" {
			t.Errorf("never synced: %+v", e)
		}
		spend(t, p, "shop", "ann", "m", "before", 100) // counts, although no manifest names it yet
		manifest := `{"version":"1.1","app_id":"shop","plan":{"tier":"pro"},"token_budget":{"period":"lifetime","total_tokens":{"limit":1000,"enforcement":"hard"},
			"per_model_limits":{"m":{"limit":600,"enforcement":"hard"}}},"features":{"export":false}}`
		request(t, p, "POST", "/api/internal/entitlement/sync", manifest).want(t, 200)
		request(t, p, "POST", "/api/internal/entitlement/sync", manifest).want(t, 200)
		request(t, p, "POST", "/api/v1/entitlements/shop/sync", `{"version":"1.1","app_id":"shop","user_id":"ann","plan":{"tier":"free"},
			"token_budget":{"period":"lifetime","total_tokens":{"limit":800,"enforcement":"soft"}}}`, "X-Internal-API-Key", "", "Authorization", "Bearer "+process.ServiceKey).want(t, 200)
		request(t, p, "POST", "/api/internal/entitlement/sync", strings.Replace(manifest, `"plan"`, `"revision":1,"metadata":{},"plan"`, 1)).refusal(t, 409, schemas.CodeStaleRevision)

		reserve := func(body string, status int) answer {
			t.Helper()
			return request(t, p, "POST", "/api/budgets/reservations", body).want(t, status)
		}
		reserve(`{"app_id":"shop","user_id":"ann","model":"m","estimated_tokens":500,"reservation_id":"r-1"}`, 201)
		first := reserve(`{"app_id":"shop","user_id":"ann","model":"m","estimated_tokens":500,"reservation_id":"r-1"}`, 201).body
		reserve(`{"app_id":"shop","user_id":"ann","model":"m","estimated_tokens":1}`, 402) // of the model
		reserve(`{"app_id":"shop","user_id":"ben","model":"n","estimated_tokens":401}`, 402)
		reserve(`{"app_id":"shop","user_id":"ben","model":"n","estimated_tokens":400,"reservation_id":"r-2"}`, 201)
		want := map[string]string{"user total_tokens": "100+500 of 800", "app total_tokens": "100+900 of 1000", "app model:m": "100+500 of 600"}
		if d := cmp.Diff(want, entitled(t, p, "shop?user_id=ann").standing()); d != "" {
			t.Errorf("after reserving (-want +got):\n%s", d)
		}
		if c := check(t, p, `{"app_id":"shop","user_id":"ben","estimated_tokens":1}`); c.Allowed || c.Decision != "hard_reject" || c.Reason != "budget_exceeded" {
			t.Errorf("check above the limit: %+v", c)
		}
		p.Kill()
		p = start(t, data, partitions)
		if d := cmp.Diff(want, entitled(t, p, "shop?user_id=ann").standing()); d != "" {
			t.Errorf("after a kill (-want +got):\n%s", d)
		}
		if again := reserve(`{"app_id":"shop","user_id":"ann","model":"m","estimated_tokens":500,"reservation_id":"r-1"}`, 201).body; string(again) != string(first) {
			t.Errorf("a repeated reservation is answered %s, was %s", again, first)
		}

		settle := `{"app_id":"shop","event_id":"e-1","input_tokens":600,"output_tokens":0}`
		var settled struct {
			Tokens, Excess int64
			Late           bool
		}
		request(t, p, "POST", "/api/budgets/reservations/r-1/settle", settle).want(t, 200).into(t, &settled)
		if settled.Excess != 100 || settled.Late {
			t.Errorf("settled for more than was held: %+v", settled)
		}
		request(t, p, "POST", "/api/budgets/reservations/r-1/settle", settle).want(t, 200)
		request(t, p, "POST", "/api/budgets/reservations/r-1/settle", strings.Replace(settle, "e-1", "e-2", 1)).refusal(t, 409, schemas.CodeAlreadySettled)
		request(t, p, "POST", "/api/budgets/reservations/r-1/extend", `{"app_id":"shop","ttl_seconds":5}`).refusal(t, 409, schemas.CodeReservationOver)
		request(t, p, "POST", "/api/budgets/reservations/r-1/settle", strings.Replace(settle, "shop", "other", 1)).refusal(t, 404, schemas.CodeNotFound)
		request(t, p, "POST", "/api/budgets/reservations/r-2/extend", `{"app_id":"shop","ttl_seconds":3600}`).want(t, 200)
		for range 2 {
			request(t, p, "DELETE", "/api/budgets/reservations/r-2?app_id=shop", nil).want(t, 200)
		}
		spend(t, p, "shop", "ben", "n", "after", 350)
		want = map[string]string{"user total_tokens": "700+0 of 800", "app total_tokens": "1050+0 of 1000", "app model:m": "700+0 of 600"}
		if d := cmp.Diff(want, entitled(t, p, "shop?user_id=ann").standing()); d != "" {
			t.Errorf("after settling (-want +got):\n%s", d)
		}
		correct(t, p, "after", "void", `{"app_id":"shop"}`, 200)
		if got := entitled(t, p, "shop").standing()["app total_tokens"]; got != "700+0 of 1000" {
			t.Errorf("after a void: %s", got)
		}
		if c := check(t, p, `{"app_id":"shop","user_id":"ann","feature":"export"}`); c.Allowed || c.Reason != "feature_disabled" {
			t.Errorf("a feature that is off: %+v", c)
		}
		if got := totals(t, p, "shop"); got.TotalTokens != 700 || got.Events != 2 {
			t.Errorf("usage is %+v", got)
		}
		checkBudgetFacts(t, p)
		stop(t, p)
		if list, code, text := verify(t, data, partitions, nil); code != 0 {
			t.Errorf("verify ends with %d, %s, %+v", code, text, list)
		}
	})
}

// checkBudgetFacts: every change was told once.
func checkBudgetFacts(t *testing.T, p *process.Process) {
	t.Helper()
	count := map[string]int{}
	for _, f := range facts(t, p, func(list []fact) bool { return len(list) >= 12 }) {
		kind := strings.TrimPrefix(f.Subject, "mozaiks.v1.evt.shop.")
		if kind == "entitlement.synced" || strings.HasPrefix(kind, "budget.") {
			count[kind]++
		}
	}
	if count["entitlement.synced"] != 2 || count["budget.exceeded"] == 0 || count["budget.threshold_reached"] == 0 || count["budget.threshold_cleared"] == 0 {
		t.Errorf("facts: %v", count)
	}
}

// A hold that nobody ends ends by itself, with a fact.
func TestHoldsExpire(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "data"), 1)
	request(t, p, "POST", "/api/internal/entitlement/sync", `{"version":"1.1","app_id":"a","plan":{"tier":"pro"},
		"token_budget":{"period":"lifetime","total_tokens":{"limit":10,"enforcement":"hard"}}}`).want(t, 200)
	request(t, p, "POST", "/api/budgets/reservations", `{"app_id":"a","estimated_tokens":10,"ttl_seconds":1,"reservation_id":"r"}`).want(t, 201)
	request(t, p, "POST", "/api/budgets/reservations", `{"app_id":"a","estimated_tokens":1}`).refusal(t, 402, schemas.CodeBudgetExceeded)
	expired := func(list []fact) (n int) {
		for _, f := range list {
			if f.Subject == "mozaiks.v1.evt.a.budget.reservation_expired" {
				n++
			}
		}
		return n
	}
	if n := expired(facts(t, p, func(list []fact) bool { return expired(list) > 0 })); n != 1 {
		t.Errorf("%d facts of the expiry", n)
	}
	if got := entitled(t, p, "a").standing()["app total_tokens"]; got != "0+0 of 10" {
		t.Errorf("after the expiry: %s", got)
	}
	request(t, p, "POST", "/api/budgets/reservations", `{"app_id":"a","estimated_tokens":10}`).want(t, 201)
	var late struct{ Late bool }
	request(t, p, "POST", "/api/budgets/reservations/r/settle", `{"app_id":"a","event_id":"e","user_id":"u","input_tokens":7,"output_tokens":0}`).want(t, 200).into(t, &late)
	if !late.Late {
		t.Error("a settlement after the expiry is not late")
	}
	if got := entitled(t, p, "a").standing()["app total_tokens"]; got != "7+10 of 10" {
		t.Errorf("what was used counts, whatever is held: %s", got)
	}
	stop(t, p)
}

// The platform of contract §7: it syncs a plan, reads it back, and reports usage.
func TestBillingClient(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "data"), 1)
	service := []string{"X-Internal-API-Key", "", "Authorization", "Bearer " + process.ServiceKey, "X-Mozaiks-Service", "billing"}
	for n, tier := range []string{"free", "starter", "pro", "enterprise", "unlimited"} {
		manifest := fmt.Sprintf(`{"version":"1.0","app_id":"shop","correlation_id":"c-%d","plan":{"id":"p","name":"Plan","tier":%q,"status":"active","billing_period":"monthly","expires_at":null},
			"token_budget":{"period":"monthly","total_tokens":{"limit":-1,"used":0,"enforcement":"none"}},"features":{},"rate_limits":{}}`, n, tier)
		var synced struct {
			Status, NewTier string
			Tier            string  `json:"new_tier"`
			Previous        *string `json:"previous_tier"`
			Revision        int64
		}
		request(t, p, "POST", "/api/v1/entitlements/shop/sync", manifest, service...).want(t, 200).into(t, &synced)
		if synced.Status != "synced" || synced.Tier != tier || synced.Revision != int64(n+1) || (synced.Previous == nil) != (n == 0) {
			t.Errorf("%s: %+v", tier, synced)
		}
		var read entitlements
		request(t, p, "GET", "/api/v1/entitlements/shop", nil, service...).want(t, 200).into(t, &read)
		if read.Plan.Tier != tier {
			t.Errorf("read back %s, want %s", read.Plan.Tier, tier)
		}
	}
	report := `{"events":[{"event_type":"token_usage","app_id":"shop","user_id":"ann","timestamp":"` + time.Now().UTC().Format(time.RFC3339) +
		`","data":{"workflow_id":"w","model":"m","input_tokens":30,"output_tokens":12,"total_tokens":42}},` +
		`{"event_type":"feature_usage","app_id":"shop","user_id":"ann","timestamp":"` + time.Now().UTC().Format(time.RFC3339) + `","data":{}}]}`
	request(t, p, "POST", "/api/billing/usage-events", report, service...).want(t, 200)
	if got := entitled(t, p, "shop").standing()["app total_tokens"]; got != "42+0 of -1" {
		t.Errorf("the budget stands at %s", got)
	}
	stop(t, p)
}

// The flat legacy body and a manifest of the same facts lead to the same decisions.
func TestLegacyAndManifestDecideAlike(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	config := filepath.Join(filepath.Dir(data), "config")
	if err := os.MkdirAll(config, 0o700); err != nil {
		t.Fatal(err)
	}
	catalogue := filepath.Join(config, "subscription_config.json")
	write := func(text string) {
		if err := os.WriteFile(catalogue, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"subscription_plans":[{"name":"free","plugins_unlocked":[]},{"name":"gold","tier":"pro","plugins_unlocked":["notes"]}],"settings":{"default_plan":"free"}}`)
	p := start(t, data, 1, "MONETIZATION=1")
	request(t, p, "POST", "/api/internal/subscription/sync", `{"userId":"legacy","plan":"gold","status":"active","appId":"a"}`).want(t, 200)
	request(t, p, "POST", "/api/internal/entitlement/sync", `{"version":"1.1","app_id":"a","user_id":"new","plan":{"id":"gold","name":"gold","tier":"pro"}}`).want(t, 200)
	asks := []string{`"plugin":"notes"`, `"plugin":"other"`, `"feature":"x"`, `"estimated_tokens":5`}
	for _, ask := range asks {
		legacy := check(t, p, `{"app_id":"a","user_id":"legacy",`+ask+`}`)
		manifest := check(t, p, `{"app_id":"a","user_id":"new",`+ask+`}`)
		if d := cmp.Diff(legacy, manifest); d != "" {
			t.Errorf("%s (-legacy +manifest):\n%s", ask, d)
		}
	}
	opens := func(user, plugin string) bool {
		return check(t, p, fmt.Sprintf(`{"app_id":"a","user_id":%q,"plugin":%q}`, user, plugin)).Allowed
	}
	if !opens("legacy", "notes") || opens("legacy", "other") || opens("nobody", "notes") {
		t.Error("the catalogue does not decide about plugins")
	}
	write(`{"subscription_plans":[{"name":"free","plugins_unlocked":["notes"]},{"name":"gold","plugins_unlocked":["other"]}],"settings":{"default_plan":"free"}}`)
	deadline := time.After(20 * time.Second)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for !opens("nobody", "notes") || !opens("legacy", "other") || opens("legacy", "notes") {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatal("a new catalogue does not count")
		}
	}
	stop(t, p)
	p = start(t, data, 1, "MONETIZATION=0") // what the log said before does not hold any more
	if !opens("nobody", "other") {
		t.Error("plans decide about plugins although MONETIZATION is off")
	}
	stop(t, p)
}

// With MOZAIKS_ENFORCE_ENTITLEMENTS=false everything is told and nothing refused.
func TestNothingIsEnforced(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	manifest := `{"version":"1.1","app_id":"dev_app","plan":{"tier":"pro"},"token_budget":{"period":"lifetime","total_tokens":{"limit":1,"enforcement":"hard"}}}`
	p := start(t, data, 1, "MOZAIKS_ENFORCE_ENTITLEMENTS=false", "MOZAIKS_ENTITLEMENT_SOURCE=env", "MOZAIKS_ENTITLEMENT_MANIFEST="+manifest)
	if e := entitled(t, p, "dev_app"); e.Plan.Tier != "pro" || e.Revision != nil {
		t.Errorf("the manifest of the environment: %+v", e)
	}
	if e := entitled(t, p, "another"); e.Plan.Tier != "unlimited" {
		t.Errorf("it is of another app: %+v", e)
	}
	if c := check(t, p, `{"estimated_tokens":2}`); !c.Allowed || c.Decision != "hard_reject" {
		t.Errorf("check: %+v", c)
	}
	request(t, p, "POST", "/api/budgets/reservations", `{"estimated_tokens":2}`).want(t, 201)
	stop(t, p)
	p = start(t, data, 1, "MOZAIKS_ENTITLEMENT_SOURCE=env", "MOZAIKS_ENTITLEMENT_MANIFEST="+manifest)
	request(t, p, "POST", "/api/budgets/reservations", `{"estimated_tokens":2}`).refusal(t, 402, schemas.CodeBudgetExceeded)
	stop(t, p)
	p = start(t, data, 1) // without the source its manifest is gone
	if e := entitled(t, p, "dev_app"); e.SyncedAt != nil {
		t.Errorf("without a source: %+v", e)
	}
	stop(t, p)
}

// metric gives the sum of a metric over its labels.
func metric(t testing.TB, p *process.Process, name string) (sum float64) {
	t.Helper()
	resp, err := http.Get(p.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^`+name+`(?:\{.*\})? (.*)$`).FindAllSubmatch(text, -1) {
		n, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// A flood of calls that are refused adds no command to the log.
func TestFloodOfRefusedCalls(t *testing.T) {
	const calls, callers = 100_000, 32
	p := start(t, filepath.Join(t.TempDir(), "data"), 1)
	request(t, p, "POST", "/api/internal/entitlement/sync", `{"version":"1.1","app_id":"a","revision":5,"plan":{"tier":"free"},"features":{"f":false},"rate_limits":{"requests_per_hour":0},
		"token_budget":{"period":"lifetime","total_tokens":{"limit":10,"enforcement":"hard"}}}`).want(t, 200)
	spend(t, p, "a", "u", "m", "e", 10)
	bodies := []struct {
		path, body string
		status     int
	}{
		{"/api/budgets/reservations", `{"app_id":"a","estimated_tokens":1}`, 402},
		{"/api/budgets/reservations", `{"app_id":"a","estimated_tokens":0}`, 402},
		{"/api/entitlements/check", `{"app_id":"a","feature":"f","count":true}`, 200},
		{"/api/entitlements/check", `{"app_id":"a","count":true}`, 200},
		{"/api/internal/entitlement/sync", `{"version":"1.1","app_id":"a","revision":5,"plan":{"tier":"pro"}}`, 409},
		{"/api/budgets/reservations/none/settle", `{"app_id":"a","event_id":"x","input_tokens":1,"output_tokens":1}`, 404},
		{"/api/budgets/reservations/none/extend", `{"app_id":"a","ttl_seconds":1}`, 404},
	}
	for _, b := range bodies { // what is refused for the first time in a period is told
		request(t, p, "POST", b.path, b.body).want(t, b.status)
	}
	before := metric(t, p, "grout_applied_stream_sequence")
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	var group sync.WaitGroup
	for c := range callers {
		group.Go(func() {
			for n := c; n < calls; n += callers {
				b := bodies[n%len(bodies)]
				if status, err := post(t.Context(), client, p.URL+b.path, b.body); err != nil || status != b.status {
					t.Errorf("%s answered %d, %v; want %d", b.path, status, err, b.status)
					return
				}
			}
		})
	}
	group.Wait()
	if after := metric(t, p, "grout_applied_stream_sequence"); after != before {
		t.Errorf("%v groups of commands came of %d refused calls", after-before, calls)
	}
	if n := metric(t, p, "grout_refused_early_total"); n < float64(calls) {
		t.Errorf("%v refusals are counted, %d were answered", n, calls)
	}
	stop(t, p)
}

func post(ctx context.Context, client *http.Client, url, body string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Internal-API-Key", process.InternalKey)
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// What a caller gets wrong has its status, names its field, and changes nothing.
func TestBadEntitlements(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "data"), 1)
	good := `{"version":"1.1","app_id":"a","plan":{"tier":"pro","status":"active","expires_at":"2030-01-01T00:00:00Z"},"token_budget":{"period":"daily","total_tokens":{"limit":5}}}`
	request(t, p, "POST", "/api/internal/entitlement/sync", good).want(t, 200)
	before := request(t, p, "GET", "/api/v1/entitlements/a", nil).body
	for name, c := range map[string]struct {
		old, new string
		status   int
		field    string
	}{
		"enum":             {`"tier":"pro"`, `"tier":"gold"`, 422, "plan.tier"},
		"status":           {`"active"`, `"sleeping"`, 422, "plan.status"},
		"type":             {`"limit":5`, `"limit":"5"`, 422, "token_budget.total_tokens.limit"},
		"fraction":         {`"limit":5`, `"limit":5.0`, 422, "token_budget.total_tokens.limit"},
		"below −1":         {`"limit":5`, `"limit":-2`, 422, "token_budget.total_tokens.limit"},
		"beyond 2⁵³−1":     {`"limit":5`, `"limit":9007199254740992`, 422, "token_budget.total_tokens.limit"},
		"version":          {`"1.1"`, `"1.2"`, 422, "version"},
		"no plan":          {`"plan":`, `"plans":`, 422, "plan"},
		"older shape":      {`"plan":`, `"tier":"pro","plan":`, 422, "tier"},
		"absurd date":      {`2030-01-01T00:00:00Z`, `2030-02-30T00:00:00Z`, 422, "plan.expires_at"},
		"date without end": {`2030-01-01T00:00:00Z`, `99999-01-01T00:00:00Z`, 422, "plan.expires_at"},
		"period":           {`"daily"`, `"fortnightly"`, 422, "token_budget.period"},
		"burst":            {`"period"`, `"burst_allowance":1001,"period"`, 422, "token_budget.burst_allowance"},
		"10 MB":            {`"plan":`, `"x":"` + strings.Repeat("y", 10<<20) + `","plan":`, 413, ""},
		"not JSON":         {`{"version"`, `{version`, 400, ""},
	} {
		a := request(t, p, "POST", "/api/internal/entitlement/sync", strings.Replace(good, c.old, c.new, 1)).want(t, c.status)
		var e struct {
			Errors []struct {
				Loc []any
			}
		}
		a.into(t, &e)
		field := ""
		if len(e.Errors) > 0 {
			for _, step := range e.Errors[0].Loc[1:] {
				field += "." + fmt.Sprint(step)
			}
		}
		if strings.TrimPrefix(field, ".") != c.field {
			t.Errorf("%s names %q, want %q: %.300s", name, field, c.field, a.body)
		}
	}
	if after := request(t, p, "GET", "/api/v1/entitlements/a", nil).body; string(after) != string(before) {
		t.Errorf("it has changed to %s, was %s", after, before)
	}
	var page struct{ Versions []json.RawMessage }
	request(t, p, "GET", "/api/v1/entitlements/a/versions", nil).want(t, 200).into(t, &page)
	if len(page.Versions) != 1 {
		t.Errorf("%d versions", len(page.Versions))
	}
	stop(t, p)
}
