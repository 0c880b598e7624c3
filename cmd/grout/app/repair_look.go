package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"grout/bus"
	"grout/schemas"
	"grout/store"
)

// FileReport is what a look at a file has found.
type FileReport struct {
	Kind      string `json:"kind"` // store, snapshot, stream, note or secret
	Partition int    `json:"partition"`
	Path      string `json:"path"`
	Sound     bool   `json:"sound"`
	What      string `json:"what,omitempty"`
}

// surveyed is everything that repair knows before it decides.
type surveyed struct {
	cfg     Config
	report  *RepairReport
	parts   []surveyedPartition
	streams map[string]bus.StreamCheckup
	trimmed uint64 // the highest sequence below which any partition has trimmed
}

type surveyedPartition struct {
	number     int
	store      *surveyedStore // nil: missing or damaged
	snapshots  []surveyedStore
	trimmed    uint64
	noted      error // why the note of it cannot be read
	first      uint64
	last       uint64 // message of the partition in the stream
	messages   int64
	wanted     map[uint64]*streamPlace // places that stores and snapshots stand at
	unlike     uint64                  // a message that was applied with other bytes
	kept       map[uint64][16]byte
	rebuilding bool
}

type streamPlace struct {
	stored int64
	digest [16]byte
}

// surveyedStore is a sound file of a store, or a snapshot.
type surveyedStore struct {
	path     string
	at       schemas.Checkpoint
	epoch    uint32
	applied  time.Time // of the last command
	origin   int64
	relayed  map[string]schemas.Position // by destination
	snapshot store.Snapshot
}

// survey looks at every file. Nothing is changed.
func survey(ctx context.Context, cfg Config, progress func(string)) (*surveyed, error) {
	v := &surveyed{cfg: cfg, report: &RepairReport{Files: []FileReport{}, Streams: []bus.StreamCheckup{}, Steps: []RepairStep{}, Missing: []string{}}, streams: map[string]bus.StreamCheckup{}}
	for p := range cfg.Partitions {
		progress(fmt.Sprintf("looking at the store and the snapshots of partition %d", p))
		part := surveyedPartition{number: p, wanted: map[uint64]*streamPlace{}, kept: map[uint64][16]byte{}}
		if err := v.stores(ctx, &part); err != nil {
			return nil, err
		}
		part.trimmed, part.noted = bus.TrimmedNote(natsDir(cfg), p)
		if part.noted != nil {
			v.found(FileReport{Kind: "note", Partition: p, Path: bus.TrimmedFile(natsDir(cfg), p), What: part.noted.Error()})
		}
		v.trimmed = max(v.trimmed, part.trimmed)
		v.parts = append(v.parts, part)
	}
	for _, stream := range []string{schemas.StreamCommands, schemas.StreamFacts, schemas.StreamDeadLetters, schemas.StreamIn} {
		progress("reading stream " + stream)
		visit, end := v.command, func() {}
		if stream == schemas.StreamIn { // what is still there was not applied
			visit = nil
		}
		if dest := destinationOf(stream); dest != "" {
			visit, end = v.facts(stream, dest)
		}
		c, err := bus.CheckStream(ctx, natsDir(cfg), stream, nil, visit)
		if err != nil {
			return nil, err
		}
		end()
		v.streams[stream] = c
		v.report.Streams = append(v.report.Streams, c)
		for _, d := range c.Damage {
			if !d.Torn {
				v.found(FileReport{Kind: "stream", Partition: -1, Path: d.File, What: d.Error()})
			}
		}
	}
	v.secrets()
	return v, ctx.Err()
}

func natsDir(cfg Config) string { return filepath.Join(cfg.DataDir, "nats") }

func (v *surveyed) found(f FileReport) { v.report.Files = append(v.report.Files, f) }

