package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// neighbours are plugins that take all they can get.
var neighbours = []struct{ name, does, body string }{
	{"spins", "spins", "while True: pass"},
	{"sessions", "spins in 16 processes with sessions of their own", "[os.setsid() for _ in range(4) if os.fork() == 0]\n    while True: pass"},
	{"allocates", "allocates", "a = []\n    while True: a.append(bytearray(1 << 20))"},
	{"forks", "forks without end", "while True:\n        if os.fork() == 0: pass"},
	{"leaves", "forks on and on", "if os.fork() == 0:\n        while True:\n            if os.fork() > 0: os._exit(0)\n            os.setsid()\n    time.sleep(9)"},
	{"prints", "prints", "while True: os.write(1, b'x' * 100000)"},
}

// Executions of a plugin beside one that takes all it can get take not much longer than
// alone, and none fails. Both are measured by turns, as the machine does not keep its pace.
func TestNeighboursOverHTTP(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("GROUT_HOSTILE_ROUNDS"))
	if err != nil {
		rounds = 1
	}
	calls, turns := min(100*rounds, 300), max(1, min(rounds/5, 10))
	files := map[string]string{"echo/logic.py": echoPlugin}
	for _, n := range neighbours {
		files[n.name+"/logic.py"] = "import os, time\ndef execute(data):\n    " + n.body
		files[n.name+"/plugin.yaml"] = "name: " + n.name + "\nlimits: {timeout: 1s, memory_bytes: 134217728}\n"
	}
	w := startPlugins(t, 1, files)
	w.warm(t, "echo")
	for _, n := range neighbours {
		w.warm(t, n.name)
	}
	user := []string{"Authorization", "Bearer " + bearer(t, "ann")}
	measure := func(took []time.Duration) []time.Duration {
		tick := time.NewTicker(8 * time.Millisecond) // as one caller who thinks
		defer tick.Stop()
		for range calls {
			<-tick.C
			began := time.Now()
			a, err := tryRequest(t.Context(), w.Process, "POST", "/api/execute/echo", `{"n":1}`, user...)
			if took = append(took, time.Since(began)); err != nil || a.status != http.StatusOK {
				t.Fatalf("a call failed: %d %s %v", a.status, a.body, err)
			}
		}
		return took
	}
	measure(nil)
	for _, n := range neighbours {
		var alone, beside []time.Duration
		ends := map[string]int{}
		for range turns {
			alone = measure(alone)
			stop := harass(t, w, n.name, user, ends)
			beside = measure(beside)
			stop()
		}
		slices.Sort(alone)
		slices.Sort(beside)
		was, is := quantile(alone, 0.99), quantile(beside, 0.99)
		t.Logf("beside a plugin that %s: p50 %s, p99 %s (%.1f times that of %s alone, p50 %s; %d calls each); its own calls: %v", n.does,
			quantile(beside, 0.5), is, float64(is)/float64(was), was, quantile(alone, 0.5), len(alone), ends)
		if len(ends) == 0 {
			t.Errorf("no call of a plugin that %s has ended", n.does)
		}
	}
}

// harass calls a plugin, one call at a time, until it is stopped, and counts how they end.
func harass(t *testing.T, w *world, plugin string, user []string, ends map[string]int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var over sync.WaitGroup
	over.Go(func() {
		for ctx.Err() == nil {
			a, err := tryRequest(t.Context(), w.Process, "POST", "/api/execute/"+plugin, `{}`, user...)
			_, code, _ := strings.Cut(string(a.body), `"error_code":"`)
			code, _, _ = strings.Cut(code, `"`)
			if ends[fmt.Sprint(a.status, " ", code)]++; err != nil || a.status < 500 {
				t.Errorf("a plugin that never ends was answered %d %s %v", a.status, a.body, err)
			}
		}
	})
	return func() { cancel(); over.Wait() }
}
