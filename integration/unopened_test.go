package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"grout/integration/process"
)

// A stream that the embedded server cannot open is not removed with what it holds:
// the start is refused, and once the stream can be opened everything is there.
func TestStreamThatCannotBeOpened(t *testing.T) {
	for _, name := range []string{"MOZAIKS_CMD", "MOZAIKS_EVT"} {
		t.Run(name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			p := start(t, data, 1)
			request(t, p, "POST", "/api/usage/ingest", map[string]any{"events": someEvents("a", "before", 20)}).want(t, 200)
			facts(t, p, func(list []fact) bool { e, _ := recorded(t, list); return len(e) == 20 })
			stop(t, p)

			// A file in the place of a directory fails as the disk might, at the same step.
			consumers := filepath.Join(data, "nats", "jetstream", "GROUT", "streams", name, "obs")
			err := errors.Join(os.RemoveAll(consumers), os.WriteFile(consumers, nil, 0o600))
			if err != nil {
				t.Fatal(err)
			}
			refused, err := process.Start(t.Context(), process.Options{Binary: grout, Data: data})
			if err == nil {
				refused.Kill()
				t.Fatalf("it starts without %s", name)
			}
			if !strings.Contains(refused.Log(), fmt.Sprint("could not open stream ", name)) {
				t.Errorf("the refusal does not name the stream: %s", refused.Log())
			}
			if err := os.Remove(consumers); err != nil {
				t.Fatal(err)
			}

			p = start(t, data, 1)
			request(t, p, "POST", "/api/usage/ingest", map[string]any{"events": someEvents("a", "after", 20)}).want(t, 200)
			_, times := recorded(t, facts(t, p, func(list []fact) bool { e, _ := recorded(t, list); return len(e) == 40 }))
			for id, n := range times {
				if n != 1 {
					t.Errorf("event %q is in %d facts", id, n)
				}
			}
			if sums := totals(t, p, "a"); sums.Events != 40 {
				t.Errorf("%d events are counted, want 40", sums.Events)
			}
			stop(t, p)
			verifyStopped(t, data, 1)
		})
	}
}