func (v *surveyed) stores(ctx context.Context, p *surveyedPartition) error {
	path := storePath(v.cfg.DataDir, p.number)
	s, err := lookAtStore(ctx, v.cfg, p.number, path)
	f := FileReport{Kind: "store", Partition: p.number, Path: path, Sound: err == nil}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.What = "the file is missing"
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		f.What = err.Error()
	default:
		p.store = &s.surveyedStore
		for _, m := range s.kept {
			p.kept[m.seq] = m.digest
		}
		p.wanted[s.at.Seq] = nil
	}
	v.found(f)
	list, err := store.Snapshots(snapshotDir(v.cfg.DataDir, p.number))
	if err != nil {
		v.found(FileReport{Kind: "snapshot", Partition: p.number, Path: snapshotDir(v.cfg.DataDir, p.number), What: err.Error()})
	}
	for _, snap := range list {
		err := snap.Check(ctx)
		if err == nil && (snap.Partition != p.number || snap.Partitions != v.cfg.Partitions) {
			err = fmt.Errorf("the snapshot is of partition %d of %d", snap.Partition, snap.Partitions)
		}
		f := FileReport{Kind: "snapshot", Partition: p.number, Path: snap.Path, Sound: err == nil}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			f.What = err.Error()
		} else {
			p.snapshots = append(p.snapshots, surveyedStore{path: snap.Path, at: snap.Position, epoch: snap.Epoch, snapshot: snap})
			p.wanted[snap.Position.Seq] = nil
		}
		v.found(f)
	}
	return nil
}

type openedStore struct {
	surveyedStore
	kept []keptMessage
}

type keptMessage struct {
	seq    uint64
	digest [16]byte
}

var errEmptyFile = errors.New("the file is empty")

// lookAtStore checks a file and reads where it stands.
func lookAtStore(ctx context.Context, cfg Config, number int, path string) (o openedStore, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return o, err
	}
	if info.Size() == 0 {
		return o, errEmptyFile
	}
	c, err := store.Check(ctx, path)
	if err != nil {
		return o, err
	}
	if c.Damaged > 0 {
		return o, &store.DamageError{Checkup: c}
	}
	s, err := store.Open(path, store.Options{Partition: number, Partitions: cfg.Partitions, ReadOnly: true})
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	o.path, o.at, o.epoch = path, s.Checkpoint(), s.Epoch()
	o.applied, o.origin, o.relayed = time.Unix(0, s.Now()), s.Origin(), map[string]schemas.Position{}
	for _, dest := range []string{schemas.DestFacts, schemas.DestDeadLetters} {
		st, err := s.Relayed(dest)
		if err != nil {
			return o, err
		}
		o.relayed[dest] = st.After
	}
	kept, err := s.Positions()
	for _, m := range kept {
		if m.Epoch == o.epoch {
			o.kept = append(o.kept, keptMessage{m.Seq, m.Digest})
		}
	}
	return o, err
}

// facts follows the links of a destination stream.
func (v *surveyed) facts(stream, dest string) (visit func(*bus.StoredMessage) error, end func()) {
	of := map[int]bus.FactsOf{}
	for i := range v.parts {
		// A store that is not of this stream cannot say what its facts are like.
		if s := v.parts[i].store; s != nil && v.parts[i].unlike == 0 && v.fits(&v.parts[i], s) == "" {
			of[i] = bus.FactsOf{Origin: s.origin, Relayed: s.relayed[dest], Applied: s.applied}
		}
	}
	bytes, err := bus.StreamBytes(natsDir(v.cfg), stream)
	var since time.Time
	if err == nil {
		since, err = bus.FilesCompleteSince(natsDir(v.cfg), stream, bytes)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			v.found(FileReport{Kind: "stream", Partition: -1, Path: stream, What: err.Error()})
		}
		return func(*bus.StoredMessage) error { return nil }, func() {}
	}
	chain := bus.NewChain(stream, since, of)
	return chain.Add, func() {
		for _, text := range chain.End() {
			v.found(FileReport{Kind: "stream", Partition: -1, Path: stream, What: text})
			v.report.Missing = append(v.report.Missing, fmt.Sprintf("stream %s: %s; nothing publishes them again; possible: put a sound copy of the stream back, or read the events from GET /api/usage/events", stream, text))
		}
	}
}

