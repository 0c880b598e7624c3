package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"grout/cmd/grout/load"
)

// envGrout makes the test program be grout, for tests of what starts its own program.
const envGrout = "GROUT_TEST_IS_GROUT"

func TestMain(m *testing.M) {
	if os.Getenv(envGrout) != "" || len(os.Args) > 1 && os.Args[1] == "plugin-worker" { // of a plugin that a test starts
		main()
		return
	}
	os.Exit(m.Run())
}

func TestBenchFlags(t *testing.T) {
	for args, want := range map[string]string{
		"--events 0":                      "--events",
		"--connections 5000":              "--connections",
		"--duration 1ms":                  "--duration",
		"--rate -1":                       "--rate",
		"--apps 0":                        "--apps",
		"--span 1s":                       "--span",
		"--key-file x":                    "--key-file",
		"--stored 1000":                   "belong to --matrix",
		"--floor x":                       "belong to --matrix",
		"--matrix --url http://a":         "--url",
		"--matrix --rate 5":               "--rate",
		"--matrix --chats some":           "--chats",
		"--matrix --open-share 3":         "--open-share",
		"--matrix --stored 1500":          "multiples of 1000",
		"--matrix --stored 1000,x":        "multiples of 1000",
		"--matrix --stored 1000 --apps 0": "--apps",
	} {
		clean(t)
		code, _, stderr := grout(t, append([]string{"bench"}, strings.Fields(args)...)...)
		if code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d with %q, want %q", args, code, stderr, want)
		}
	}
}

func TestMatrixDefaults(t *testing.T) {
	o := benchOptions{connections: []int{3}, duration: time.Second}
	o.matrixDefaults(func(flag string) bool { return flag == "connections" })
	if !slices.Equal(o.connections, []int{3}) || o.duration != 2500*time.Millisecond {
		t.Errorf("%+v", o)
	}
	m := matrix{o: &benchOptions{
		events: []int{1, 2}, connections: []int{1, 2, 3}, warmup: time.Second, duration: 2 * time.Second, openShare: .7, chats: "both",
	}}
	if got := m.atLeast(1); got != 2*3*2*2*5*time.Second {
		t.Errorf("it takes at least %s", got)
	}
}

func TestParseMetrics(t *testing.T) {
	got := parseMetrics("# HELP a b 1\na{p=\"0\",d=\"x y\"} 2\na{p=\"1\"} 3\nb 1.68e+07\nbroken\nc NaN x\n")
	if len(got) != 2 || got["a"] != 5 || got["b"] != 16_800_000 {
		t.Errorf("%v", got)
	}
}

