package handlers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"grout/schemas"
	"grout/store"
)

// inEpochs gives a history whose stream is lost and made anew behind some of its
// messages: each part counts from 1, and begins with the start of an epoch.
func inEpochs(t *testing.T, h history, cuts ...int) (list []schemas.StreamMessage) {
	t.Helper()
	epoch, seq := uint32(1), uint64(0)
	for i, frames := range h.groups {
		if len(cuts) > 0 && i == cuts[0] {
			last := list[len(list)-1]
			after := schemas.AppliedMessage{Epoch: epoch, Seq: last.Seq, StoredAt: last.Time.UnixNano(), Digest: schemas.MessageDigest(last.Data)}
			epoch, seq, cuts = epoch+1, 1, cuts[1:]
			list = append(list, epochStart(schemas.EpochBegin{N: epoch, From: seq, After: after}))
		}
		seq++
		list = append(list, rawGroup(seq, frames))
	}
	return list
}

func epochStart(e schemas.EpochBegin) schemas.StreamMessage {
	return rawGroup(e.From, []schemas.CommandFrame{{
		Kind: schemas.EpochStart.Name, ID: fmt.Sprint("epoch-", e.N), Source: "//mozaiks.ai/grout/test", Accepted: testNow, Payload: e.EncodePayload(nil),
	}})
}

func (g *given) dump() []byte {
	g.t.Helper()
	var b bytes.Buffer
	if err := g.store.Dump(&b); err != nil {
		g.t.Fatal(err)
	}
	return b.Bytes()
}

// applyOnly applies one message, whatever its sequence is.
func (g *given) applyOnly(m schemas.StreamMessage) {
	g.t.Helper()
	decoded := g.table.decode(m, 1, decodeTestGroup)
	if err := g.store.Update(func(tx *store.Tx) error {
		_, err := g.table.apply(tx, decoded)
		return err
	}); err != nil {
		g.t.Fatal(err)
	}
}

