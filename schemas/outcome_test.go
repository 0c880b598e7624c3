package schemas

import (
	"bytes"
	"cmp"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func drawErrors(t *rapid.T, most int) []EventError {
	var list []EventError
	for range rapid.IntRange(0, most).Draw(t, "errors") {
		list = append(list, EventError{
			Index: rapid.Uint32().Draw(t, "index"), EventID: rapid.String().Draw(t, "event"), AppID: rapid.String().Draw(t, "app"),
			Code: rapid.SampledFrom([]Code{CodeConflict, CodeTooDeep, "", "other"}).Draw(t, "code"), Detail: rapid.String().Draw(t, "detail"),
		})
	}
	return list
}

func drawOutcome(t *rapid.T) IngestOutcome {
	count := rapid.IntRange(0, 1<<32-1)
	return IngestOutcome{
		Accepted: count.Draw(t, "accepted"), Duplicates: count.Draw(t, "duplicates"), Rejected: count.Draw(t, "rejected"),
		Errors: drawErrors(t, 5), Replayed: rapid.Bool().Draw(t, "replayed"), Conflict: rapid.Bool().Draw(t, "conflict"),
	}
}

func TestIngestOutcomeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawOutcome(t)
		b := want.Append(nil)
		got := IngestOutcome{Accepted: 7, Replayed: true, Errors: []EventError{{Index: 1}}}
		if err := got.Decode(b); err != nil {
			t.Fatal(err)
		}
		if d := gocmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
		n := rapid.IntRange(0, len(b)-1).Draw(t, "cut to")
		if got.Decode(b[:n:n]) == nil || got.Decode(append(b, 0)) == nil {
			t.Fatal("a byte less or more is an outcome, too")
		}
	})
}

func TestIngestOutcomeGolden(t *testing.T) {
	o := IngestOutcome{
		Accepted: 19_000, Duplicates: 300, Rejected: 2, Replayed: true,
		Errors: []EventError{{Index: 4, EventID: "e", AppID: "app-1", Code: CodeConflict, Detail: "détail"}, {Index: 9, Code: CodeNotAnObject}},
	}
	goldenBytes(t, "ingest_outcome_v1.golden", o.Append(nil))
}

// The parts of a request may be merged in any order.
func TestMergeIsOrderFree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := make([]IngestOutcome, rapid.IntRange(1, 5).Draw(t, "parts"))
		next := uint32(0)
		var all []EventError
		for i := range parts {
			p := &parts[i]
			*p = drawOutcome(t)
			p.Errors = nil
		}
		// As in a request, an event belongs to one part and each list is in order.
		for range rapid.SampledFrom([]int{0, 3, 900, 2500}).Draw(t, "errors") {
			next += rapid.Uint32Range(1, 3).Draw(t, "step")
			e := EventError{Index: next, Detail: "d"}
			p := &parts[rapid.IntRange(0, len(parts)-1).Draw(t, "part")]
			all = append(all, e)
			if len(p.Errors) < MaxListedErrors {
				p.Errors = append(p.Errors, e)
			}
		}
		all = all[:min(len(all), MaxListedErrors)]
		want := IngestOutcome{Replayed: true, Conflict: true, Errors: all}
		for _, p := range parts {
			want.Accepted += p.Accepted
			want.Duplicates += p.Duplicates
			want.Rejected += p.Rejected
			want.Replayed = want.Replayed && p.Replayed
			want.Conflict = want.Conflict && p.Conflict
		}
		order := rapid.Permutation(parts).Draw(t, "order")
		got := order[0]
		got.Errors = slices.Clone(got.Errors)
		for _, p := range order[1:] {
			got.Merge(&p)
		}
		if d := gocmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}

func TestTidy(t *testing.T) {
	o := IngestOutcome{}
	for i := range 3 * MaxListedErrors {
		o.Errors = append(o.Errors, EventError{Index: uint32(i * 7919 % (3 * MaxListedErrors))})
	}
	o.Tidy()
	if len(o.Errors) != MaxListedErrors || o.Errors[0].Index != 0 || o.Errors[MaxListedErrors-1].Index != MaxListedErrors-1 ||
		!slices.IsSortedFunc(o.Errors, func(a, b EventError) int { return cmp.Compare(a.Index, b.Index) }) {
		t.Errorf("%d errors from %d to %d", len(o.Errors), o.Errors[0].Index, o.Errors[len(o.Errors)-1].Index)
	}
}

func TestRepliesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 20), 0, 6).Draw(t, "outcomes")
		b := AppendReplies(nil, want)
		got, err := DecodeReplies(b)
		if err != nil || !slices.EqualFunc(want, got, bytes.Equal) {
			t.Fatalf("%x, want %x: %v", got, want, err)
		}
		n := rapid.IntRange(0, len(b)-1).Draw(t, "cut to")
		if _, err := DecodeReplies(b[:n:n]); err == nil {
			t.Fatalf("%d of %d bytes are replies, too", n, len(b))
		}
	})
	if _, err := DecodeReplies([]byte{2, 0}); err == nil {
		t.Error("replies of another form were read")
	}
	if _, err := DecodeReplies([]byte{1, 0, 0}); err == nil {
		t.Error("something follows the replies")
	}
}
