package store

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"grout/schemas"
)

func TestBatchRoundTrip(t *testing.T) {
	want := &Batch{
		BatchID: "b\x00", Made: true,
		Parts: []Part{
			{AppID: "a", Digest: [16]byte{1}, Outcome: PartCarried, Accepted: 1, Duplicates: 2, Rejected: 1<<32 - 1, First: Place{1 << 39, 999}},
			{AppID: "", Outcome: PartConflict},
		},
		Errors: []schemas.EventError{{Index: 1<<32 - 1, EventID: "e", AppID: "a", Code: schemas.CodeConflict, Detail: "d"}, {}},
	}
	v := want.append(nil)
	got, err := parseBatch(v)
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	for n := range v {
		if _, err := parseBatch(v[:n:n]); err == nil {
			t.Errorf("%d of %d bytes are a batch", n, len(v))
		}
	}
	for _, p := range []Place{{}, {1, 2}, {1<<52 - 1, 1<<12 - 1}} {
		if got := placeOf(p.ref()); got != p {
			t.Errorf("place %v came back as %v", p, got)
		}
	}
}

// What becomes of a batch is told of the newest record for an app, and of the
// command itself for a place.
func TestBatchStatus(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := openAt(t, path, Options{})
	refused := func(app string, index uint32) schemas.EventError {
		return schemas.EventError{Index: index, AppID: app, Code: schemas.CodeTooDeep, Detail: app}
	}
	digest := func(n byte) [16]byte { return [16]byte{n} }
	first, second := Place{1, 0}, Place{2, 0}
	records := map[Place]*Batch{
		first: {BatchID: "b", Parts: []Part{
			{AppID: "a", Digest: digest(1), Accepted: 10, Duplicates: 2, Rejected: 2, First: first},
			{AppID: "c", Digest: digest(3), Accepted: 1, First: first},
		}, Errors: []schemas.EventError{refused("a", 3), refused("a", 9)}},
		{1, 1}: {BatchID: "other", Parts: []Part{{AppID: "a", Digest: digest(9), Accepted: 99, First: Place{1, 1}}}},
		{1, 2}: {BatchID: "made", Made: true, Parts: []Part{{AppID: "a", Digest: digest(1), Accepted: 5, First: Place{1, 2}}}},
		second: {BatchID: "b", Parts: []Part{
			{AppID: "b", Digest: digest(2), Accepted: 20, Rejected: 1, First: second},
			{AppID: "a", Digest: digest(7), Outcome: PartConflict, Rejected: 4, First: second},
			{AppID: "a", Digest: digest(1), Outcome: PartCarried, Accepted: 10, Duplicates: 2, Rejected: 2, First: first},
			{AppID: "c", Digest: digest(3), Outcome: PartCarried, Accepted: 1, First: first},
		}, Errors: []schemas.EventError{refused("a", 0), refused("b", 1)}},
		{3, 0}: {BatchID: "b", Parts: []Part{
			{AppID: "a", Digest: digest(1), Outcome: PartReplayed, Accepted: 10, Duplicates: 2, Rejected: 2, First: first},
			{AppID: "b", Digest: digest(2), Outcome: PartReplayed, Accepted: 20, Rejected: 1, First: second},
		}},
		{4, 0}: {BatchID: "b", Parts: []Part{{AppID: "a", Digest: digest(8), Outcome: PartConflict, Rejected: 1, First: Place{4, 0}}}, Errors: []schemas.EventError{refused("a", 5)}},
		{4, 1}: {BatchID: "none"},
	}
	want := map[Place]schemas.IngestOutcome{
		first:  {Accepted: 11, Duplicates: 2, Rejected: 2, Errors: []schemas.EventError{refused("a", 3), refused("a", 9)}},
		{1, 1}: {Accepted: 99},
		{1, 2}: {Accepted: 5},
		second: {Accepted: 20, Rejected: 5, Errors: []schemas.EventError{refused("a", 0), refused("b", 1)}},
		{3, 0}: {Accepted: 30, Duplicates: 2, Rejected: 3, Replayed: true, Errors: []schemas.EventError{refused("b", 1), refused("a", 3), refused("a", 9)}},
		{4, 0}: {Rejected: 1, Conflict: true, Errors: []schemas.EventError{refused("a", 5)}},
		{4, 1}: {},
	}
	for seq := uint64(1); seq <= 4; seq++ {
		if st, found, err := s.BatchAt(seq, 0); err != nil || !found || st.Applied {
			t.Errorf("message %d before it is applied: %+v %v %v", seq, st, found, err)
		}
		if err := s.Update(func(tx *Tx) error {
			tx.Begin(Message{Seq: seq, Commands: make([]schemas.CommandFrame, 3)})
			for index := range uint32(3) {
				b := records[Place{seq, index}]
				if b == nil {
					continue
				}
				got, err := tx.PutBatch(index, b)
				if d := cmp.Diff(want[Place{seq, index}], got, cmpopts.EquateEmpty()); err != nil || d != "" {
					t.Errorf("command %d of message %d: %v\n%s", index, seq, err, d)
				}
			}
			return tx.End()
		}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for p, outcome := range want {
			st, found, err := s.BatchAt(p.Seq, p.Index)
			status := schemas.BatchStatus{BatchID: records[p].BatchID, Applied: true, Outcome: outcome}
			if d := cmp.Diff(status, st, cmpopts.EquateEmpty()); err != nil || !found || d != "" {
				t.Errorf("at %v: %v %v\n%s", p, found, err, d)
			}
		}
		for _, p := range []Place{{2, 1}, {0, 0}} {
			if st, found, err := s.BatchAt(p.Seq, p.Index); err != nil || found {
				t.Errorf("at %v: %+v %v", p, st, err)
			}
		}
		for key, outcome := range map[[2]string]*schemas.IngestOutcome{
			{"a", "b"}:     {Accepted: 10, Duplicates: 2, Rejected: 2, Errors: []schemas.EventError{refused("a", 3), refused("a", 9)}}, // carried, in spite of the conflicts
			{"b", "b"}:     {Accepted: 20, Rejected: 1, Errors: []schemas.EventError{refused("b", 1)}},
			{"c", "b"}:     {Accepted: 1},
			{"a", "other"}: {Accepted: 99},
			{"d", "b"}:     nil, // not in this batch
			{"a", "made"}:  nil, // grout made the id, nobody else knows it
			{"a", "none"}:  nil,
			{"a", "bb"}:    nil,
			{"", "b"}:      nil,
		} {
			st, found, err := s.BatchOfApp(t.Context(), key[0], key[1])
			if err != nil || found != (outcome != nil) {
				t.Errorf("%q: found %v, %v", key, found, err)
			}
			if outcome == nil {
				continue
			}
			if d := cmp.Diff(schemas.BatchStatus{BatchID: key[1], Applied: true, Outcome: *outcome}, st, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("%q: %s", key, d)
			}
		}
		closeStore(t, s)
		s = openAt(t, path, Options{})
	}
	closeStore(t, s)
}
