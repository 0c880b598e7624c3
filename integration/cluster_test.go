package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"grout/integration/natsnode"
	"grout/integration/process"
	"grout/schemas"
)

// clusterRounds is how often something is done to the cluster; `make cluster` sets it.
func clusterRounds(t *testing.T) int {
	text := os.Getenv("GROUT_CLUSTER_ROUNDS")
	if text == "" {
		return 2
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("GROUT_CLUSTER_ROUNDS=%q is no number", text)
	}
	return n
}

// Three nodes and grout are killed, paused and started again, and the wires between
// them cut, stopped and slowed, under load: nothing that was answered is lost, nothing
// is counted twice, every event is in exactly one fact, and it works again by itself.
func TestClusterChaos(t *testing.T) {
	runOracle(t, "-cluster", "-v", "-kills", fmt.Sprint(clusterRounds(t)), "-only", os.Getenv("GROUT_CLUSTER_ONLY"))
}

func startNATS(t *testing.T) *natsnode.Cluster {
	t.Helper()
	c, err := natsnode.Start(t.Context(), t.TempDir(), natsnode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

// onCluster is the environment of a grout that runs on a cluster.
func onCluster(c *natsnode.Cluster, more ...string) []string {
	return append([]string{
		"NATS_URL=" + c.URLs(), "NATS_USER=grout", "NATS_PASSWORD=" + c.Passwords.Grout, "MOZAIKS_LEASE_TTL=2s",
		"MOZAIKS_COMMAND_MAX_BYTES=256MiB", "MOZAIKS_FACT_MAX_BYTES=256MiB", "MOZAIKS_DEAD_LETTER_MAX_BYTES=64MiB",
	}, more...)
}

// A second grout on the same cluster says whose the state is and serves nothing; it takes
// over when the first one is gone, with everything that was answered, and the first one
// stands by when it comes back. Neither is possible when what the second one needs has
// left the log.
func TestClusterStandby(t *testing.T) {
	c := startNATS(t)
	dir := t.TempDir()
	first := start(t, filepath.Join(dir, "a-data"), 1, onCluster(c)...)
	sent := map[string][]map[string]any{}
	post := func(p *process.Process, prefix string) answer {
		if sent[prefix] == nil {
			sent[prefix] = someEvents("app-1", prefix, 50)
		}
		return request(t, p, "POST", "/api/usage/ingest", map[string]any{"events": sent[prefix]})
	}
	for i := range 5 {
		post(first, fmt.Sprint("before-", i)).want(t, 200)
	}
	second := standby(t, filepath.Join(dir, "b-data"), onCluster(c)...)
	var ready struct{ Status, Reason string }
	request(t, second, "GET", "/ready", nil).want(t, 503).into(t, &ready)
	if ready.Status != "not_ready" || !strings.Contains(ready.Reason, "standby") || !strings.Contains(ready.Reason, fmt.Sprint("process ", first.PID())) {
		t.Errorf("the second one says %+v", ready)
	}
	if a := post(second, "never").want(t, 503); a.header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	request(t, second, "GET", "/api/usage?app_id=app-1", nil).want(t, 503)
	request(t, second, "GET", "/health", nil).want(t, 200)
	post(first, "still").want(t, 200)

	first.Kill()
	began := time.Now()
	awaitTrue(t, "the second one has taken over", func() bool { return statusOf(t, second, "/ready") == http.StatusOK })
	t.Logf("taken over after %s", time.Since(began).Round(time.Millisecond))
	wantEvents(t, second, "app-1", 300)
	for i := range 5 { // known to the one that took over
		var r result
		post(second, fmt.Sprint("before-", i)).want(t, 200).into(t, &r)
		if r.Duplicates != 50 {
			t.Errorf("events that the first one has counted: %+v", r)
		}
	}
	post(second, "after").want(t, 200)

	back := standby(t, filepath.Join(dir, "a-data"), onCluster(c)...)
	stop(t, second) // it gives the lease back
	awaitTrue(t, "the first one has taken over", func() bool { return statusOf(t, back, "/ready") == http.StatusOK })
	wantEvents(t, back, "app-1", 350)
	post(back, "last").want(t, 200)
	process.ConsumerPassword = c.Passwords.Consumer
	back.NATS = c.Nodes[0].URL
	_, times := recorded(t, facts(t, back, func(list []fact) bool { e, _ := recorded(t, list); return len(e) >= 400 }))
	for id, n := range times {
		if n != 1 {
			t.Errorf("event %q is in %d facts", id, n)
		}
	}
	stop(t, back)
}

func statusOf(t *testing.T, p *process.Process, path string) int {
	t.Helper()
	resp, err := http.Get(p.URL + path)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func wantEvents(t *testing.T, p *process.Process, app string, want int64) {
	t.Helper()
	var r struct {
		Totals hourRow `json:"totals"`
	}
	request(t, p, "GET", "/api/usage?app_id="+app, nil).want(t, 200).into(t, &r)
	if r.Totals.Events != want {
		t.Errorf("%d events, want %d", r.Totals.Events, want)
	}
}

// awaitTrue polls within one time limit.
func awaitTrue(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.NewTimer(60 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// standby starts a process that waits for its turn.
func standby(t *testing.T, data string, env ...string) *process.Process {
	t.Helper()
	p, err := process.Start(t.Context(), process.Options{Binary: grout, Data: data, Env: append([]string{"MOZAIKS_PARTITIONS=1"}, env...), Standby: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// A cluster that is not there yet is waited for; one that could lose what it has
// acknowledged is refused, and nothing is made in it.
func TestClusterStart(t *testing.T) {
	c := startNATS(t)
	for _, n := range c.Nodes[1:] {
		n.Kill()
	}
	started := make(chan *process.Process, 1)
	data := filepath.Join(t.TempDir(), "data")
	go func() {
		p, err := process.Start(t.Context(), process.Options{Binary: grout, Data: data, Env: onCluster(c)})
		if err != nil {
			t.Error(err)
		}
		started <- p
	}()
	select {
	case <-started:
		t.Fatal("it was ready, or had ended, without a quorum")
	case <-time.After(3 * time.Second):
	}
	for _, n := range c.Nodes[1:] {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	p := <-started
	t.Cleanup(p.Kill)
	request(t, p, "POST", "/api/usage/ingest", map[string]any{"events": someEvents("a", "e", 5)}).want(t, 200)
	stop(t, p)

	for what, env := range map[string][]string{
		"replicas":                {"MOZAIKS_NATS_REPLICAS=1"},
		"Authorization Violation": {"NATS_PASSWORD=wrong"},
	} {
		p, err := process.Start(t.Context(), process.Options{Binary: grout, Data: filepath.Join(t.TempDir(), "data"), Env: append(onCluster(c), env...)})
		if err == nil {
			p.Kill()
			t.Errorf("%s: it started", what)
		} else if !strings.Contains(strings.ToLower(p.Log()), strings.ToLower(what)) {
			t.Errorf("%s: it says %s", what, p.Log())
		}
	}
}

// A data directory that is older than what the log still holds cannot take over, and says
// so by name.
func TestClusterTrimmed(t *testing.T) {
	c := startNATS(t)
	dir := t.TempDir()
	env := onCluster(c, "MOZAIKS_SNAPSHOT_EVERY=200ms", "MOZAIKS_COMMAND_AGE=1s")
	p := start(t, filepath.Join(dir, "a-data"), 1, env...)
	nc, err := c.Connect("grout", c.Passwords.Grout)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	awaitTrue(t, "the log is trimmed", func() bool {
		n++
		request(t, p, "POST", "/api/usage/ingest", map[string]any{"events": someEvents("a", fmt.Sprint("e-", n), 5)})
		s, err := js.Stream(t.Context(), schemas.StreamCommands)
		return err == nil && s.CachedInfo().State.FirstSeq > 3
	})
	stop(t, p)
	late, err := process.Start(t.Context(), process.Options{Binary: grout, Data: filepath.Join(dir, "b-data"), Env: env})
	if err == nil {
		late.Kill()
		t.Fatal("an empty store took over a log that has lost its beginning")
	}
	if !strings.Contains(late.Log(), schemas.StreamHeadLost) {
		t.Errorf("it says %s", late.Log())
	}
	p = start(t, filepath.Join(dir, "a-data"), 1, env...)
	wantEvents(t, p, "a", int64(5*n))
	stop(t, p)
}

// The doctor finds the accounts of the examples right, and tells those that are not.
func TestClusterDoctor(t *testing.T) {
	c := startNATS(t)
	p := start(t, filepath.Join(t.TempDir(), "data"), 1, onCluster(c)...)
	defer stop(t, p)
	passwords := []string{
		"MOZAIKS_NATS_PLATFORM_PASSWORD=" + c.Passwords.Platform, "MOZAIKS_NATS_CONSUMER_PASSWORD=" + c.Passwords.Consumer,
		"MOZAIKS_NATS_ADMIN_PASSWORD=" + c.Passwords.Admin, "MOZAIKS_NATS_PLUGIN_PASSWORD=" + c.Passwords.Plugin,
	}
	list, ok := doctor(t, append(onCluster(c), passwords...)...)
	if !ok {
		t.Errorf("the doctor finds fault: %v", list)
	}
	for _, check := range []string{"user platform", "user consumer", "user admin", "user plugin", "stream MOZAIKS_CMD", "clock", "lease", "max_control_line"} {
		if list[check] != "ok" {
			t.Errorf("%s is %q", check, list[check])
		}
	}
	// As if the accounts were not apart: the consumer is let in as grout itself would be.
	wide, err := natsnode.Start(t.Context(), t.TempDir(), natsnode.Options{Accounts: func(text string) string {
		text = strings.Replace(text, "    users: [{user: consumer, password: $consumer_password}]\n", "", 1)
		return strings.Replace(text, "{user: grout, password: $grout_password}", "{user: grout, password: $grout_password}\n      {user: consumer, password: $consumer_password}", 1)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(wide.Stop)
	list, ok = doctor(t, append(onCluster(wide), "MOZAIKS_NATS_CONSUMER_PASSWORD="+wide.Passwords.Consumer)...)
	if ok || list["user consumer"] != "failed" || list["user platform"] != "skipped" {
		t.Errorf("a consumer in grout's own account is found %v", list)
	}
}

// doctor gives what became of each check, and whether the exit code was 0.
func doctor(t *testing.T, env ...string) (map[string]string, bool) {
	t.Helper()
	cmd := exec.Command(grout, "doctor", "-o", "json")
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir}, env...)
	var text, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &stderr
	err := cmd.Run()
	t.Logf("%s%s", text.Bytes(), stderr.Bytes())
	var report struct {
		OK     bool
		Checks []struct{ Check, Status string }
	}
	if err := json.Unmarshal(text.Bytes(), &report); err != nil {
		t.Fatalf("%v: %s", err, text.Bytes())
	}
	if report.OK != (err == nil) {
		t.Errorf("ok is %t, and it ended with %v", report.OK, err)
	}
	out := map[string]string{}
	for _, c := range report.Checks {
		out[c.Check] = c.Status
	}
	return out, err == nil
}
