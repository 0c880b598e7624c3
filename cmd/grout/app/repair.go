package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"grout/bus"
	"grout/schemas"
)

// RepairOptions say how far a repair may go.
type RepairOptions struct {
	Partition int // the only one whose store may be rebuilt; -1: any
	// Confirm is asked once, when there is something to do; false changes nothing.
	Confirm func(*RepairReport) bool
	// Progress is told what is being done, for people; it may be nil.
	Progress func(string)
}

// RepairReport is what a repair has found and done.
type RepairReport struct {
	Files   []FileReport        `json:"files"`
	Streams []bus.StreamCheckup `json:"streams"`
	Steps   []RepairStep        `json:"steps"`
	Missing []string            `json:"missing"` // what nothing here brings back, and what is possible
}

// Kinds of steps, in the order in which they are taken.
const (
	stepNote     = "write_note"
	stepMend     = "mend_stream"
	stepRebuild  = "rebuild_store"
	stepSnapshot = "take_snapshot"
)

// RepairStep is one thing to do, and what became of it.
type RepairStep struct {
	Kind      string `json:"kind"`
	Partition int    `json:"partition"` // -1: of no partition alone
	Path      string `json:"path,omitempty"`
	What      string `json:"what"`
	Done      bool   `json:"done"`
	Fault     string `json:"fault,omitempty"`
	Kept      string `json:"kept,omitempty"` // the damaged file, as it was

	stream     string
	candidates []*surveyedStore // newest first; nil is an empty store
}

// Damaged counts what is not as it should be.
func (r *RepairReport) Damaged() (n int) {
	for i := range r.Files {
		if !r.Files[i].Sound {
			n++
		}
	}
	return n
}

// Whole reports whether nothing is left to be done.
func (r *RepairReport) Whole() bool {
	for i := range r.Steps {
		if !r.Steps[i].Done {
			return false
		}
	}
	return len(r.Missing) == 0
}

// Repair looks at every file of a data directory, and rebuilds what can be rebuilt
// from what is sound. The server must not run. Whatever is replaced is kept in the
// directory. It may be cut off at any point and run again.
func Repair(ctx context.Context, cfg Config, o RepairOptions, logger *slog.Logger) (_ *RepairReport, err error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if _, err := os.Stat(cfg.DataDir); err != nil {
		return nil, fmt.Errorf("there is nothing to repair: %w", err)
	}
	if cfg.External() {
		return nil, errors.New("repair works on the files of the server inside grout; on a cluster move a damaged store away and start: it is made anew from the newest snapshot and the command stream")
	}
	lock, err := lockDataDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := bus.ExposeStreams(natsDir(cfg)); err != nil {
		return nil, err
	}
	v, err := survey(ctx, cfg, o.Progress)
	if err != nil {
		return nil, err
	}
	v.plan(o.Partition)
	if len(v.report.Steps) == 0 || !o.Confirm(v.report) {
		return v.report, nil
	}
	return v.report, v.run(ctx, o, logger)
}

// plan decides what is to be done, and says what cannot be.
func (v *surveyed) plan(only int) {
	r := v.report
	for i := range v.parts {
		p := &v.parts[i]
		if p.noted != nil {
			r.Steps = append(r.Steps, RepairStep{
				Kind: stepNote, Partition: p.number, Path: bus.TrimmedFile(natsDir(v.cfg), p.number),
				What: fmt.Sprintf("note that what the stream no longer holds of partition %d was trimmed", p.number),
			})
		}
	}
	v.planStreams()
	for i := range v.parts {
		if p := &v.parts[i]; only < 0 || only == p.number {
			v.planStore(p)
		}
	}
	v.planSnapshots(only)
	for _, f := range r.Files {
		if f.Kind == "secret" {
			r.Missing = append(r.Missing, fmt.Sprintf("%s: it cannot be found out again; remove the file to have a new one made at the next start, or put it back", f.What))
		}
	}
}

func (v *surveyed) planStreams() {
	for _, c := range v.report.Streams {
		files := map[string]bool{}
		for i := range c.Damage {
			d := &c.Damage[i]
			if d.Torn || files[d.File] {
				continue
			}
			files[d.File] = true
			what := "take the facts out that cannot be read; those around them stay. They are not published again"
			switch c.Stream {
			case schemas.StreamCommands:
				what = "take the messages out that cannot be read; those around them stay"
			case schemas.StreamIn:
				what = "take the commands out that cannot be read; those around them stay. Their publishers must publish them again"
			}
			v.report.Steps = append(v.report.Steps, RepairStep{Kind: stepMend, Partition: -1, Path: d.File, stream: c.Stream, What: what})
		}
	}
}

