package schemas

import (
	"bytes"
	"encoding/binary"
	"math"
	"reflect"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// hostileSeeds are a stored form and the same with its numbers made huge.
func hostileSeeds(whole []byte) [][]byte {
	seeds := [][]byte{nil, whole}
	for i := range whole {
		for _, n := range []uint64{1 << 20, 1 << 40, math.MaxUint64} {
			b := binary.AppendUvarint(bytes.Clone(whole[:i]), n)
			seeds = append(seeds, append(b, whole[i+1:]...))
		}
	}
	return seeds
}

func wholeForms() map[string][]byte {
	batch := goldenBatch()
	o := IngestOutcome{Accepted: 3, Rejected: 1, Errors: batch.Rejected}
	return map[string][]byte{
		"group": AppendGroup(nil, goldenFrames()), "payload": batch.EncodePayload(nil), "block": encodeBlock(nil, goldenUsageEvents()),
		"outcome": o.Append(nil), "replies": AppendReplies(nil, [][]byte{o.Append(nil), nil}),
	}
}

// Few bytes that claim many items are refused before anything is made for them.
func TestDecodersAllocateWhatTheyWereGiven(t *testing.T) {
	decoders := map[string]func([]byte){
		"group":   func(b []byte) { _, _ = DecodeGroup(b) },
		"payload": func(b []byte) { _ = new(UsageBatch).DecodePayload(b) },
		"block":   func(b []byte) { _, _, _ = DecodeUsageBlock(b, nil) },
		"outcome": func(b []byte) { _ = new(IngestOutcome).Decode(b) },
		"replies": func(b []byte) { _, _ = DecodeReplies(b) },
	}
	var before, after runtime.MemStats
	measure := func(decode func([]byte), b []byte) uint64 {
		runtime.ReadMemStats(&before)
		decode(b)
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	const perByte, atLeast = 256, 64 << 10
	for name, whole := range wholeForms() {
		for _, b := range hostileSeeds(whole) {
			if n := measure(decoders[name], b); n > atLeast+perByte*uint64(len(b)) {
				t.Fatalf("%s: %d bytes %x took %d bytes", name, len(b), b, n)
			}
		}
	}
	const size = 1 << 20
	for name, head := range map[string][]byte{
		"group":   {GroupForm},
		"block":   {usageBlockForm},
		"outcome": {1, 0, 0, 0, 0},
		"replies": {1},
		"payload": {1, 0, 0, 0, usageBlockForm},
	} {
		b := append(binary.AppendUvarint(bytes.Clone(head), size), make([]byte, size)...)
		if n := measure(decoders[name], b); n > perByte*size {
			t.Errorf("%s: 1 MiB of zeros took %d bytes", name, n)
		}
	}
}

func FuzzDecodeGroup(f *testing.F) {
	for _, b := range hostileSeeds(wholeForms()["group"]) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := DecodeGroup(data)
		if err != nil {
			return
		}
		again, err := DecodeGroup(AppendGroup(nil, got))
		if err != nil || len(again) != len(got) {
			t.Fatalf("%d commands became %d: %v", len(got), len(again), err)
		}
		for i := range got {
			if got[i].Kind == "" && got[i].ID == "" {
				continue // a broken frame is not written as it was
			}
			if d := cmp.Diff(got[i], again[i], equalEvents); d != "" {
				t.Fatalf("command %d: %s", i, d)
			}
		}
	})
}

func FuzzDecodeUsageBatchPayload(f *testing.F) {
	for _, b := range hostileSeeds(wholeForms()["payload"]) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var got, again UsageBatch
		if got.DecodePayload(data) != nil {
			return
		}
		if err := again.DecodePayload(got.EncodePayload(nil)); err != nil {
			t.Fatal(err)
		}
		normal(got.Events)
		got.Prints, again.Prints = nil, nil
		if !reflect.DeepEqual(got, again) {
			if d := cmp.Diff(got, again, equalEvents); d != "" {
				t.Fatal(d)
			}
		}
	})
}

// normal makes -0 what it is written as.
func normal(events []UsageEvent) {
	for i := range events {
		events[i].DurationSec += 0
	}
}

func FuzzDecodeUsageBlock(f *testing.F) {
	for _, b := range hostileSeeds(wholeForms()["block"]) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, rest, err := DecodeUsageBlock(data, nil)
		if err != nil {
			return
		}
		if !bytes.HasSuffix(data, rest) {
			t.Fatalf("%x is not the end of the block's bytes", rest)
		}
		normal(got)
		again, rest, err := DecodeUsageBlock(encodeBlock(nil, got), nil)
		if err != nil || len(rest) > 0 {
			t.Fatalf("%x %v", rest, err)
		}
		if !reflect.DeepEqual(got, again) {
			if d := cmp.Diff(got, again, equalEvents); d != "" {
				t.Fatal(d)
			}
		}
	})
}

func FuzzDecodeOutcome(f *testing.F) {
	forms := wholeForms()
	for _, name := range []string{"outcome", "replies"} {
		for _, b := range hostileSeeds(forms[name]) {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var got, again IngestOutcome
		if got.Decode(data) == nil {
			if err := again.Decode(got.Append(nil)); err != nil || !reflect.DeepEqual(got, again) {
				t.Fatalf("%v: %s", err, cmp.Diff(got, again))
			}
		}
		if replies, err := DecodeReplies(data); err == nil {
			again, err := DecodeReplies(AppendReplies(nil, replies))
			if d := cmp.Diff(replies, again, equalEvents); err != nil || d != "" {
				t.Fatalf("%v: %s", err, d)
			}
		}
	})
}
