package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"grout/integration/process"
)

// jwtSecret signs the user tokens of tests that start a grout with plugins.
const jwtSecret = "integration-jwt-secret-0123456789abcdef"

// bearer is a token of a user, good for an hour.
func bearer(t testing.TB, user string, roles ...string) string {
	t.Helper()
	claims := jwt.MapClaims{"sub": user, "exp": time.Now().Add(time.Hour).Unix(), "email": user + "@example.com", "roles": roles}
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(jwtSecret))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// pluginFiles writes plugins, by path inside the folder of all of them.
func pluginFiles(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// world is a grout with plugins.
type world struct {
	*process.Process
	data, plugins string
	partitions    int
	env           []string
}

func startPlugins(t testing.TB, partitions int, files map[string]string, env ...string) *world {
	t.Helper()
	root := t.TempDir()
	// At the end grout is killed. Its workers end a moment later, and may still write.
	t.Cleanup(func() { waitFor(t, func() bool { return os.RemoveAll(root) == nil }) })
	w := &world{data: filepath.Join(root, "data"), plugins: filepath.Join(root, "plugins"), partitions: partitions}
	w.env = append([]string{"MOZAIKS_PLUGINS_PATH=" + w.plugins, "JWT_SECRET=" + jwtSecret}, env...)
	pluginFiles(t, w.plugins, files)
	w.restart(t)
	return w
}

func (w *world) restart(t testing.TB) {
	t.Helper()
	w.Process = start(t, w.data, w.partitions, w.env...)
}

// execute calls a plugin for a user; headers come in pairs.
func (w *world) execute(t testing.TB, user, plugin string, body any, headers ...string) answer {
	t.Helper()
	headers = append([]string{"X-Internal-API-Key", "", "Authorization", "Bearer " + bearer(t, user)}, headers...)
	return request(t, w.Process, "POST", "/api/execute/"+plugin, body, headers...)
}

// warm waits until each of some plugins has a worker with nothing to do: a busy machine
// takes its time to load them, and to start another one for a worker that has ended.
func (w *world) warm(t testing.TB, plugins ...string) {
	t.Helper()
	waitWithin(t, 2*time.Minute, func() bool {
		text := string(request(t, w.Process, "GET", "/metrics", nil).want(t, 200).body)
		return !slices.ContainsFunc(plugins, func(plugin string) bool {
			return pluginMetric(text, "grout_plugin_workers", plugin) <= pluginMetric(text, "grout_plugin_workers_busy", plugin)
		})
	})
}

// pluginMetric is what the metrics say of a plugin; 0: nothing.
func pluginMetric(text, name, plugin string) (n int) {
	_, rest, _ := strings.Cut(text, fmt.Sprintf("\n%s{plugin=%q} ", name, plugin))
	line, _, _ := strings.Cut(rest, "\n")
	n, _ = strconv.Atoi(line)
	return n
}

func (w *world) sync(t testing.TB, manifest string) {
	t.Helper()
	request(t, w.Process, "POST", "/api/internal/entitlement/sync", manifest).want(t, 200)
}

func (a answer) text(t testing.TB, status int, want string) answer {
	t.Helper()
	if a.status != status || string(a.body) != want {
		t.Errorf("answered %d %s\nwant     %d %s", a.status, a.body, status, want)
	}
	return a
}

const echoPlugin = `
def execute(data):
    return data
`

// mixedPlugin does what its input says.
const mixedPlugin = `
import os, sys, time

def execute(data):
    do = data.get("do")
    if do == "raise":
        raise ValueError("boom")
    if do == "exit":
        os._exit(0)
    if do == "set":
        return {"items": {1}}
    if do == "object":
        return object()
    if do == "error":
        return {"error": "no such invoice"}
    if do == "code":
        return {"error": "no such invoice", "error_code": "NO_INVOICE"}
    if do == "falsy":
        return {"error": "", "error_code": "X"}
    if do == "sleep":
        time.sleep(data.get("for", 60))
    return {"done": do}
`

// Every row of the table of contract §4, through HTTP, with the whole body.
func TestExecuteTable(t *testing.T) {
	limits := `
schema_version: "1.0"
plugin: %s
features: {gen: {default: false}}
limits: {items: {type: consumable, reset: daily, default: 1}, none: {type: consumable, reset: daily, default: 0}}
actions: {make: {consumes: {items: 1}}, most: {consumes: {none: 1}}, gen: {requires_features: [gen]}}
`
	w := startPlugins(t, 1, map[string]string{
		"echo/logic.py": echoPlugin, "mixed/backend/logic.py": mixedPlugin, "mixed/plugin.yaml": "name: mixed\nlimits: {timeout: 1s}\n",
		"off/logic.py": echoPlugin, "off/plugin.yaml": "name: off\nenabled: false\n",
		"broken/logic.py": "def execute(data:\n", "blocked/logic.py": echoPlugin,
		"made/logic.py": echoPlugin, "made/entitlements.yaml": fmt.Sprintf(limits, "made"),
		"narrow/logic.py": mixedPlugin, "narrow/plugin.yaml": "name: narrow\nlimits: {concurrency: 1, queue: 1, queue_timeout: 200ms}\n",
	}, "MONETIZATION=1")
	manifest := func(user, more string) {
		w.sync(t, fmt.Sprintf(`{"version":"1.1","app_id":"dev_app","user_id":%q,%s}`, user, more))
	}
	manifest("ann", `"plan":{"tier":"free"},"plugins":{"blocked":["blocked"]}`)
	manifest("canceled", `"plan":{"tier":"pro","status":"canceled"}`)
	manifest("expired", `"plan":{"tier":"pro","expires_at":"2026-01-02T03:04:05Z"}`)
	manifest("spent", `"plan":{"tier":"pro"},"token_budget":{"period":"monthly","total_tokens":{"limit":100,"used":100,"enforcement":"hard"}}`)
	manifest("often", `"plan":{"tier":"pro"},"rate_limits":{"requests_per_minute":1}`)

	refusal := func(detail, code string, status int) string {
		return fmt.Sprintf(`{"detail":%q,"error_code":%q,"status_code":%d}`, detail, code, status)
	}
	none := []string{"X-Internal-API-Key", "", "Authorization", ""}
	request(t, w.Process, "POST", "/api/execute/echo", "{}", none...).text(t, 401, refusal("Not authenticated", "UNAUTHORIZED", 401))
	request(t, w.Process, "POST", "/api/execute/echo", "{}", "X-Internal-API-Key", process.InternalKey).text(t, 401, refusal("Not authenticated", "UNAUTHORIZED", 401))
	request(t, w.Process, "POST", "/api/execute/echo", "{}", "X-Internal-API-Key", "", "Authorization", "Bearer x.y.z").text(t, 401, refusal("Could not validate credentials", "UNAUTHORIZED", 401))

	w.warm(t, "echo", "made", "mixed", "narrow")
	waitWithin(t, time.Minute, func() bool { return strings.Contains(listedPlugins(t, w), "broken false true") })
	for _, c := range []struct {
		name, user, plugin, body string
		status                   int
		want                     string
	}{
		{"unknown", "ann", "nothing", "{}", 404, refusal("Plugin 'nothing' not found or disabled", "NOT_FOUND", 404)},
		{"disabled", "ann", "off", "{}", 404, refusal("Plugin 'off' not found or disabled", "NOT_FOUND", 404)},
		{"a path", "ann", "..%2Fecho", "{}", 404, refusal("Plugin '../echo' not found or disabled", "NOT_FOUND", 404)},
		{"does not load", "ann", "broken", "{}", 404, refusal("Plugin 'broken' not found.", "PLUGIN_LOAD_FAILED", 404)},
		{"does not load, and no JSON", "ann", "broken", "nonsense", 404, refusal("Plugin 'broken' not found.", "PLUGIN_LOAD_FAILED", 404)},
		{"no JSON", "ann", "blocked", `{"a":`, 400, refusal("Invalid JSON payload", "INVALID_JSON", 400)},
		{"no object", "ann", "blocked", `[1]`, 400, refusal("Invalid JSON payload", "INVALID_JSON", 400)},
		{"not unlocked", "ann", "blocked", `{}`, 403, refusal("Access denied: Subscription does not allow 'blocked'.", "FORBIDDEN", 403)},
		{"not unlocked, dry", "ann", "blocked", `{"_entitlement_dry_run":true}`, 403, refusal("Access denied: Subscription does not allow 'blocked'.", "FORBIDDEN", 403)},
		{"feature", "ann", "made", `{"action":"gen"}`, 403, refusal("Feature 'gen' not available on free tier", "FEATURE_GATED", 403)},
		{"canceled", "canceled", "made", `{}`, 402, refusal("Plan is canceled.", "PLAN_EXPIRED", 402)},
		{"expired", "expired", "echo", `{}`, 402, refusal("Plan expired at 2026-01-02T03:04:05Z.", "PLAN_EXPIRED", 402)},
		{"budget", "spent", "echo", `{}`, 402, refusal("Token budget exceeded: 100/100 tokens used.", "TOKEN_BUDGET_EXCEEDED", 402)},
		{"limit", "ann", "made", `{"action":"most"}`, 429, refusal("Insufficient none: need 1, have 0", "LIMIT_EXCEEDED", 429)},
		{"dry run", "ann", "made", `{"action":"make","_entitlement_dry_run":true}`, 200, `{"dry_run":true,"allowed":true,"would_consume":{"items":1}}`},
		{"dry run of no action", "ann", "made", `{"_entitlement_dry_run":true}`, 200, `{"dry_run":true,"allowed":true,"would_consume":{}}`},
		{"timed out", "ann", "mixed", `{"do":"sleep"}`, 500, refusal("Plugin execution timed out after 1.0 seconds", "PLUGIN_TIMEOUT", 500)},
		{"raised", "ann", "mixed", `{"do":"raise"}`, 500, refusal("Error executing plugin: boom", "PLUGIN_ERROR", 500)},
		{"error", "ann", "mixed", `{"do":"error"}`, 500, refusal("no such invoice", "PLUGIN_ERROR", 500)},
		{"error with a code", "ann", "mixed", `{"do":"code"}`, 500, refusal("no such invoice", "NO_INVOICE", 500)},
		{"no error", "ann", "mixed", `{"do":"falsy"}`, 200, `{"error":"","error_code":"X"}`},
		{"encoded as a list", "ann", "mixed", `{"do":"set"}`, 200, `{"items":[1]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.plugin == "mixed" { // the call before may have cost it its worker
				w.warm(t, "mixed")
			}
			a := w.execute(t, c.user, c.plugin, c.body)
			a.text(t, c.status, c.want)
			if retry := a.header.Get("Retry-After"); (retry != "") != (c.status == 429) {
				t.Errorf("Retry-After is %q", retry)
			}
			if ran := c.status == 500 || c.status == 200 && !strings.Contains(c.body, "dry"); (a.header.Get("X-Mozaiks-Run-Id") != "") != ran {
				t.Errorf("X-Mozaiks-Run-Id is %q", a.header.Get("X-Mozaiks-Run-Id"))
			}
		})
	}
	for _, do := range []string{"exit", "object"} {
		w.warm(t, "mixed")
		a := w.execute(t, "ann", "mixed", fmt.Sprintf(`{"do":%q}`, do))
		if a.status != 500 || !strings.HasPrefix(string(a.body), `{"detail":"Error executing plugin: `) || !strings.HasSuffix(string(a.body), `,"error_code":"PLUGIN_ERROR","status_code":500}`) {
			t.Errorf("%s: answered %d %s", do, a.status, a.body)
		}
	}
	t.Run("rate limit", func(t *testing.T) {
		w.execute(t, "often", "echo", `{}`).want(t, 200)
		a := w.execute(t, "often", "echo", `{}`)
		if a.refusal(t, 429, "RATE_LIMITED"); a.header.Get("Retry-After") == "" {
			t.Error("Retry-After is missing")
		}
	})
	t.Run("consumable", func(t *testing.T) {
		w.execute(t, "ann", "made", `{"action":"make"}`).want(t, 200)
		a := w.execute(t, "ann", "made", `{"action":"make"}`).text(t, 429, refusal("Insufficient items: need 1, have 0", "LIMIT_EXCEEDED", 429))
		if seconds, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || seconds < 1 || seconds > 24*3600 {
			t.Errorf("Retry-After is %q", a.header.Get("Retry-After"))
		}
	})
	t.Run("busy", func(t *testing.T) { testBusy(t, w, refusal("Plugin 'narrow' is busy", "PLUGIN_BUSY", 503)) })
	t.Run("list", func(t *testing.T) {
		if text := listedPlugins(t, w); text != "broken false true, echo true false, made true false, mixed true false, narrow true false, off false false" {
			t.Errorf("listed: %s", text)
		}
		var health struct {
			Loaded int `json:"plugins_loaded"`
		}
		request(t, w.Process, "GET", "/health", nil).want(t, 200).into(t, &health)
		if health.Loaded != 5 {
			t.Errorf("plugins_loaded is %d", health.Loaded)
		}
	})
	stop(t, w.Process)
	if list, code, text := verify(t, w.data, 1, nil); code != 0 {
		t.Errorf("verify ends with %d, %s, %+v", code, text, list)
	}
}

// listedPlugins tells of every plugin whether it is enabled and has an error.
func listedPlugins(t testing.TB, w *world) string {
	t.Helper()
	var list struct {
		Plugins []struct {
			Name, Error string
			Enabled     bool
		}
	}
	request(t, w.Process, "GET", "/api/plugins", nil, "X-Internal-API-Key", "", "Authorization", "Bearer "+bearer(t, "ann")).want(t, 200).into(t, &list)
	var got []string
	for _, p := range list.Plugins {
		got = append(got, fmt.Sprint(p.Name, " ", p.Enabled, " ", p.Error != ""))
	}
	return strings.Join(got, ", ")
}

// testBusy: one call runs, one waits too long in the queue, and for a third there is no
// room; none of the two makes a run.
func testBusy(t *testing.T, w *world, want string) {
	w.warm(t, "narrow")
	release := make(chan struct{})
	go func() {
		defer close(release)
		w.execute(t, "ann", "narrow", `{"do":"sleep","for":25}`)
	}()
	waitFor(t, func() bool { return len(listRuns(t, w, "plugin=narrow")) == 1 })
	waited := make(chan answer, 3)
	for range 3 {
		go func() { waited <- w.execute(t, "ann", "narrow", `{}`) }()
	}
	for range 3 {
		if a := (<-waited).text(t, 503, want); a.header.Get("Retry-After") == "" {
			t.Error("Retry-After is missing")
		}
	}
	request(t, w.Process, "POST", "/api/runs/"+listRuns(t, w, "plugin=narrow")[0].ID+"/cancel", nil).want(t, 200)
	<-release
	if list := listRuns(t, w, "plugin=narrow"); len(list) != 1 {
		t.Errorf("%d runs", len(list))
	}
}

// waitFor polls until something holds.
func waitFor(t testing.TB, holds func() bool) {
	t.Helper()
	waitWithin(t, 20*time.Second, holds)
}

func waitWithin(t testing.TB, limit time.Duration, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for !holds() {
		select {
		case <-look.C:
		case <-deadline.C:
			t.Fatal("it did not come about in time")
		}
	}
}

// No reserved field of a body reaches the plugin, wherever and however it is written, and
// the raw token is nowhere but there: in no command, log, fact, answer, store or snapshot.
func TestSpoofing(t *testing.T) {
	w := startPlugins(t, 1, map[string]string{
		"echo/logic.py": "from core.event_bus import publish\ndef execute(data):\n    print('the token is', data['user_jwt'])\n    publish('seen', {'token': data['user_jwt']})\n" +
			"    if data.get('fail'):\n        raise ValueError(data['user_jwt'])\n    seen = dict(data)\n    seen['has_jwt'] = len(data['user_jwt'])\n    return seen\n",
	}, "MOZAIKS_SNAPSHOT_EVERY=100ms")
	token := bearer(t, "ann", "editor")
	signature := token[strings.LastIndex(token, ".")+1:][:30]
	const marker = "q7Zk2LxVb9Tn4Wc8Rj5M"
	headers := []string{"X-Internal-API-Key", "", "Authorization", "Bearer " + token}
	for _, body := range []string{
		`{"app_id":"evil","user_id":"root","user_jwt":"forged","_context":{"is_superadmin":true},"_entitlements":{"enforce":false},"q":"` + marker + `"}`,
		`{"q":1,"_entitlements":{"tier":"pro"},"user\u005fid":"root","\u005fcontext":{"roles":["admin"]},"user_jwt":null,"app_id":{"a":1}}`,
		`{"user_id":["root"],"USER_ID":"upper","q":{"deep":1}}`,
	} {
		a := request(t, w.Process, "POST", "/api/execute/echo", body, headers...).want(t, 200)
		var seen map[string]any
		a.into(t, &seen)
		context, _ := json.Marshal(seen["_context"])
		entitlements, _ := json.Marshal(seen["_entitlements"])
		if seen["app_id"] != "dev_app" || seen["user_id"] != "ann" || string(entitlements) != "{}" || seen["has_jwt"] != float64(len(token)) ||
			string(context) != `{"app_id":"dev_app","is_superadmin":false,"roles":["editor"],"user_id":"ann","username":"ann"}` {
			t.Errorf("of %s the plugin was given %s", body, a.body)
		}
		if bytes.Contains(a.body, []byte(signature)) {
			t.Error("the answer holds the token")
		}
	}
	failed := request(t, w.Process, "POST", "/api/execute/echo", `{"fail":true}`, headers...).want(t, 500)
	request(t, w.Process, "POST", "/api/execute/echo", `{}`, append(headers, "Idempotency-Key", "k")...).want(t, 200)
	request(t, w.Process, "POST", "/api/execute/echo", `{}`, append(headers, "Prefer", "respond-async")...).want(t, 202)
	waitFor(t, func() bool { return len(listRuns(t, w, "status=in_progress")) == 0 })
	list, err := json.Marshal(facts(t, w.Process, func(list []fact) bool { return len(list) > 15 }))
	if err != nil {
		t.Fatal(err)
	}
	logged := w.Log()
	snapshots := filepath.Join(w.data, "snapshots")
	waitFor(t, func() bool {
		files, _ := filepath.Glob(filepath.Join(snapshots, "*", "*"))
		return len(files) > 0
	})
	stop(t, w.Process)
	for where, text := range map[string][]byte{"answer": failed.body, "facts": list, "log": []byte(logged + w.Log())} {
		if bytes.Contains(text, []byte(signature)) {
			t.Errorf("the token is in the %s", where)
		}
	}
	found := map[bool]int{}
	err = filepath.WalkDir(w.data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(signature)) {
			t.Errorf("the token is in %s", path)
		}
		found[bytes.Contains(text, []byte(marker))]++
		return err
	})
	if err != nil || found[true] == 0 { // what a body says can be found that way
		t.Errorf("of %v files none holds the body, %v", found, err)
	}
}

