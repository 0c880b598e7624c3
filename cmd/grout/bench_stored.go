package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"grout/cmd/grout/load"
)

const (
	storedPerRequest = 1000
	storedAtOnce     = 16
	storedFor        = 30 * 24 * time.Hour // ids expire after 34 days
	storedRounds     = 10
	storedDrainLimit = 30 * time.Minute
	storedNote       = "bench.json"
)

// storedData is a data directory that was filled through ingest, kept for reuse.
type storedData struct {
	Kind      string    `json:"kind"`
	Events    int64     `json:"events"`
	Span      float64   `json:"timestamps_span_sec"`
	Made      time.Time `json:"made"`
	Reused    bool      `json:"reused"`
	Rate      float64   `json:"events_per_sec"`
	CPU       float64   `json:"server_cpu_us_per_event"`
	Steal     *float64  `json:"steal"`
	PeakMB    float64   `json:"server_peak_mb"`
	Drain     float64   `json:"drain_sec"`
	StoreByte float64   `json:"store_bytes_per_event"`
	IDBytes   float64   `json:"memory_bytes_per_id"`
	dir       string
}

// prepareStored gives the directory with that many events, and makes it when it is
// not there or too old.
func (m *matrix) prepareStored(ctx context.Context, events int64) (*storedData, error) {
	parent := m.o.cache
	if parent == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, usagef("--cache: %w", err)
		}
		parent = filepath.Join(user, "grout-bench")
	}
	dir := filepath.Join(parent, fmt.Sprintf("%d-ids-%s", events, m.o.span))
	s := storedData{}
	text, err := os.ReadFile(filepath.Join(dir, storedNote))
	switch {
	case err == nil && json.Unmarshal(text, &s) == nil && time.Since(s.Made) < storedFor:
		s.Reused, s.dir = true, dir
		return &s, nil
	case err == nil:
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, err
	}
	partial, err := os.MkdirTemp(parent, "making-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(partial)
	made, err := m.makeStored(ctx, partial, events)
	if err != nil {
		return nil, fmt.Errorf("store %s ids: %w", thousands(events), err)
	}
	if text, err = json.Marshal(made); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(partial, storedNote), text, 0o600); err != nil {
		return nil, err
	}
	made.dir = dir
	return made, os.Rename(partial, dir)
}

// makeStored sends the events to a server of its own and stops it.
func (m *matrix) makeStored(ctx context.Context, dir string, events int64) (_ *storedData, err error) {
	data := filepath.Join(dir, "data")
	s, err := startServer(ctx, m.program, dir, data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	target, err := load.NewTarget(s.url, s.key)
	if err != nil {
		return nil, err
	}
	made := &storedData{Kind: "stored", Events: events, Span: m.o.span.Seconds(), Made: time.Now().UTC()}
	begin, err := readState(ctx, s.url, data)
	if err != nil {
		return nil, err
	}
	var took, cpu time.Duration
	var first *load.Result
	missing := events / storedPerRequest
	for round := 0; missing > 0; round++ {
		if round == storedRounds {
			return nil, fmt.Errorf("%s requests failed again and again", thousands(missing))
		}
		r, err := load.Run(ctx, target, load.Plan{Events: storedPerRequest, Connections: storedAtOnce, Requests: missing, Span: m.o.span, Process: s.pid()})
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = &r
		}
		took, cpu = took+r.Elapsed, cpu+r.Process
		missing -= r.Requests
	}
	end, drained, ok, err := drain(ctx, s.url, data, storedDrainLimit)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("what was taken was not published within %s", storedDrainLimit)
	}
	n := float64(events)
	made.Rate, made.CPU, made.Drain = n/took.Seconds(), perEvent(cpu, n), drained.Seconds()
	made.Steal = known(first.Shares.Steal)
	made.PeakMB = megabytes(load.ReadProcess(s.pid()).Peak)
	made.StoreByte = float64(end.storeBytes-begin.storeBytes) / n
	made.IDBytes = float64(end.identityMemory) / n
	return made, nil
}

// copyTree copies regular files and directories; blocks of zeros become holes, as
// they are in the store's file.
func copyTree(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case e.IsDir():
			return os.MkdirAll(target, 0o700)
		case e.Type().IsRegular():
			return copySparse(ctx, path, target)
		}
		return nil
	})
}

func copySparse(ctx context.Context, from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	block, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := io.ReadFull(in, block)
		if n > 0 && !bytes.Equal(block[:n], zeros[:n]) {
			if _, err := out.WriteAt(block[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return errors.Join(out.Truncate(at), out.Sync())
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}
