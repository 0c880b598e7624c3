package integration

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"grout/integration/process"
)

// platform is a stock client in the account of the platform.
func platform(t testing.TB, p *process.Process) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(p.NATS, nats.UserInfo("platform", process.PlatformPassword))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// said is what a service answered.
type said struct {
	status string // as HTTP has it
	code   string // of the error header; empty: it is none
	header nats.Header
	body   []byte
}

func askService(t testing.TB, nc *nats.Conn, service string, body any, header ...string) said {
	t.Helper()
	text, ok := body.(string)
	if !ok {
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		text = string(b)
	}
	m := &nats.Msg{Subject: "mozaiks.v1.svc." + service, Data: []byte(text), Header: nats.Header{}}
	for i := 0; i+1 < len(header); i += 2 {
		m.Header.Set(header[i], header[i+1])
	}
	a, err := nc.RequestMsg(m, 20*time.Second)
	if err != nil {
		t.Fatalf("%s: %v", service, err)
	}
	if c := a.Header.Get(micro.ErrorCodeHeader); c != "" && (a.Header.Get(micro.ErrorHeader) == "" || c != a.Header.Get("Grout-Status")) {
		t.Errorf("%s: headers %v", service, a.Header)
	}
	return said{a.Header.Get("Grout-Status"), a.Header.Get(micro.ErrorCodeHeader), a.Header, a.Data}
}

func (a said) want(t testing.TB, status string) said {
	t.Helper()
	if a.status != status || (a.code != "") != (status >= "400") {
		t.Fatalf("status %s, error code %q, want %s: %.500s", a.status, a.code, status, a.body)
	}
	return a
}

func (a said) into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("status %s, body %.300s: %v", a.status, a.body, err)
	}
}

// TestServices: a stock client asks over NATS what HTTP answers, and gets that.
func TestServices(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		w := startPlugins(t, partitions, map[string]string{"mixed/logic.py": mixedPlugin, "echo/logic.py": echoPlugin})
		w.sync(t, `{"version":"1.1","app_id":"dev_app","plan":{"tier":"pro"},"token_budget":{"period":"monthly","total_tokens":{"limit":1000,"enforcement":"hard"}}}`)
		nc := platform(t, w.Process)
		servicesDiscovered(t, nc)
		servicesOfBudgets(t, w, nc)
		servicesOfPlugins(t, w, nc)
		servicesRefused(t, w, nc)
		stop(t, w.Process)
	})
}

