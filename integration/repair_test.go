package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// runRepair runs grout repair and gives its exit code, or the signal that ended it.
func runRepair(t *testing.T, data string, partitions int, crashAt string, args ...string) (code int, killed bool, out string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), grout, append([]string{"repair", "--data-dir", data, "--partitions", fmt.Sprint(partitions)}, args...)...)
	cmd.Env = append(os.Environ(), "GROUT_CRASH_AT="+crashAt)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	st := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return cmd.ProcessState.ExitCode(), st.Signaled() && st.Signal() == syscall.SIGKILL, string(text)
}

// spoil changes bits all over the pages of a file that are in use.
func spoil(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 2 * 4096; at+4096 <= len(b); at += 4096 {
		if len(bytes.Trim(b[at:at+4096], "\x00")) > 0 {
			b[at+20] ^= 8
		}
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A repair that is killed at any of its steps can be run again, and a start in between
// is right too, or refused.
func TestRepairIsKilled(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		data := filepath.Join(t.TempDir(), "data")
		p := start(t, data, partitions)
		for i := range 6 {
			request(t, p, "POST", "/api/usage/ingest", map[string]any{"events": someEvents(fmt.Sprint("app-", i), "e", 40)}).want(t, 200)
		}
		want := string(request(t, p, "GET", "/api/usage?app_id=app-1&window=hour&group_by=model", nil).want(t, 200).body)
		stop(t, p)
		store := filepath.Join(data, "store", "partition-000.db")
		check := func(point string) {
			t.Helper()
			p := start(t, data, partitions)
			if got := string(request(t, p, "GET", "/api/usage?app_id=app-1&window=hour&group_by=model", nil).want(t, 200).body); got != want {
				t.Errorf("%s: %s, before %s", point, got, want)
			}
			request(t, p, "GET", "/ready", nil).want(t, 200)
			stop(t, p)
		}
		for _, point := range []string{"repair.built", "repair.moved"} {
			for _, startBetween := range []bool{false, true} {
				spoil(t, store)
				if code, _, out := runRepair(t, data, partitions, "", "--dry-run"); code != 1 || !strings.Contains(out, "to do: ") {
					t.Fatalf("%s: a damaged store is looked at: %d %s", point, code, out)
				}
				if _, killed, out := runRepair(t, data, partitions, point+":1", "--yes"); !killed {
					t.Fatalf("%s was not reached: %s", point, out)
				}
				if startBetween && point == "repair.moved" {
					check(point) // the store is missing, which a start makes good
				}
				if code, _, out := runRepair(t, data, partitions, "", "--yes"); code != 0 {
					t.Fatalf("%s: the second repair: %d %s", point, code, out)
				}
				check(point)
			}
		}
		blocks, err := filepath.Glob(filepath.Join(data, "nats", "jetstream", "GROUT", "streams", "MOZAIKS_CMD", "msgs", "*.blk"))
		if err != nil || len(blocks) != 1 {
			t.Fatalf("%v, %v", blocks, err)
		}
		text, err := os.ReadFile(blocks[0])
		if err != nil {
			t.Fatal(err)
		}
		text[len(text)/3] ^= 1
		if err := os.WriteFile(blocks[0], text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, killed, out := runRepair(t, data, partitions, "repair.mended:1", "--yes"); !killed {
			t.Fatalf("repair.mended was not reached: %s", out)
		}
		if code, _, out := runRepair(t, data, partitions, "", "--yes"); code != 0 {
			t.Fatalf("the second repair of the stream: %d %s", code, out)
		}
		check("repair.mended")
	})
}