func TestCompact(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", .004: "0.00", 9.994: "9.99", 9.996: "10.0", 99.94: "99.9", 99.96: "100", 1234.5: "1,235", -4096: "-4096"} {
		if got := compact(&v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
	if compact(nil) != "?" || share(nil) != "?" {
		t.Error("what is unknown is not told")
	}
}

// Every line is as wide as the head, whatever is unknown.
func TestMatrixTable(t *testing.T) {
	var out bytes.Buffer
	p := matrixReport{out: &out}
	p.section(1000, true, true)
	us := 6.754
	for _, r := range []*matrixRow{
		{Closed: benchRun{Events: 1000, Connections: 256, EventRate: 1_234_567, P999: 12_345}, Floor: &benchRun{}},
		{
			Closed: benchRun{Events: 1, Connections: 1, CPU: &us}, Open: &benchRun{P99: 1}, Floor: &benchRun{RequestRate: 123_456},
			Visible: &visibleFigures{Samples: 1}, Left: leftBehind{Outbox: 100_000, Drain: 60}, StoreBytes: &us,
		},
	} {
		p.row(r)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 5 || !strings.HasPrefix(lines[0], "1,000 IDS STORED") || !strings.Contains(lines[4], ">60") {
		t.Fatalf("%q", lines)
	}
	for _, line := range lines[3:] {
		if utf8.RuneCountInString(line) != utf8.RuneCountInString(lines[2]) {
			t.Errorf("not as wide as its head:\n%s\n%s", lines[2], line)
		}
	}
}

// Every line of the table of plugins is as wide as its head, too.
func TestPluginTable(t *testing.T) {
	var out bytes.Buffer
	p := matrixReport{out: &out}
	p.pluginSection()
	us := 123.4
	p.plugin(&pluginRow{Plugin: "python", Closed: benchRun{Connections: 64, RequestRate: 12_345, P999: 12_345, CPU: &us}, Open: &benchRun{P99: 1}, PeakMB: &us})
	p.plugin(&pluginRow{Plugin: "go", Closed: benchRun{Connections: 1}})
	p.pluginLeftOut("node", "node is not on this machine")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 6 || !strings.Contains(lines[5], "not measured: node is not") {
		t.Fatalf("%q", lines)
	}
	for _, line := range lines[3:5] {
		if utf8.RuneCountInString(line) != utf8.RuneCountInString(lines[2]) {
			t.Errorf("not as wide as its head:\n%s\n%s", lines[2], line)
		}
	}
}

func TestNotes(t *testing.T) {
	r := matrixRow{Marks: []string{"one app"}, Closed: benchRun{Errors: map[string]int64{"status 503": 2}}, Open: &benchRun{Missed: 3}, Visible: &visibleFigures{}}
	if got, want := r.notes(), "  [one app; closed status 503: 2; open missed: 3]"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestServerEnvironment(t *testing.T) {
	got := serverEnvironment([]string{"PORT=1", "HOME=/h", "MOZAIKS_PARTITIONS=4", "INTERNAL_API_KEY=mine"}, "/d", "k")
	text := strings.Join(got, " ")
	if strings.Contains(text, "PORT=1") || strings.Contains(text, "PARTITIONS") || strings.Contains(text, "mine") ||
		!strings.Contains(text, "HOME=/h") || !strings.Contains(text, "MOZAIKS_DATA_DIR=/d") || !strings.Contains(text, "INTERNAL_API_KEY=k") {
		t.Error(text)
	}
}

// A copy has the same bytes and takes no more of the disk, also with holes.
func TestCopyTree(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	if err := os.Mkdir(filepath.Join(from, "store"), 0o700); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join("store", "file")
	text := make([]byte, 1<<20+7)
	copy(text[300_000:], "in the middle")
	if err := os.WriteFile(filepath.Join(from, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(to, name))
	if err != nil || !bytes.Equal(got, text) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	before, err1 := allocated(from)
	after, err2 := allocated(to)
	if err1 != nil || err2 != nil || after > before {
		t.Errorf("%d bytes became %d: %v %v", before, after, err1, err2)
	}
}

func TestMedians(t *testing.T) {
	got := medians([]peerFigures{{Rate: 30, P99: 1, Steal: .1}, {Rate: 10, P99: 5, Steal: .3}, {Rate: 20, P99: 9}})
	if got.Rate != 20 || got.P99 != 5 || got.Steal != .3 {
		t.Errorf("%+v", got)
	}
	if got := medians([]peerFigures{{Rate: 10}, {Rate: 20}}); got.Rate != 15 {
		t.Errorf("the median of two is %v", got.Rate)
	}
}

func TestPeerTargets(t *testing.T) {
	for _, tt := range []struct {
		target              peerTarget
		ours, theirs, floor peerFigures
		want                string
	}{
		{peerTarget{ratio: 10, rate: 100}, peerFigures{Rate: 100}, peerFigures{Rate: 10}, peerFigures{}, "10.00 ≥ 10×, ≥ 100/s yes"},
		{peerTarget{ratio: 10, rate: 101}, peerFigures{Rate: 100}, peerFigures{Rate: 10}, peerFigures{}, "10.00 ≥ 10×, ≥ 101/s no"},
		{peerTarget{ratio: 4, lowerP99: true}, peerFigures{Rate: 50, P99: 2}, peerFigures{Rate: 10, P99: 2}, peerFigures{}, "5.00 ≥ 4×, lower p99 no"},
		{peerTarget{ratio: 4, lowerP99: true}, peerFigures{Rate: 50, P99: 1}, peerFigures{Rate: 10, P99: 2}, peerFigures{}, "5.00 ≥ 4×, lower p99 yes"},
		{peerTarget{floor: .5}, peerFigures{Rate: 50}, peerFigures{Rate: 10}, peerFigures{Rate: 100}, "5.00 ≥ 0.5× the floor yes"},
		{peerTarget{floor: .5}, peerFigures{Rate: 50}, peerFigures{Rate: 10}, peerFigures{}, "5.00 ≥ 0.5× the floor no"},
	} {
		ratio, target, met := tt.target.judge(tt.ours, tt.theirs, tt.floor)
		if got := fmt.Sprintf("%s %s %s", ratio, target, met); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

func TestMatrix(t *testing.T) {
	dir := clean(t)
	t.Setenv(envGrout, "1")
	cache := filepath.Join(dir, "cache")
	args := strings.Fields("bench --matrix --events 10 --connections 2 --duration 150ms --warmup 50ms --chats with --plugins=false --stored 2000 --cache " + cache)
	for _, reused := range []bool{false, true} {
		code, stdout, stderr := grout(t, append(args, "-o", "json", "--dir", dir)...)
		if code != 0 {
			t.Fatalf("exit %d: %s", code, stderr)
		}
		var kinds, watched []string
		for line := range strings.Lines(stdout) {
			var kind struct{ Kind string }
			if err := json.Unmarshal([]byte(line), &kind); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			kinds = append(kinds, kind.Kind)
			switch kind.Kind {
			case "stored":
				var s storedData
				if err := json.Unmarshal([]byte(line), &s); err != nil || s.Events != 2000 || s.Reused != reused || s.Rate <= 0 {
					t.Errorf("%v, %+v", err, s)
				}
			case "budget":
				var r budgetRow
				if err := json.Unmarshal([]byte(line), &r); err != nil || r.Closed.Requests == 0 || r.Open == nil || len(r.Closed.Errors)+len(r.Open.Errors)+len(r.Marks) > 0 ||
					(r.Overshoot != nil) != (r.Operation == "reserve+settle") || r.Overshoot != nil && *r.Overshoot != 0 {
					t.Errorf("%v\n%s", err, line)
				}
			case "live":
				var r liveRow
				if err := json.Unmarshal([]byte(line), &r); err != nil || r.Sent == 0 || r.Received == 0 || r.Failed+r.Missing+r.Repeated > 0 ||
					r.FromSend[0] <= 0 || r.FromSend[0] > r.FromSend[1] || r.FromSend[1] > r.FromSend[2] || r.FromAnswer[2] > r.FromSend[2] {
					t.Errorf("%v\n%s", err, line)
				}
				watched = append(watched, fmt.Sprint(r.Way, " ", r.Watchers))
			case "cell":
				var r matrixRow
				if err := json.Unmarshal([]byte(line), &r); err != nil || r.Closed.Requests == 0 || r.Open == nil || r.Visible == nil || r.Visible.Samples == 0 ||
					!r.Left.Drained || len(r.Closed.Errors)+len(r.Open.Errors)+len(r.Visible.Errors) > 0 || !r.Chats || r.Ready <= 0 {
					t.Errorf("%v\n%s", err, line)
				}
			}
		}
		if !slices.Equal(kinds, []string{"machine", "cell", "budget", "budget", "budget", "live", "live", "live", "live", "live", "live", "stored", "cell"}) {
			t.Errorf("the lines are %q", kinds)
		}
		if !slices.Equal(watched, []string{"NATS 1", "SSE 10", "WebSocket 10", "NATS 1", "SSE 500", "WebSocket 500"}) {
			t.Errorf("those who watch are %q", watched)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "grout-bench-*")); len(left) > 0 {
		t.Errorf("%q is left behind", left)
	}
}

func TestBenchPlugins(t *testing.T) {
	dir := clean(t)
	t.Setenv(envGrout, "1")
	code, stdout, stderr := grout(t, "bench", "--plugins", "--connections", "2", "--duration", "150ms", "--warmup", "50ms", "-o", "json", "--dir", dir)
	if code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	var measured []string
	for line := range strings.Lines(stdout) {
		var r struct {
			pluginRow
			LeftOut string `json:"left_out"`
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if r.Kind != "plugin" {
			continue
		}
		measured = append(measured, r.Plugin)
		if r.LeftOut != "" {
			t.Logf("%s was not measured: %s", r.Plugin, r.LeftOut)
		} else if r.Closed.Requests == 0 || r.Open == nil || len(r.Closed.Errors)+len(r.Open.Errors)+len(r.Marks) > 0 || r.Closed.P50 <= 0 {
			t.Error(line)
		}
	}
	if !slices.Equal(measured, []string{"python", "node", "nats", "go"}) {
		t.Errorf("the lines are of %q", measured)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "grout-bench-*")); len(left) > 0 {
		t.Errorf("%q is left behind", left)
	}
}

// The floor answers what it is to answer, and ends when it is to.
func TestFloor(t *testing.T) {
	program := filepath.Join(t.TempDir(), "floor")
	if text, err := exec.Command("go", "build", "-o", program, "./load/testdata/floor").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	target, c, err := startFloor(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	r, err := load.Run(t.Context(), target, load.Plan{Events: 1000, Connections: 2, Requests: 10, Answer: http.StatusAccepted})
	if err != nil || r.Requests != 10 || len(r.Errors) > 0 {
		t.Errorf("%v, %d requests, errors %v", err, r.Requests, r.Errors)
	}
	if err := c.stop(syscall.SIGKILL, floorWithin); err != nil {
		t.Error(err)
	}
	if _, _, err := startFloor(t.Context(), "/bin/false"); err == nil || !strings.Contains(err.Error(), "start the floor") {
		t.Errorf("a program that ends: %v", err)
	}
}
