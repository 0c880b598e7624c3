package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"grout/integration/process"
)

// browser is a headless Chromium, driven over its DevTools.
type browser struct {
	t       *testing.T
	ws      *websocket.Conn
	id      int
	session string
}

// startBrowser starts the Chromium that GROUT_BROWSER names, else one that is installed.
// Without GROUT_BROWSER and without one, the test is skipped.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	path := os.Getenv("GROUT_BROWSER")
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path == "" {
			path, _ = exec.LookPath(name)
		}
	}
	if path == "" {
		t.Skip("NOT TESTED: there is no Chromium on this machine; install one, or name it in GROUT_BROWSER")
	}
	dir := t.TempDir()
	cmd := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-port=0", "--user-data-dir="+dir, "about:blank")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its own group
		_ = cmd.Wait()
	})
	var at string
	waitFor(t, func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "DevToolsActivePort"))
		port, path, found := strings.Cut(strings.TrimSpace(string(text)), "\n")
		at = "ws://127.0.0.1:" + port + path
		return err == nil && found
	})
	ws, _, err := websocket.Dial(t.Context(), at, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	ws.SetReadLimit(16 << 20)
	return &browser{t: t, ws: ws}
}

// call asks the browser for something, and reads until it has answered.
func (b *browser) call(method string, params map[string]any) map[string]any {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 60*time.Second)
	defer cancel()
	b.id++
	ask := map[string]any{"id": b.id, "method": method, "params": params}
	if b.session != "" {
		ask["sessionId"] = b.session
	}
	text, err := json.Marshal(ask)
	if err == nil {
		err = b.ws.Write(ctx, websocket.MessageText, text)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	for {
		_, text, err := b.ws.Read(ctx)
		if err != nil {
			b.t.Fatal(err)
		}
		var said struct {
			ID     int
			Result map[string]any
			Error  map[string]any
		}
		if err := json.Unmarshal(text, &said); err != nil {
			b.t.Fatal(err)
		}
		if said.ID != b.id {
			continue
		}
		if said.Error != nil {
			b.t.Fatalf("%s: %v", method, said.Error)
		}
		return said.Result
	}
}

// visit opens a page in a tab of its own.
func (b *browser) visit(at string) {
	b.t.Helper()
	b.session = ""
	target := b.call("Target.createTarget", map[string]any{"url": "about:blank"})
	b.session, _ = b.call("Target.attachToTarget", map[string]any{"targetId": target["targetId"], "flatten": true})["sessionId"].(string)
	b.call("Page.navigate", map[string]any{"url": at})
	waitFor(b.t, func() bool {
		return b.run(`document.readyState + location.origin`) == "complete"+strings.TrimSuffix(at, "/")
	})
}

// run runs JavaScript in the page, and gives what its promise comes to.
func (b *browser) run(script string) string {
	b.t.Helper()
	said := b.call("Runtime.evaluate", map[string]any{"expression": script, "awaitPromise": true, "returnByValue": true})
	if what, failed := said["exceptionDetails"]; failed {
		b.t.Fatalf("%s: %v", script, what)
	}
	result, _ := said["result"].(map[string]any)
	return fmt.Sprint(result["value"])
}

// openSocketScript opens a socket, and says how that goes on until it is closed, or until so
// many frames have come.
const openSocketScript = `new Promise(done => {
  const said = [], begin = Date.now();
  const ws = %s;
  ws.onopen = () => said.push("open " + ws.protocol);
  ws.onmessage = m => {
    const f = JSON.parse(m.data);
    said.push(f.sequence + " " + f.type);
    if (said.length > %d) { ws.onclose = null; ws.close(); done(said.join("\n")); }
  };
  ws.onclose = e => { said.push("close " + e.code + " " + e.reason); done(said.join("\n")); };
})`

