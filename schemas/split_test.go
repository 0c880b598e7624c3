package schemas

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// drawParsedBatch draws a request as the parser leaves it: each index stands in
// one of the lists, both in order.
func drawParsedBatch(t *rapid.T, most int) ParsedBatch {
	apps := []string{"app-0", "app-1", "app-2", "app-3", "app-30", "ä", "."}
	app := rapid.SampledFrom(apps[:rapid.IntRange(1, len(apps)).Draw(t, "apps")])
	var b ParsedBatch
	seed := rapid.Uint64().Draw(t, "seed")
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range rapid.IntRange(1, most).Draw(t, "events") {
		if r.IntN(4) > 0 {
			b.Events = append(b.Events, UsageEvent{
				Index: uint32(i), EventID: fmt.Sprint("e", r.IntN(most)), AppID: app.Draw(t, "app"), UserID: "u", Model: "m", InputTokens: r.Int64N(3),
			})
			continue
		}
		e := EventError{Index: uint32(i), AppID: app.Draw(t, "app"), Code: CodeTooDeep, Detail: fmt.Sprint(i)}
		if r.IntN(3) == 0 {
			e.AppID = ""
		}
		b.Rejected = append(b.Rejected, RejectedEvent{EventError: e, Digest: r.Uint64N(50)})
	}
	return b
}

func split(b *ParsedBatch, partitions int) map[int]*UsageBatch {
	moved := ParsedBatch{BatchID: b.BatchID, Events: slices.Clone(b.Events), Rejected: slices.Clone(b.Rejected)}
	return SplitBatch(&moved, "batch", true, partitions)
}

func TestSplitBatchPutsEachEventIntoOneBatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawParsedBatch(t, 40)
		partitions := rapid.IntRange(1, 9).Draw(t, "partitions")
		out := split(&in, partitions)
		var events []UsageEvent
		var rejected []EventError
		lowest := partitions
		for p := range partitions {
			b := out[p]
			if b == nil {
				continue
			}
			lowest = min(lowest, p)
			if b.BatchID != "batch" || !b.Made || len(b.Events)+len(b.Rejected) == 0 {
				t.Fatalf("partition %d: %+v", p, b)
			}
			sums := map[string]uint32{}
			want := map[string]bool{}
			last := -1
			for _, e := range b.Events {
				if PartitionOf(e.AppID, partitions) != p || int(e.Index) <= last {
					t.Fatalf("event %d of app %q in partition %d behind event %d", e.Index, e.AppID, p, last)
				}
				last = int(e.Index)
				want[e.AppID] = true
			}
			last = -1
			for _, e := range b.Rejected {
				if e.AppID != "" && PartitionOf(e.AppID, partitions) != p || e.AppID == "" && p != lowest || int(e.Index) <= last {
					t.Fatalf("refused event %d of app %q in partition %d behind event %d, the lowest is %d", e.Index, e.AppID, p, last, lowest)
				}
				last = int(e.Index)
				sums[e.AppID]++
				want[e.AppID] = true
			}
			for _, part := range b.Parts {
				if !want[part.AppID] || part.Rejected != sums[part.AppID] {
					t.Fatalf("part %+v of partition %d, want %d refused", part, p, sums[part.AppID])
				}
				delete(want, part.AppID) // a part twice would fail above
			}
			if len(want) > 0 {
				t.Fatalf("no part for %v", want)
			}
			events = append(events, b.Events...)
			rejected = append(rejected, b.Rejected...)
		}
		slices.SortFunc(events, func(a, b UsageEvent) int { return int(a.Index) - int(b.Index) })
		slices.SortFunc(rejected, func(a, b EventError) int { return int(a.Index) - int(b.Index) })
		var all []EventError
		for _, r := range in.Rejected {
			all = append(all, r.EventError)
		}
		if d := gocmp.Diff(in.Events, events) + gocmp.Diff(all, rejected); d != "" {
			t.Fatal(d)
		}
	})
}