// Epochs change nothing of what is counted, and the state does not depend on how many
// messages share a transaction, nor on a restart between any two of them.
func TestEpochsAreOneHistory(t *testing.T) {
	h := record(31, 60, 1)[0]
	plain := newGiven(t)
	for i, frames := range h.groups {
		plain.apply(1, rawGroup(uint64(i+1), frames))
	}
	want, err := plain.store.AppDigests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := len(h.groups)
	list := inEpochs(t, h, n/4, n/4+1, n/2)
	var first []byte
	for _, per := range []int{1, 7, 64} {
		g := newGiven(t)
		g.apply(per, list...)
		if got := g.store.Applied(); got.Epoch != 4 || got.Seq != list[len(list)-1].Seq {
			t.Errorf("%d a transaction: the store stands at %+v", per, got)
		}
		if dump := g.dump(); first == nil {
			first = dump
		} else if !bytes.Equal(dump, first) {
			t.Errorf("%d messages a transaction give other bytes than 1", per)
		}
		got, err := g.store.AppDigests(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for app, digest := range want {
			if got[app] != digest {
				t.Errorf("%d a transaction: app %s differs from the one without epochs", per, app)
			}
		}
		facts, err := g.store.Facts(schemas.DestFacts, schemas.Position{}, math.MaxInt, math.MaxInt)
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i < len(facts); i++ {
			if facts[i].At.Compare(facts[i-1].At) <= 0 {
				t.Fatalf("fact %s stands behind %s", facts[i].At, facts[i-1].At)
			}
		}
		kept, err := g.store.Positions()
		if err != nil || len(kept) != len(list) {
			t.Fatalf("%d positions, %v", len(kept), err)
		}
		for i, m := range list {
			if k := kept[i]; k.Seq != m.Seq || k.StoredAt != m.Time.UnixNano() || k.Digest != schemas.MessageDigest(m.Data) {
				t.Fatalf("position %d is %+v", i, k)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "again.db")
	for i := range list {
		s := openStore(t, path, 0, 1, 100)
		g := &given{t: t, store: s, table: NewTable()}
		g.applyOnly(list[i])
		if i == len(list)-1 && !bytes.Equal(g.dump(), first) {
			t.Error("restarts give other bytes")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A store that is not exactly where the epoch goes on from stops, keeps what came
// before, and takes nothing of what follows.
func TestEpochGapStops(t *testing.T) {
	h := record(32, 40, 1)[0]
	n := len(h.groups)
	list := inEpochs(t, h, n/2)
	begin := list[n/2]
	own := func(change func(*schemas.EpochBegin)) schemas.StreamMessage {
		g := schemas.EpochBegin{}
		frames, err := schemas.DecodeGroup(begin.Data)
		if err == nil {
			err = g.DecodePayload(frames[0].Payload)
		}
		if err != nil {
			t.Fatal(err)
		}
		change(&g)
		m := epochStart(g)
		m.Seq = begin.Seq
		return m
	}
	two := begin
	frames, _ := schemas.DecodeGroup(begin.Data)
	two.Data = schemas.AppendGroup(nil, append(frames, h.groups[0][0]))
	for what, c := range map[string]struct {
		list  []schemas.StreamMessage
		stays int
	}{
		"a store that lacks a message":       {append(append([]schemas.StreamMessage{}, list[:n/2-1]...), list[n/2:]...), n/2 - 1},
		"an empty store":                     {list[n/2:], 0},
		"another digest":                     {append(append([]schemas.StreamMessage{}, list[:n/2]...), own(func(e *schemas.EpochBegin) { e.After.Digest[3]++ })), n / 2},
		"another time":                       {append(append([]schemas.StreamMessage{}, list[:n/2]...), own(func(e *schemas.EpochBegin) { e.After.StoredAt++ })), n / 2},
		"an epoch is left out":               {append(append([]schemas.StreamMessage{}, list[:n/2]...), own(func(e *schemas.EpochBegin) { e.N++ })), n / 2},
		"the same epoch again":               {append(append([]schemas.StreamMessage{}, list[:n/2+1]...), begin), n/2 + 1},
		"not where it says":                  {append(append([]schemas.StreamMessage{}, list[:n/2]...), own(func(e *schemas.EpochBegin) { e.From++ })), n / 2},
		"not alone in its group":             {append(append([]schemas.StreamMessage{}, list[:n/2]...), two), n / 2},
		"what follows is never looked at":    {append(append([]schemas.StreamMessage{}, list[:n/2-1]...), list[n/2:]...), n/2 - 1},
		"even when it is the first of a set": {append([]schemas.StreamMessage{}, list[n/2:]...), 0},
	} {
		for _, per := range []int{1, 64} {
			g := newGiven(t)
			source := &messages{list: c.list, done: make(chan struct{})}
			err := g.loop(per, source, map[string][][]byte{}).Run(context.WithoutCancel(t.Context()))
			var guard *schemas.GuardError
			if !errors.As(err, &guard) || guard.Name != schemas.EpochGap {
				t.Fatalf("%s, %d a transaction: %v", what, per, err)
			}
			want := newGiven(t)
			want.apply(1, c.list[:c.stays]...)
			if !bytes.Equal(g.dump(), want.dump()) {
				t.Errorf("%s, %d a transaction: the store is at %+v", what, per, g.store.Applied())
			}
		}
	}
}

// Rows of an outbox that were published and deleted come back from another store with
// the same messages: the same rows, and only those that are missing.
func TestRowsComeBack(t *testing.T) {
	h := record(33, 80, 1)[0]
	all := func(s *store.Store, after schemas.Position) []schemas.FactMessage {
		list, err := s.Facts(schemas.DestFacts, after, math.MaxInt, math.MaxInt)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	scratch := newGiven(t)
	var list []schemas.StreamMessage
	for i, frames := range h.groups {
		list = append(list, rawGroup(uint64(i+1), frames))
	}
	scratch.apply(64, list...)
	facts := all(scratch.store, schemas.Position{})
	for _, c := range [][2]int{{-1, len(facts) - 1}, {2, len(facts) / 2}, {len(facts) / 3, len(facts) / 3}, {0, 1}} {
		own := newGiven(t)
		own.apply(7, list...)
		noted := schemas.RelayState{After: facts[c[1]].At, MarkerSeq: 9, StreamCreated: 1}
		found := schemas.RelayState{StreamCreated: 2}
		if c[0] >= 0 {
			found.After = facts[c[0]].At
		}
		if err := own.store.MarkRelayed(schemas.DestFacts, noted); err != nil {
			t.Fatal(err)
		}
		if err := own.store.Settle(); err != nil {
			t.Fatal(err)
		}
		if _, unmade, err := own.store.PutBack(schemas.DestFacts, scratch.store, found.After, noted.After); err != nil || unmade != 0 {
			t.Fatalf("%d rows were not made: %v", unmade, err)
		}
		if made, _, err := own.store.PutBack(schemas.DestFacts, scratch.store, found.After, noted.After); err != nil || made != 0 {
			t.Fatalf("%d rows again: %v", made, err)
		}
		if err := own.store.Rewind(schemas.DestFacts, found); err != nil {
			t.Fatal(err)
		}
		if st, err := own.store.Relayed(schemas.DestFacts); st != found || err != nil {
			t.Errorf("the relay stands at %+v: %v", st, err)
		}
		got := all(own.store, found.After)
		if len(got) != len(facts)-1-c[0] {
			t.Fatalf("%d facts behind %s, want %d", len(got), found.After, len(facts)-1-c[0])
		}
		for i, f := range got {
			if w := facts[c[0]+1+i]; f.At != w.At || f.Subject != w.Subject || !bytes.Equal(f.Data, w.Data) {
				t.Fatalf("fact %d is %s, want %s", i, f.At, w.At)
			}
		}
	}
}
