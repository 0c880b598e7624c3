package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// serverState is what a server tells in its metrics, and what it has on the disk.
type serverState struct {
	backlog, queue, outbox     int64
	events                     int64 // counted since the start
	transactions, commit       float64
	storeBytes, streamBytes    int64 // allocated by the file system
	identities, identityMemory int64
}

// drained says that everything that was taken has been applied and published.
func (s *serverState) drained() bool { return s.backlog == 0 && s.queue == 0 && s.outbox == 0 }

// readState asks a server that keeps its data below a directory.
func readState(ctx context.Context, url, data string) (s serverState, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return s, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, fmt.Errorf("read the metrics: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	if err != nil {
		return s, fmt.Errorf("read the metrics: %w", err)
	}
	m := parseMetrics(string(text))
	s = serverState{
		backlog: int64(m["grout_apply_backlog_messages"]), queue: int64(m["grout_accept_queue_commands"]), outbox: int64(m["grout_outbox_rows"]),
		events: int64(m["grout_usage_events_total"]), transactions: m["grout_store_transactions_total"], commit: m["grout_store_commit_seconds_total"],
		identities: int64(m["grout_ids"]), identityMemory: int64(m["grout_id_table_bytes"]),
	}
	s.storeBytes, err = allocated(filepath.Join(data, "store"))
	if err != nil {
		return s, err
	}
	s.streamBytes, err = allocated(filepath.Join(data, "nats"))
	return s, err
}

// parseMetrics reads Prometheus's text format and adds up what differs in labels only.
func parseMetrics(text string) map[string]float64 {
	sums := map[string]float64{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		name, _, _ := strings.Cut(line[:at], "{")
		if v, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
			sums[name] += v
		}
	}
	return sums
}

// allocated is the space that the files below a directory take. The store's file
// is longer than that: it grows in steps, and what was never written is a hole.
func allocated(dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return ignoreGone(err)
		}
		info, err := e.Info()
		if err != nil {
			return ignoreGone(err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += st.Blocks * 512
		}
		return nil
	})
	return bytes, err
}

// ignoreGone is for files that a running server removes meanwhile.
func ignoreGone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

const drainPause = 20 * time.Millisecond

// drain waits until a server is done with what it has taken; ok is false when it
// takes longer than the limit.
func drain(ctx context.Context, url, data string, limit time.Duration) (s serverState, took time.Duration, ok bool, err error) {
	start := time.Now()
	for {
		s, err = readState(ctx, url, data)
		took = time.Since(start)
		if err != nil || s.drained() || took > limit {
			return s, took, err == nil && s.drained(), err
		}
		select {
		case <-time.After(drainPause):
		case <-ctx.Done():
			return s, took, false, ctx.Err()
		}
	}
}
