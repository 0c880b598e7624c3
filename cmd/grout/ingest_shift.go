package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// bounds is what a first pass over a file finds out.
type bounds struct {
	rows        int64
	first, last time.Time
}

// add widens the bounds by one instant.
func (b *bounds) add(at time.Time) {
	if b.rows == 0 || at.Before(b.first) {
		b.first = at
	}
	if b.rows == 0 || at.After(b.last) {
		b.last = at
	}
	b.rows++
}

// readBounds reads the whole source. Bad rows end it unless they are skipped.
func readBounds(s eventSource, skipBad bool) (bounds, error) {
	var b bounds
	for {
		r, err := s.next()
		bad := (*badRow)(nil)
		switch {
		case errors.Is(err, io.EOF):
			return b, nil
		case errors.As(err, &bad) && skipBad:
		case err != nil:
			return b, err
		default:
			b.add(r.at)
		}
	}
}

// keptShift remembers the offset chosen for a series of event ids. Another
// offset would give the same ids other timestamps, and those events would be
// refused as conflicts.
type keptShift struct {
	IDs    string    `json:"ids"`    // prefix of the event ids
	Offset string    `json:"offset"` // time.Duration
	Kept   time.Time `json:"kept"`
}

// shiftPath is where the offset of a series of ids is kept in a data directory.
func shiftPath(dataDir, idPrefix string) string {
	sum := sha256.Sum256([]byte(idPrefix))
	return filepath.Join(dataDir, "ingest", "shift-"+hex.EncodeToString(sum[:8])+".json")
}

// loadShift gives the offset kept at path; found is false when there is none.
func loadShift(path string) (offset time.Duration, found bool, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read kept offset: %w", err)
	}
	var kept keptShift
	if err := json.Unmarshal(text, &kept); err == nil {
		offset, err = time.ParseDuration(kept.Offset)
		if err == nil {
			return offset, true, nil
		}
	}
	return 0, false, fmt.Errorf("kept offset %s cannot be read; choose a new one with --new-shift", path)
}

// keepShift puts the offset where loadShift finds it, completely or not at all.
func keepShift(path string, kept keptShift) (err error) {
	text, err := json.MarshalIndent(kept, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep offset (another place is given by --shift-file): %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".shift-*")
	if err != nil {
		return fmt.Errorf("keep offset (another place is given by --shift-file): %w", err)
	}
	_, err = tmp.Write(append(text, '\n'))
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("keep offset: %w", errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}
