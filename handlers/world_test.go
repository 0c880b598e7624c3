package handlers

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"grout/schemas"
	"grout/store"
)

// world applies groups to a store one by one, as a loop would, and keeps them.
type world struct {
	t       testing.TB
	store   *store.Store
	table   *Table
	history history
}

func newWorld(t testing.TB, s *store.Store) *world { return &world{t: t, store: s, table: NewTable()} }

func ownFrame(kind string, at int64, payload []byte) schemas.CommandFrame {
	return schemas.CommandFrame{Kind: kind, ID: fmt.Sprint(kind, "-", at), Source: "//mozaiks.ai/grout/test", Time: at, Accepted: at, Payload: payload}
}

// try applies a group of its own and gives its outcomes.
func (w *world) try(commands ...schemas.CommandFrame) (outcomes [][]byte, err error) {
	n := uint64(len(w.history.groups) + 1)
	raw := schemas.StreamMessage{
		Subject: schemas.GroupSubject(0), Seq: n, Time: time.Unix(0, testNow+int64(n)).UTC(), Data: schemas.AppendGroup(nil, commands),
	}
	m := w.table.decode(raw, 1, decodeTestGroup)
	err = w.store.Update(func(tx *store.Tx) error {
		outcomes, err = w.table.apply(tx, m)
		return err
	})
	return outcomes, err
}

func (w *world) apply(commands ...schemas.CommandFrame) [][]byte {
	w.t.Helper()
	outcomes, err := w.try(commands...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.history.groups = append(w.history.groups, commands)
	return outcomes
}

// own applies a command that is none of usage.ingest.
func (w *world) own(kind string, at int64, payload []byte) (o schemas.CommandOutcome) {
	w.t.Helper()
	if err := o.Decode(w.apply(ownFrame(kind, at, payload))[0]); err != nil {
		w.t.Fatal(err)
	}
	return o
}

func (w *world) tick(at int64) {
	w.own(schemas.ClockTick.Name, at, (&schemas.Tick{}).EncodePayload(nil))
}

func (w *world) expire(at, before int64) schemas.CommandOutcome {
	w.t.Helper()
	return w.own(schemas.SegmentExpire.Name, at, (&schemas.SegmentExpiry{Before: before}).EncodePayload(nil))
}

func (w *world) setClock(at, to int64) schemas.CommandOutcome {
	w.t.Helper()
	return w.own(schemas.ClockSet.Name, at, (&schemas.ClockChange{To: to}).EncodePayload(nil))
}

// published lets the relays have published everything.
func (w *world) published() {
	w.t.Helper()
	at := schemas.Position{Epoch: w.store.Epoch(), Seq: w.store.Checkpoint().Seq, Index: 1 << 20}
	err := errors.Join(
		w.store.MarkRelayed(schemas.DestFacts, schemas.RelayState{After: at}), w.store.MarkRelayed(schemas.DestDeadLetters, schemas.RelayState{After: at}),
		w.store.Settle(),
	)
	if err != nil {
		w.t.Fatal(err)
	}
}

// batchFrames makes the commands of one request, by partition.
func batchFrames(id string, at int64, partitions int, events ...schemas.UsageEvent) map[int]schemas.CommandFrame {
	for i := range events {
		events[i].Index = uint32(i)
	}
	frames := map[int]schemas.CommandFrame{}
	for p, b := range schemas.SplitBatch(&schemas.ParsedBatch{BatchID: id, Events: events}, id, false, partitions) {
		frames[p] = ownFrame(schemas.UsageIngest.Name, at, b.EncodePayload(nil))
	}
	return frames
}

func (w *world) ingest(id string, at int64, events ...schemas.UsageEvent) (o schemas.IngestOutcome) {
	w.t.Helper()
	if err := o.Decode(w.apply(batchFrames(id, at, 1, events...)[0])[0]); err != nil {
		w.t.Fatal(err)
	}
	return o
}