// What a browser sees: close codes with their reasons behind the upgrade, the subprotocol
// echoed, the token in the query, the end of a token, origins; events with CORS, which come
// back by themselves where they were.
func TestLiveInABrowser(t *testing.T) {
	b := startBrowser(t)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<!doctype html><title>page</title>"))
	}))
	defer page.Close()
	foreign := "http://localhost:" + page.URL[strings.LastIndexByte(page.URL, ':')+1:]
	data, addr := filepath.Join(t.TempDir(), "data"), steadyAddr(t)
	env := []string{"MOZAIKS_ALLOWED_ORIGINS=" + page.URL, "MOZAIKS_HTTP_ADDR=" + addr}
	p := startLive(t, data, env...)
	tell(t, p, "chat 1", "ann", "r1", "run_started", "")
	tell(t, p, "chat 1", "ann", "r1", "run_completed", "")
	tell(t, p, "chat 2", "ben", "r2", "run_started", "")
	ann := bearer(t, "ann")
	socket := func(chat, user, query, token string) string {
		at := strings.Replace(socketURL(p, chat, user, query), "http:", "ws:", 1)
		if token == "" {
			return fmt.Sprintf("new WebSocket(%q)", at)
		}
		return fmt.Sprintf("new WebSocket(%q, [%q])", at, "access_token."+token)
	}
	b.visit(page.URL + "/")
	for _, c := range []struct {
		name, socket string
		frames       int
		want         string
	}{
		{"subprotocol", socket("chat 1", "ann", "last_sequence=0", ann), 4, "open access_token." + ann + "\n1 chat.orchestration.run_started\n1 agui.lifecycle.RunStarted\n2 chat.orchestration.run_completed\n2 agui.lifecycle.RunFinished"},
		{"query", socket("chat 1", "ann", "last_sequence=1&access_token="+ann, ""), 2, "open \n2 chat.orchestration.run_completed\n2 agui.lifecycle.RunFinished"},
		{"no token", socket("chat 1", "ann", "", ""), 9, "open \nclose 4001 Not authenticated"},
		{"bad token", socket("chat 1", "ann", "", "a.b.c"), 9, "open access_token.a.b.c\nclose 4001 Could not validate credentials"},
		{"other user", socket("chat 1", "ben", "", ann), 9, "open access_token." + ann + "\nclose 4003 The token is not for this app and user"},
		{"foreign chat", socket("chat 2", "ann", "", ann), 9, "open access_token." + ann + "\nclose 4003 The chat is not yours"},
		{"future", socket("chat 1", "ann", "last_sequence=3", ann), 9, "open access_token." + ann + "\nclose 4400 last_sequence is beyond the chat's last number"},
	} {
		if got := b.run(fmt.Sprintf(openSocketScript, c.socket, c.frames)); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
	short := tokenUntil(t, "ann", time.Now().Add(3*time.Second))
	begin := time.Now()
	if got := b.run(fmt.Sprintf(openSocketScript, socket("chat 1", "ann", "", short), 9)); got != "open access_token."+short+"\nclose 4001 The token has expired" || time.Since(begin) > 6*time.Second {
		t.Errorf("a token that expires, after %s:\n%s", time.Since(begin), got)
	}

	// The example of docs/live.md.
	example := strings.ReplaceAll(codeOf(t, "../docs/live.md", "js"), "wss://grout.example.com", "ws://"+addr)
	b.run(`window.shown = []; function show(f) { shown.push(f.sequence + " " + f.type) }` + "\n" + example + fmt.Sprintf("\nwatch('dev_app', 'chat 1', 'ann', %q)", ann))
	waitFor(t, func() bool {
		return b.run(`shown.join("\n")`) == "1 chat.orchestration.run_started\n1 agui.lifecycle.RunStarted\n2 chat.orchestration.run_completed\n2 agui.lifecycle.RunFinished"
	})

	// Events, over the end of grout.
	b.run(fmt.Sprintf(`window.said = []; window.source = new EventSource(%q);
		source.onopen = () => said.push("open");
		for (const kind of ["chat.orchestration.run_started", "chat.orchestration.run_completed", "agui.lifecycle.RunStarted"])
			source.addEventListener(kind, e => said.push(JSON.parse(e.data).sequence + " " + e.type)); ""`,
		p.URL+"/api/events/stream?chat_id=chat+1&last_event_id=0&access_token="+ann))
	said := func() string { return b.run(`said.join("\n")`) }
	first := "open\n1 chat.orchestration.run_started\n1 agui.lifecycle.RunStarted\n2 chat.orchestration.run_completed"
	waitFor(t, func() bool { return said() == first })
	stop(t, p)
	p = startLive(t, data, env...)
	tell(t, p, "chat 1", "ann", "r3", "run_started", "")
	want := first + "\nopen\n3 chat.orchestration.run_started\n3 agui.lifecycle.RunStarted"
	deadline := time.Now().Add(20 * time.Second)
	waitFor(t, func() bool { return said() == want || time.Now().After(deadline) })
	if got := said(); got != want {
		t.Errorf("events:\n%s\nwant\n%s", got, want)
	}
	b.run(`source.close()`)

	b.visit(foreign + "/")
	if got := b.run(fmt.Sprintf(openSocketScript, socket("chat 1", "ann", "last_sequence=0", ann), 9)); got != "close 1006 " {
		t.Errorf("a page of another origin:\n%s", got)
	}
	if got := b.run(fmt.Sprintf(`fetch(%q).then(r => r.text(), e => "refused")`, p.URL+"/health")); got != "refused" {
		t.Errorf("a page of another origin has read %s", got)
	}
	if err := b.ws.Close(websocket.StatusNormalClosure, ""); err != nil && !errors.Is(err, context.Canceled) {
		t.Log(err)
	}
	stop(t, p)
}

// codeOf gives the first code block of a language of a document.
func codeOf(t testing.TB, path, language string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n```"+language+"\n")
	code, _, ended := strings.Cut(rest, "\n```")
	if !found || !ended {
		t.Fatalf("%s has no code in %s", path, language)
	}
	return code
}

// The example of docs/live.md in Python, over a kill of grout.
func TestLiveExample(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("NOT TESTED: there is no python3 on this machine")
	}
	data, addr := filepath.Join(t.TempDir(), "data"), steadyAddr(t)
	p := startLive(t, data, "MOZAIKS_HTTP_ADDR="+addr)
	tell(t, p, "c", "ann", "r1", "run_started", "")
	script := codeOf(t, "../docs/live.md", "python") + `

import sys
for frame in events(sys.argv[1], sys.argv[2]):
    print(frame["sequence"], frame["type"], flush=True)
`
	cmd := exec.CommandContext(t.Context(), python, "-c", script, p.URL+"/api/events/stream?chat_id=c", process.InternalKey)
	out := &buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	waitFor(t, func() bool { return liveMetric(t, p, `grout_live_clients{transport="sse"}`) == 1 })
	tell(t, p, "c", "ann", "r1", "agent_started", `,"agent":"Writer"`)
	waitFor(t, func() bool { return strings.Count(out.String(), "\n") == 2 })
	p.Kill()
	p = startLive(t, data, "MOZAIKS_HTTP_ADDR="+addr)
	tell(t, p, "c", "ann", "r1", "run_completed", "")
	want := "2 chat.orchestration.agent_started\n2 agui.lifecycle.StepStarted\n3 chat.orchestration.run_completed\n3 agui.lifecycle.RunFinished\n"
	deadline := time.Now().Add(15 * time.Second)
	waitFor(t, func() bool { return out.String() == want || time.Now().After(deadline) })
	if got := out.String(); got != want {
		t.Errorf("it printed\n%s\nwant\n%s", got, want)
	}
}