// command takes note of a message of the command stream.
func (v *surveyed) command(m *bus.StoredMessage) error {
	for i := range v.parts {
		p := &v.parts[i]
		if m.Subject != schemas.GroupSubject(p.number) {
			continue
		}
		if p.first == 0 {
			p.first = m.Seq
		}
		p.last = max(p.last, m.Seq)
		p.messages++
		applied, known := p.kept[m.Seq]
		_, asked := p.wanted[m.Seq]
		if !known && !asked {
			return nil
		}
		digest := schemas.MessageDigest(m.Data)
		if known && digest != applied && p.unlike == 0 {
			p.unlike = m.Seq
		}
		if asked {
			p.wanted[m.Seq] = &streamPlace{m.StoredAt, digest}
		}
	}
	return nil
}

// fits tells why a store cannot go on with the stream; empty when it can.
func (v *surveyed) fits(p *surveyedPartition, s *surveyedStore) string {
	at := s.at
	place := p.wanted[at.Seq]
	c := v.streams[schemas.StreamCommands]
	switch {
	case at.Seq == 0 && p.trimmed > 0:
		return fmt.Sprintf("it has applied nothing, and the stream was trimmed below %d", p.trimmed)
	case at.Seq == 0 && c.First > 1 && v.cfg.Partitions == 1:
		return fmt.Sprintf("it has applied nothing, and the stream begins at %d", c.First)
	case at.Seq == 0:
		return v.lost(p, 0)
	case at.Seq < p.trimmed:
		return fmt.Sprintf("it has applied message %d, and the stream was trimmed below %d", at.Seq, p.trimmed)
	case place == nil && at.Seq > c.Last:
		return fmt.Sprintf("it has applied message %d, and the stream ends at %d", at.Seq, c.Last)
	case place == nil:
		return fmt.Sprintf("message %d, which it has applied last, is not in the stream, which begins at %d", at.Seq, c.First)
	case place.digest != at.Digest || place.stored != at.StoredAt:
		return fmt.Sprintf("message %d of the stream is not the one that it has applied", at.Seq)
	}
	return v.lost(p, at.Seq)
}

// lost tells which messages behind a position are not in the stream any more; empty
// when all of them are.
func (v *surveyed) lost(_ *surveyedPartition, behind uint64) string {
	var list []string
	for _, g := range v.gone() {
		if g.To > behind {
			list = append(list, rangeOf(max(g.From, behind+1), g.To))
		}
	}
	if len(list) == 0 {
		return ""
	}
	return fmt.Sprintf("of what follows %d, %s of %s cannot be read", behind, strings.Join(list[:min(len(list), 10)], ", "), schemas.StreamCommands)
}

func rangeOf(from, to uint64) string {
	if from == to {
		return fmt.Sprintf("message %d", from)
	}
	return fmt.Sprintf("messages %d to %d", from, to)
}

// gone lists the sequences of the command stream that are damaged or missing although
// nobody has trimmed them.
func (v *surveyed) gone() (list []bus.Gap) {
	c := v.streams[schemas.StreamCommands]
	for _, g := range c.Gaps {
		if v.trimmed > 0 { // what is below may have gone so, with several partitions also in between
			g.From = max(g.From, v.trimmed)
		}
		if g.From <= g.To {
			list = append(list, g)
		}
	}
	for _, d := range c.Damage {
		if !d.Torn && d.Before == 0 {
			list = append(list, bus.Gap{From: d.After + 1, To: d.After + 1})
		}
	}
	return list
}

func (v *surveyed) secrets() {
	for i := range secrets {
		path := SecretPath(v.cfg.DataDir, secrets[i].file)
		_, err := ReadSecret(path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		v.found(FileReport{Kind: "secret", Partition: -1, Path: path, What: err.Error()})
	}
	if text, err := os.ReadFile(filepath.Join(v.cfg.DataDir, "lock")); err == nil && len(bytes.TrimSpace(text)) > 64 {
		v.found(FileReport{Kind: "note", Partition: -1, Path: filepath.Join(v.cfg.DataDir, "lock"), What: "it holds no process id; the next start writes it anew", Sound: true})
	}
}
