package schemas

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file of testdata. A stored form that has been released
// never changes: a new version gets a new file.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (make it with -update)", err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

func goldenBytes(t *testing.T, name string, got []byte) {
	t.Helper()
	golden(t, name, []byte(hex.Dump(got)))
}

func drawFrame(t *rapid.T) CommandFrame {
	text := anyText()
	return CommandFrame{
		Kind: text.Draw(t, "kind"), AppID: text.Draw(t, "app"), ID: text.Draw(t, "id"), Source: text.Draw(t, "source"),
		Time: rapid.Int64().Draw(t, "time"), Accepted: rapid.Int64().Draw(t, "accepted"),
		CorrelationID: text.Draw(t, "correlation"), TraceParent: text.Draw(t, "traceparent"),
		Payload: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload"),
	}
}

func goldenFrames() []CommandFrame {
	return []CommandFrame{
		{
			Kind: "usage.ingest", ID: "0190f7a2-0000-7000-8000-000000000001", Source: "//mozaiks.ai/grout/http",
			Time: 1_774_000_000_000_000_000, Accepted: 1_774_000_000_000_000_001, CorrelationID: "c-1",
			TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Payload: []byte("payload one"),
		},
		{Kind: "usage.void", AppID: "äpp", ID: "2", Source: "//mozaiks.ai/app/%C3%A4pp/nats/platform", Time: -1},
	}
}

func TestGroupRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := make([]CommandFrame, rapid.IntRange(0, 8).Draw(t, "commands"))
		for i := range want {
			want[i] = drawFrame(t)
		}
		got, err := DecodeGroup(AppendGroup(nil, want))
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); err != nil || d != "" {
			t.Fatalf("%v\n%s", err, d)
		}
	})
}

func TestGroupGolden(t *testing.T) {
	b := AppendGroup(nil, goldenFrames())
	goldenBytes(t, "group_v1.golden", b)
	got, err := DecodeGroup(b)
	if d := cmp.Diff(goldenFrames(), got, cmpopts.EquateEmpty()); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
}

// appendRawFrame adds a frame of any bytes, as a damaged one would stand there.
func appendRawFrame(b, frame []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(frame))), frame...)
}

func rawFrame(c CommandFrame) []byte { return append(c.appendHead(nil), c.Payload...) }

func TestBrokenFrameLeavesItsNeighboursWhole(t *testing.T) {
	frames := goldenFrames()
	whole := rawFrame(CommandFrame{Kind: "k", AppID: "a", ID: "i", Source: "s", CorrelationID: "c", TraceParent: "t"})
	broken := [][]byte{{}, {0xff}, bytes.Repeat([]byte{0xff}, 40), binary.AppendUvarint(nil, 1<<40), binary.AppendUvarint(nil, math.MaxUint64)}
	for n := range whole {
		broken = append(broken, whole[:n])
	}
	for _, frame := range broken {
		b := binary.AppendUvarint([]byte{GroupForm}, 3)
		b = appendRawFrame(b, rawFrame(frames[0]))
		b = appendRawFrame(b, frame)
		b = appendRawFrame(b, rawFrame(frames[1]))
		got, err := DecodeGroup(b)
		want := []CommandFrame{frames[0], {Payload: frame}, frames[1]}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); err != nil || d != "" {
			t.Errorf("frame %x: %v\n%s", frame, err, d)
		}
	}
}

// Any bytes changed inside one frame change at most that command.
func TestDamageStaysInItsFrame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		frames := []CommandFrame{drawFrame(t), drawFrame(t), drawFrame(t)}
		damaged := rawFrame(frames[1])
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			damaged[rapid.IntRange(0, len(damaged)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
		}
		b := binary.AppendUvarint([]byte{GroupForm}, 3)
		for _, frame := range [][]byte{rawFrame(frames[0]), damaged, rawFrame(frames[2])} {
			b = appendRawFrame(b, frame)
		}
		got, err := DecodeGroup(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range []int{0, 2} {
			if d := cmp.Diff(frames[i], got[i], cmpopts.EquateEmpty()); d != "" {
				t.Fatalf("neighbour %d: %s", i, d)
			}
		}
	})
}

func TestBrokenGroups(t *testing.T) {
	whole := AppendGroup(nil, goldenFrames())
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"nothing":           {nil, ErrDamaged},
		"another form":      {append([]byte{GroupForm + 1}, whole[1:]...), ErrGroupForm},
		"form 0":            {[]byte{0}, ErrGroupForm},
		"JSON":              {[]byte(`{"specversion":"1.0"}`), ErrGroupForm},
		"no count":          {[]byte{GroupForm}, ErrDamaged},
		"2^40 commands":     {binary.AppendUvarint([]byte{GroupForm}, 1<<40), ErrDamaged},
		"2^64-1 commands":   {binary.AppendUvarint([]byte{GroupForm}, math.MaxUint64), ErrDamaged},
		"more than allowed": {append(binary.AppendUvarint([]byte{GroupForm}, MaxGroupCommands+1), make([]byte, MaxGroupCommands+1)...), ErrDamaged},
		"cut":               {whole[:len(whole)-1], ErrDamaged},
		"longer":            {append(bytes.Clone(whole), 0), ErrDamaged},
	} {
		if _, err := DecodeGroup(c.data); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	largest := append(binary.AppendUvarint([]byte{GroupForm}, MaxGroupCommands), make([]byte, MaxGroupCommands)...)
	if got, err := DecodeGroup(largest); err != nil || len(got) != MaxGroupCommands {
		t.Errorf("%d commands, %v", len(got), err)
	}
}

func TestFrameSizeIsAnUpperBound(t *testing.T) {
	check := func(t rapid.TB, c CommandFrame) {
		t.Helper()
		before := AppendGroup(nil, nil)
		if got := len(AppendGroup(nil, []CommandFrame{c})) - len(before); got > c.FrameSize() {
			t.Fatalf("the frame adds %d bytes, its bound is %d", got, c.FrameSize())
		}
	}
	rapid.Check(t, func(t *rapid.T) { check(t, drawFrame(t)) })
	long := strings.Repeat("x", 1<<20)
	check(t, CommandFrame{
		Kind: long, AppID: long, ID: long, Source: long, Time: math.MinInt64, Accepted: math.MinInt64,
		CorrelationID: long, TraceParent: long, Payload: make([]byte, MaxCommandBytes),
	})
	// One command of the largest size fits into a group.
	c := CommandFrame{Kind: UsageIngest.Name, Time: math.MinInt64, Accepted: math.MinInt64}
	c.Payload = make([]byte, MaxCommandBytes-c.FrameSize())
	if n := len(AppendGroup(nil, []CommandFrame{c})); c.FrameSize() > MaxCommandBytes || n > MaxGroupBytes {
		t.Errorf("the largest command makes a group of %d bytes", n)
	}
}
