package app

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"grout/bus"
)

// The proof of a store whose stream was lost begins at the snapshot of its epoch.
func TestVerifyBeginsWithTheEpoch(t *testing.T) {
	cfg := runningConfig(t, 1)
	n := serve(t, cfg)
	postHistory(t, n.url, 1, 20, time.Now().UTC())
	n.stop()
	path := storePath(cfg.DataDir, 0)
	takeSnapshot(t, cfg, path) // of the first epoch: of no use in the second
	if err := os.RemoveAll(filepath.Join(cfg.DataDir, "nats")); err != nil {
		t.Fatal(err)
	}
	if v := verified(t, cfg, VerifyOptions{}, 1)[0]; v.Verdict != VerdictUnverified || !strings.Contains(v.Reason, bus.StreamRecreated) {
		t.Errorf("without its stream: %+v", v)
	}
	if err := NewEpoch(t.Context(), cfg, 0, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	began := checkpointOf(t, path, cfg, 0).Seq
	n = serve(t, cfg)
	postHistory(t, n.url, 2, 20, time.Now().UTC())
	equal := func(when string) {
		t.Helper()
		v := verified(t, cfg, VerifyOptions{}, 1)[0]
		if v.Verdict != VerdictEqual || v.Epoch != 2 || v.From != began || v.Messages == 0 {
			t.Errorf("%s: %+v", when, v)
		}
	}
	equal("beside the server")
	n.stop()
	equal("with the server stopped")
	if v := verified(t, cfg, VerifyOptions{FromStart: true}, 1)[0]; v.Verdict != VerdictUnverified || !strings.Contains(v.Reason, "epoch 2") {
		t.Errorf("from the start: %+v", v)
	}
	if err := os.RemoveAll(snapshotDir(cfg.DataDir, 0)); err != nil {
		t.Fatal(err)
	}
	if v := verified(t, cfg, VerifyOptions{}, 1)[0]; v.Verdict != VerdictUnverified || !strings.Contains(v.Reason, "epoch 2") {
		t.Errorf("without a snapshot: %+v", v)
	}
}