// Files that hold secrets of grout's are hidden from plugins wherever they lie; their
// neighbours are not.
func TestSecretFilesStayUnread(t *testing.T) {
	dir := t.TempDir()
	pluginFiles(t, dir, map[string]string{"platform_key": "top secret", "hook": "whsec_" + strings.Repeat("QUFB", 8), "note": "fine"})
	settings := filepath.Join(dir, "grout.yaml")
	hooks := fmt.Sprintf("webhooks:\n  - {name: a, url: https://example.com/, secret_files: [%s]}\n", filepath.Join(dir, "hook"))
	pluginFiles(t, dir, map[string]string{"grout.yaml": hooks})
	w := startPlugins(t, 1, map[string]string{"reads/logic.py": `
def read(path):
    try:
        return open(path).read()
    except PermissionError:
        return None
def execute(data):
    return [read(path) for path in data["paths"]]
`}, "MOZAIKS_CONFIG="+settings, "MOZAIKS_CONTROL_PLANE_KEY_FILE="+filepath.Join(dir, "platform_key"))
	if strings.Contains(w.Log(), "trusted") {
		t.Skip("this kernel cannot hide files from plugins")
	}
	var paths []string
	for _, name := range []string{"platform_key", "hook", "grout.yaml", "note"} {
		paths = append(paths, filepath.Join(dir, name))
	}
	w.execute(t, "ann", "reads", map[string]any{"paths": paths}).text(t, 200, `[null,null,null,"fine"]`)
}