// The digest of a part says which events it has, and nothing else.
func TestDigestsOfPartsAreThoseOfSets(t *testing.T) {
	digests := func(in *ParsedBatch, partitions int) map[string][16]byte {
		all := map[string][16]byte{}
		for _, b := range split(in, partitions) {
			for _, p := range b.Parts {
				all[p.AppID] = p.Digest
			}
		}
		return all
	}
	rapid.Check(t, func(t *rapid.T) {
		in := drawParsedBatch(t, 30)
		want := digests(&in, 1)
		again := ParsedBatch{Events: rapid.Permutation(in.Events).Draw(t, "events"), Rejected: rapid.Permutation(in.Rejected).Draw(t, "rejected")}
		for i := range again.Events {
			again.Events[i].Index = uint32(i) // the place is not content
		}
		if d := gocmp.Diff(want, digests(&again, rapid.IntRange(1, 9).Draw(t, "partitions"))); d != "" {
			t.Fatal(d)
		}
		// One event more, fewer or changed changes its part and no other.
		i := rapid.IntRange(0, max(0, len(in.Events)-1)).Draw(t, "changed")
		if len(in.Events) == 0 {
			return
		}
		app := in.Events[i].AppID
		for name, other := range map[string]ParsedBatch{
			"more":    {Events: append(slices.Clone(in.Events), in.Events[i]), Rejected: in.Rejected},
			"fewer":   {Events: slices.Delete(slices.Clone(in.Events), i, i+1), Rejected: in.Rejected},
			"refused": {Events: in.Events, Rejected: append(slices.Clone(in.Rejected), RejectedEvent{EventError: EventError{AppID: app}, Digest: 99})},
		} {
			got := digests(&other, 3)
			if got[app] == want[app] {
				t.Fatalf("one %s and the digest stays", name)
			}
			got[app] = want[app]
			if d := gocmp.Diff(want, got); d != "" {
				t.Fatalf("one %s: %s", name, d)
			}
		}
	})
}

// The errors that are listed are the first of the request, however it is split.
func TestListedErrorsDoNotDependOnPartitions(t *testing.T) {
	var in ParsedBatch
	var want []EventError
	for i := range 3 * MaxListedErrors {
		e := EventError{Index: uint32(i), AppID: fmt.Sprint("app-", i%5), Detail: "d"}
		if i%3 == 0 {
			e.AppID = ""
		}
		in.Rejected = append(in.Rejected, RejectedEvent{EventError: e})
		want = append(want, e)
	}
	for _, partitions := range []int{1, 2, 4, 16} {
		var o IngestOutcome
		counted := uint32(0)
		for _, b := range split(&in, partitions) {
			o.Merge(&IngestOutcome{Errors: b.Rejected})
			if len(b.Rejected) > MaxListedErrors {
				t.Errorf("%d partitions: %d listed", partitions, len(b.Rejected))
			}
			for _, p := range b.Parts {
				counted += p.Rejected
			}
		}
		if d := gocmp.Diff(want[:MaxListedErrors], o.Errors); d != "" || counted != 3*MaxListedErrors {
			t.Errorf("%d partitions: %d counted\n%s", partitions, counted, d)
		}
	}
}

func TestSplitBatchWithoutReadableApp(t *testing.T) {
	in := ParsedBatch{Rejected: []RejectedEvent{{EventError: EventError{Code: CodeNotAnObject}, Digest: 1}}}
	for _, partitions := range []int{0, 1, 4} {
		out := split(&in, partitions)
		if b := out[0]; len(out) != 1 || b == nil || len(b.Parts) != 1 || b.Parts[0].AppID != "" || b.Parts[0].Rejected != 1 {
			t.Errorf("of %d: %v", partitions, out)
		}
	}
}

