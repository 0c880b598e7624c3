package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A few harmed files of every kind: what is answered is right, or what is wrong is
// named. make damage does the same thousands of times.
func TestDamage(t *testing.T) {
	program := filepath.Join(t.TempDir(), "damage")
	if err := build(program, "grout/integration/damage"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), program, "-binary", grout, "-dir", dir, "-rounds", "1", "-events", "3000", "-most", "6")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("damage that was not named: %v", err)
	}
	// A second run has nothing left to do.
	out, err = exec.CommandContext(t.Context(), program, "-binary", grout, "-dir", dir, "-rounds", "1", "-events", "3000", "-most", "6").CombinedOutput()
	if err != nil || !strings.Contains(string(out), " 0 rounds to do") {
		t.Errorf("a run that was finished began anew: %v\n%s", err, out)
	}
}