// servicesDiscovered: what `nats micro ls`, `info` and `stats` ask is answered, with
// schemas that stand on their own.
func servicesDiscovered(t *testing.T, nc *nats.Conn) {
	var ping micro.Ping
	m, err := nc.Request("$SRV.PING", nil, 5*time.Second)
	if err != nil || json.Unmarshal(m.Data, &ping) != nil || ping.Name != "grout" || ping.ID == "" {
		t.Fatalf("ping: %v %+v", err, ping)
	}
	var info micro.Info
	if m, err = nc.Request("$SRV.INFO.grout", nil, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(m.Data, &info); err != nil {
		t.Fatal(err)
	}
	t.Logf("the answer about the service has %d bytes", len(m.Data))
	var subjects []string
	for _, e := range info.Endpoints {
		subjects = append(subjects, strings.TrimPrefix(e.Subject, "mozaiks.v1.svc."))
		for _, name := range []string{"request_schema", "response_schema"} {
			c := jsonschema.NewCompiler()
			doc, err := jsonschema.UnmarshalJSON(strings.NewReader(e.Metadata[name]))
			if err == nil {
				err = c.AddResource("mem:///"+e.Name, doc)
			}
			if err == nil {
				_, err = c.Compile("mem:///" + e.Name)
			}
			if err != nil {
				t.Errorf("%s of %s: %v", name, e.Name, err)
			}
		}
	}
	slices.Sort(subjects)
	want := []string{"budgets.extend", "budgets.release", "budgets.reserve", "budgets.settle", "entitlements.check", "plugins.execute", "runs.get", "usage.query"}
	if !slices.Equal(subjects, want) {
		t.Errorf("endpoints %q", subjects)
	}
	var stats micro.Stats
	if m, err = nc.Request("$SRV.STATS.grout", nil, 5*time.Second); err != nil || json.Unmarshal(m.Data, &stats) != nil || len(stats.Endpoints) != len(want) {
		t.Errorf("stats: %v %s", err, m.Data)
	}
}

func servicesOfBudgets(t *testing.T, w *world, nc *nats.Conn) {
	check := `{"user_id":"ann","estimated_tokens":100}`
	got := askService(t, nc, "entitlements.check", check, "X-Mozaiks-Correlation-Id", "corr-1").want(t, "200")
	request(t, w.Process, "POST", "/api/entitlements/check", check).text(t, 200, string(got.body))
	if got.header.Get("X-Mozaiks-Correlation-Id") != "corr-1" {
		t.Errorf("headers %v", got.header)
	}
	var granted struct {
		ID string `json:"reservation_id"`
	}
	askService(t, nc, "budgets.reserve", map[string]any{"user_id": "ann", "estimated_tokens": 600, "reservation_id": "r/1."}).want(t, "201").into(t, &granted)
	askService(t, nc, "budgets.reserve", map[string]any{"estimated_tokens": 600}).want(t, "402")
	askService(t, nc, "budgets.extend", map[string]any{"reservation_id": granted.ID, "ttl_seconds": 120}).want(t, "200")
	settle := map[string]any{"reservation_id": granted.ID, "event_id": "e-1", "model": "m", "input_tokens": 70, "output_tokens": 7}
	first := askService(t, nc, "budgets.settle", settle).want(t, "200")
	if again := askService(t, nc, "budgets.settle", settle).want(t, "200"); string(again.body) != string(first.body) {
		t.Errorf("settled again: %s", again.body)
	}
	askService(t, nc, "budgets.extend", map[string]any{"reservation_id": granted.ID, "ttl_seconds": 120}).want(t, "409")
	askService(t, nc, "budgets.reserve", map[string]any{"estimated_tokens": 10, "reservation_id": "r-2"}).want(t, "201")
	askService(t, nc, "budgets.release", map[string]any{"reservation_id": "r-2"}).want(t, "200")

	over := askService(t, nc, "usage.query", map[string]any{"window": "day", "group_by": []string{"user_id", "model"}}).want(t, "200")
	request(t, w.Process, "GET", "/api/usage?window=day&group_by="+url.QueryEscape("user_id,model"), nil).text(t, 200, string(over.body))
	if !strings.Contains(string(over.body), `"total_tokens":77`) {
		t.Errorf("usage %s", over.body)
	}
}

func servicesOfPlugins(t *testing.T, w *world, nc *nats.Conn) {
	for _, plugin := range []string{"echo", "mixed"} { // a busy machine takes its time to load them
		waitFor(t, func() bool { return w.execute(t, "warm", plugin, map[string]any{}).status != 503 })
	}
	var told struct {
		User    string  `json:"user_id"`
		JWT     *string `json:"user_jwt"`
		Context struct {
			UserID     string   `json:"user_id"`
			Roles      []string `json:"roles"`
			Superadmin bool     `json:"is_superadmin"`
		} `json:"_context"`
		X int
	}
	a := askService(t, nc, "plugins.execute", map[string]any{"plugin": "echo", "user_id": "ann", "data": map[string]any{"X": 5, "user_jwt": "forged", "_context": map[string]any{"roles": []string{"root"}}}}).want(t, "200")
	a.into(t, &told)
	if told.User != "ann" || told.Context.UserID != "ann" || len(told.Context.Roles) != 0 || told.Context.Superadmin || told.JWT != nil && *told.JWT != "" || told.X != 5 {
		t.Errorf("the plugin was told %s", a.body)
	}
	id := a.header.Get("X-Mozaiks-Run-Id")
	run := askService(t, nc, "runs.get", map[string]any{"run_id": id}).want(t, "200")
	request(t, w.Process, "GET", "/api/runs/"+id, nil).text(t, 200, string(run.body))
	if !strings.Contains(string(run.body), `"user_id":"ann"`) {
		t.Errorf("run %s", run.body)
	}
	askService(t, nc, "plugins.execute", map[string]any{"plugin": "mixed", "user_id": "ann", "data": map[string]any{"do": "raise"}}).want(t, "500")
	once := map[string]any{"plugin": "echo", "user_id": "ann", "data": map[string]any{"X": 6}}
	one := askService(t, nc, "plugins.execute", once, "Idempotency-Key", "k").want(t, "200")
	if two := askService(t, nc, "plugins.execute", once, "idempotency-key", "k").want(t, "200"); two.header.Get("Idempotency-Replayed") != "true" || two.header.Get("X-Mozaiks-Run-Id") != one.header.Get("X-Mozaiks-Run-Id") {
		t.Errorf("repeated: %v", two.header)
	}
}

// servicesRefused: bad input is refused as over HTTP, and who may not ask hears nobody.
func servicesRefused(t *testing.T, w *world, nc *nats.Conn) {
	deep := strings.Repeat(`{"a":`, 70) + "1" + strings.Repeat("}", 70)
	for i, x := range []struct{ service, body, status string }{
		{"entitlements.check", `{"user_id":`, "400"},
		{"entitlements.check", `[]`, "422"},
		{"entitlements.check", `{"user_id":"a","user_id":"b"}`, "400"},
		{"budgets.reserve", `{"estimated_tokens":-1}`, "422"},
		{"budgets.settle", `{"event_id":"e","input_tokens":1,"output_tokens":1}`, "422"},
		{"budgets.settle", `{"reservation_id":"unknown","event_id":"e-9","timestamp":"2026-01-01T00:00:00Z","user_id":"u","model":"m","input_tokens":1,"output_tokens":1}`, "404"},
		{"budgets.release", `{"reservation_id":5}`, "422"},
		{"budgets.release", fmt.Sprintf(`{"reservation_id":%q}`, strings.Repeat("x", 129)), "422"},
		{"usage.query", `{"windwo":"day"}`, "422"},
		{"usage.query", `{"window":"week"}`, "422"},
		{"usage.query", deep, "422"},
		{"plugins.execute", `{"plugin":"echo","data":{}}`, "422"},
		{"plugins.execute", `{"plugin":"echo","user_id":"u","data":[]}`, "422"},
		{"plugins.execute", `{"plugin":"nowhere","user_id":"u","data":{}}`, "404"},
		{"runs.get", `{"run_id":"nowhere"}`, "404"},
		{"runs.get", `{"run_id":"../usage"}`, "404"},
		{"runs.get", "", "400"},
		{"runs.get", strings.Repeat(" ", 1<<20) + `{"run_id":"x"}`, "413"},
	} {
		a := askService(t, nc, x.service, x.body)
		var body struct {
			Detail string
			Code   string `json:"error_code"`
			Status int    `json:"status_code"`
		}
		if err := json.Unmarshal(a.body, &body); err != nil || a.status != x.status || a.code != x.status || body.Detail == "" || body.Code == "" || fmt.Sprint(body.Status) != x.status {
			t.Errorf("%d: %s %.80s: %s %s, want %s (%v)", i, x.service, x.body, a.status, a.body, x.status, err)
		}
	}
	if err := nc.Publish("mozaiks.v1.svc.budgets.reserve", []byte(`{"estimated_tokens":1,"reservation_id":"unheard"}`)); err != nil {
		t.Fatal(err)
	}
	askService(t, nc, "budgets.release", `{"reservation_id":"unheard"}`).want(t, "404")
	other, err := nats.Connect(w.NATS, nats.UserInfo("consumer", process.ConsumerPassword))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, subject := range []string{"mozaiks.v1.svc.runs.get", "$SRV.PING"} {
		if m, err := other.Request(subject, []byte(`{"run_id":"x"}`), time.Second); err == nil {
			t.Errorf("a consumer asked %s and heard %s", subject, m.Data)
		}
	}
	metrics := string(request(t, w.Process, "GET", "/metrics", nil).body)
	if !strings.Contains(metrics, `grout_service_requests_total{code="404",service="runs.get"} 2`) {
		t.Error("the metrics do not count what was answered")
	}
}