// Every field but the place makes an event another one.
func TestContentDigestCoversEveryField(t *testing.T) {
	digest := func(e UsageEvent) uint64 {
		d, _ := ContentDigest(&e, []byte("scratch with something in it"))
		return d
	}
	base := UsageEvent{EventID: "e", AppID: "a", UserID: "u", Model: "m"}
	seen := map[uint64]string{digest(base): "nothing"}
	typ := reflect.TypeFor[UsageEvent]()
	for i := range typ.NumField() {
		changed := base
		f := reflect.ValueOf(&changed).Elem().Field(i)
		if typ.Field(i).Name == "Counted" {
			changed.Counted = &UsageSums{Events: 7}
			if seen[digest(changed)] != "nothing" {
				t.Error("what was counted changes the digest")
			}
			continue
		}
		switch f.Kind() {
		case reflect.String:
			f.SetString("changed")
		case reflect.Int64:
			f.SetInt(7)
		case reflect.Float64:
			f.SetFloat(7)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Slice:
			f.SetBytes([]byte(`{"k":7}`))
		case reflect.Uint32:
			f.SetUint(7)
		default:
			t.Fatalf("field %s of a kind that this test does not know", typ.Field(i).Name)
		}
		name := typ.Field(i).Name
		other, same := seen[digest(changed)]
		if name == "Index" {
			if other != "nothing" {
				t.Error("the place changes the digest")
			}
			continue
		}
		if same {
			t.Errorf("a change of %s is like one of %s", name, other)
		}
		seen[digest(changed)] = name
	}
	moved := base
	moved.EventID, moved.AppID = "ea", ""
	if digest(moved) == digest(base) {
		t.Error("a text ran into its neighbour")
	}
}

// Absent, null and zero are one content; so are two spellings of one value.
func TestContentDigestOfOptionalFields(t *testing.T) {
	digest := func(changes ...string) uint64 {
		t.Helper()
		e, rejected := judge(t, eventJSON(changes...))
		if rejected != nil {
			t.Fatalf("%v: %+v", changes, rejected)
		}
		d, _ := ContentDigest(e, nil)
		return d
	}
	absent := digest()
	for _, changes := range [][]string{
		{"tenant_id", "null"},
		{"workflow_id", "null"},
		{"chat_id", "null"},
		{"run_id", "null"},
		{"agent_name", "null"},
		{"invocation_id", "null"},
		{"cached", "null"},
		{"cached", "false"},
		{"cached_tokens", "0"},
		{"reasoning_tokens", "null"},
		{"cost", "0.00"},
		{"cost", `"0"`},
		{"cost", "null"},
		{"duration_sec", "0"},
		{"duration_sec", "-0.0"},
		{"duration_sec", "null"},
		{"metadata", "null"},
		{"metadata", "{ }"},
	} {
		if digest(changes...) != absent {
			t.Errorf("%v is not like absent", changes)
		}
	}
	for _, pair := range [][2][]string{
		{{"cost", "1.10"}, {"cost", `"11e-1"`}},
		{{"metadata", `{"b":1.0,"a":"\u00e9"}`}, {"metadata", `{ "a":"é", "b":1 }`}},
	} {
		if digest(pair[0]...) != digest(pair[1]...) {
			t.Errorf("%v and %v are different contents", pair[0], pair[1])
		}
	}
}

func TestFingerprintsAreOfKindAppAndID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.StringOfN(rapid.SampledFrom([]rune("a\x00\x01b")), 0, 4, -1), rapid.String())
		kind := rapid.SampledFrom([]IDKind{IDEvent, IDBatch})
		type identity struct {
			kind    IDKind
			app, id string
		}
		a := identity{kind.Draw(t, "kind"), text.Draw(t, "app"), text.Draw(t, "id")}
		b := identity{kind.Draw(t, "other kind"), text.Draw(t, "other app"), text.Draw(t, "other id")}
		x, scratch := FingerprintOf(a.kind, a.app, a.id, bytes.Repeat([]byte("x"), 9))
		y, _ := FingerprintOf(b.kind, b.app, b.id, scratch)
		if (a == b) != (x == y) {
			t.Fatalf("%+v and %+v: %x and %x", a, b, x, y)
		}
	})
	if fp, _ := FingerprintOf(IDEvent, "a", "e", nil); fp != digest16([]byte("e\x01ae")) {
		t.Error("fingerprints must never change")
	}
	if long, _ := FingerprintOf(IDBatch, strings.Repeat("a", 200), "e", nil); long != digest16([]byte("b\xc8\x01"+strings.Repeat("a", 200)+"e")) {
		t.Error("fingerprints must never change")
	}
}