// planStore decides whether a partition's store must be rebuilt, and from what.
func (v *surveyed) planStore(p *surveyedPartition) {
	path := storePath(v.cfg.DataDir, p.number)
	why := ""
	switch f := v.storeReport(p.number); {
	case p.store == nil:
		why = f.What
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && p.messages == 0 && p.trimmed == 0 && len(p.snapshots) == 0 {
			return // it was never made
		}
	case p.unlike != 0:
		why = fmt.Sprintf("message %d of the stream is not the one that it has applied", p.unlike)
	default:
		why = v.fits(p, p.store)
	}
	if why == "" {
		return
	}
	step := RepairStep{Kind: stepRebuild, Partition: p.number, Path: path}
	var not []string
	for i := range p.snapshots {
		s := &p.snapshots[i]
		if p.store != nil && s.at.Seq <= p.store.at.Seq && s.epoch <= p.store.epoch {
			continue // the store is newer
		}
		if fault := v.fits(p, s); fault != "" {
			not = append(not, fmt.Sprintf("the snapshot at %d: %s", s.at.Seq, fault))
			continue
		}
		step.candidates = append(step.candidates, s)
	}
	if fault := v.unlikeAll(p); p.store == nil && fault == "" && p.noted == nil {
		step.candidates = append(step.candidates, nil)
	} else if p.store == nil && fault != "" {
		not = append(not, "an empty store: "+fault)
	}
	if len(step.candidates) == 0 {
		v.report.Missing = append(v.report.Missing, v.hopeless(p, why, not))
		return
	}
	p.rebuilding = true
	step.What = fmt.Sprintf("rebuild it from %s and the command stream up to message %d (%s)", nameOf(step.candidates[0]), p.last, why)
	v.report.Steps = append(v.report.Steps, step)
}

// unlikeAll tells why the stream is not all that a store has been made of; empty when
// an empty store can begin with it.
func (v *surveyed) unlikeAll(p *surveyedPartition) string {
	if len(p.snapshots) > 0 {
		if fault := v.fits(p, &p.snapshots[0]); fault != "" {
			return "there is a snapshot of more: " + fault
		}
	}
	if p.messages == 0 {
		return "the stream holds nothing of the partition"
	}
	return v.fits(p, &surveyedStore{})
}

func nameOf(s *surveyedStore) string {
	if s == nil {
		return "nothing"
	}
	return fmt.Sprintf("the snapshot at message %d", s.at.Seq)
}

func (v *surveyed) storeReport(number int) FileReport {
	for _, f := range v.report.Files {
		if f.Kind == "store" && f.Partition == number {
			return f
		}
	}
	return FileReport{}
}

// hopeless says why a store cannot be rebuilt, and what can be done about it.
func (v *surveyed) hopeless(p *surveyedPartition, why string, not []string) string {
	possible := "put back a newer copy of the store or of its snapshots, or a sound copy of the stream"
	if p.store == nil && p.messages == 0 && len(p.snapshots) > 0 {
		possible += "; or move the store's file away and start the server: the newest snapshot takes its place in a new epoch, and what came behind it is lost"
	}
	if p.store != nil {
		possible += "; or go on from this store without what is missing, with: grout epoch start"
	}
	text := fmt.Sprintf("the store of partition %d: %s; no snapshot leads to the present", p.number, why)
	for _, n := range not {
		text += "; " + n
	}
	return text + "; possible: " + possible
}

// planSnapshots asks for snapshots where the stream has lost what only older ones
// would need: behind them history is whole again.
func (v *surveyed) planSnapshots(only int) {
	high := uint64(0)
	for _, g := range v.gone() {
		high = max(high, g.To)
	}
	if high == 0 {
		return
	}
	for i := range v.parts {
		p := &v.parts[i]
		switch {
		case only >= 0 && only != p.number, p.rebuilding, p.store == nil, p.last == 0:
			continue
		case p.store.at.Seq < high:
			continue // what is gone was not applied; planStore says so
		}
		v.report.Steps = append(v.report.Steps, RepairStep{
			Kind: stepSnapshot, Partition: p.number,
			What: fmt.Sprintf("take a snapshot and trim the stream below it: %s, which is applied, cannot be replayed any more", v.lost(p, 0)),
		})
	}
}
