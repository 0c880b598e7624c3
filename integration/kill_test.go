package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// kills is how often TestKill kills; `make faults` sets it.
func kills(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("GROUT_FAULT_KILLS"))
	if os.Getenv("GROUT_FAULT_KILLS") == "" {
		return 3
	}
	if err != nil || n < 1 {
		t.Fatalf("GROUT_FAULT_KILLS=%q is no number", os.Getenv("GROUT_FAULT_KILLS"))
	}
	return n
}

func runOracle(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"-binary", grout, "-data", filepath.Join(t.TempDir(), "data")}, args...)
	cmd := exec.CommandContext(t.Context(), oracle, args...)
	out, err := cmd.CombinedOutput()
	t.Logf("%s\n%s", strings.Join(args[4:], " "), out)
	if err != nil {
		t.Errorf("the oracle found faults: %v", err)
	}
}

// Killed with requests in flight, at random: nothing that was answered is lost,
// nothing is counted twice, every event is in exactly one fact. No resend comes
// within a dedupe window of a stream.
func TestKill(t *testing.T) {
	n := kills(t)
	eachPartitioning(t, func(t *testing.T, partitions int) {
		if partitions > 1 {
			n = max(2, n/4)
		}
		runOracle(t, "-kills", fmt.Sprint(n), "-partitions", fmt.Sprint(partitions))
	})
}

// faultPoints are the places at which a binary built for it can be made to die.
var faultPoints = []string{
	"accept",          // a request was read, nothing is submitted
	"publish.before",  // a group is about to be published
	"publish.acked",   // the stream has it, nobody knows
	"decoded",         // a group was read from the stream
	"tx.inside",       // everything is written, nothing committed
	"tx.committed",    // committed; not answered, not relayed
	"fold.slice",      // committed, with a slice of a fold in it
	"relay.batch",     // inside an atomic batch of facts
	"relay.committed", // the batch and its marker are there, its rows too
	"relay.settle",    // just before the rows are deleted
}

func TestCrashPoints(t *testing.T) {
	n := fmt.Sprint(max(1, kills(t)/20))
	eachPartitioning(t, func(t *testing.T, partitions int) {
		for _, point := range faultPoints {
			t.Run(point, func(t *testing.T) {
				runOracle(t, "-kills", n, "-partitions", fmt.Sprint(partitions), "-crash-at", point, "-fold-every", "1000")
			})
		}
	})
}

// The files of the store are removed after a kill, again and again, while the
// command stream is trimmed: snapshots and what is left of the stream give
// everything back, and no fact is missing or repeated.
func TestLostStores(t *testing.T) {
	n := fmt.Sprint(max(2, kills(t)/4))
	eachPartitioning(t, func(t *testing.T, partitions int) {
		runOracle(t, "-kills", n, "-partitions", fmt.Sprint(partitions), "-lose-store", "-max-life", "1500ms")
	})
}
