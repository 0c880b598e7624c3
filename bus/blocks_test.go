package bus

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"grout/schemas"
)

// storedStream makes a server that holds messages in a stream and gives its directory,
// once it is down, and the data by sequence.
func storedStream(t *testing.T, stream string, messages int) (dir string, want map[uint64]string) {
	t.Helper()
	dir = t.TempDir()
	s, err := StartServer(ServerOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown()
	nc, err := s.Connect("test")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	b, err := Open(t.Context(), nc, Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	want = map[uint64]string{}
	for n := range messages {
		subject := schemas.GroupSubject(0)
		switch stream {
		case schemas.StreamFacts:
			subject = "mozaiks.v1.evt.app.usage.recorded"
		case schemas.StreamIn:
			subject = schemas.FromPrefix("platform") + "app.usage.ingest"
		}
		data := fmt.Sprintf("message %d %s", n, strings.Repeat("x", n%300))
		// Like everything of grout's it has a header, without which the server's own
		// checksum would not tell where the subject ends.
		ack, err := b.js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Header: nats.Header{"ce-id": {fmt.Sprint(n)}}, Data: []byte(data)})
		if err != nil {
			t.Fatal(err)
		}
		want[ack.Sequence] = data
	}
	return dir, want
}

// readBack starts the server on the directory and reads the stream with a consumer.
func readBack(t *testing.T, dir, stream string, log *slog.Logger) (got map[uint64]string, last uint64, found []Found) {
	t.Helper()
	s, err := StartServer(ServerOptions{Dir: dir, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown()
	nc, err := s.Connect("test")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	b, err := Open(t.Context(), nc, Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	st, err := b.js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	got = map[uint64]string{}
	state := st.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		if m, err := st.GetMsg(t.Context(), seq); err == nil {
			got[seq] = string(m.Data)
		}
	}
	return got, state.LastSeq, s.Found()
}

// A bit that flips in a block costs the message that it is in, by name; never one
// beside it, and never a sequence.
func TestFlippedBitsCostOneMessage(t *testing.T) {
	const messages = 60
	for _, stream := range []string{schemas.StreamCommands, schemas.StreamFacts, schemas.StreamIn} {
		dir, want := storedStream(t, stream, messages)
		blocks, err := blocksOf(dir, stream)
		if err != nil || len(blocks) != 1 {
			t.Fatalf("%d blocks, %v", len(blocks), err)
		}
		sound, err := os.ReadFile(blocks[0].path)
		if err != nil {
			t.Fatal(err)
		}
		check, err := CheckStream(context.Background(), dir, stream, nil, func(m *StoredMessage) error {
			if want[m.Seq] != string(m.Data) {
				t.Errorf("message %d reads %q", m.Seq, m.Data)
			}
			return nil
		})
		if err != nil || check.Messages != messages || len(check.Damage) != 0 || len(check.Gaps) != 0 || check.First != 1 || check.Last != messages {
			t.Fatalf("%+v %v", check, err)
		}
		r := rand.New(rand.NewPCG(7, uint64(len(stream))))
		for range 40 {
			at := r.IntN(len(sound))
			flipped := bytes.Clone(sound)
			flipped[at] ^= 1 << r.IntN(8)
			if err := os.WriteFile(blocks[0].path, flipped, 0o600); err != nil {
				t.Fatal(err)
			}
			if r.IntN(2) == 0 {
				_ = os.Remove(filepath.Join(filepath.Dir(blocks[0].path), "index.db")) // as after a kill
			}
			got, last, found := readBack(t, dir, stream, nil)
			if len(got) < messages-1 || last != messages {
				t.Errorf("byte %d: %d messages are left, the last is %d", at, len(got), last)
			}
			for seq, data := range got {
				if want[seq] != data {
					t.Errorf("byte %d: message %d reads %q", at, seq, data)
				}
			}
			if len(got) < messages && (len(found) != 1 || found[0].Name != DamageName(stream)) {
				t.Errorf("byte %d: nobody was told: %v", at, found)
			}
		}
	}
}

// What a power cut leaves at the end is no damage: the server drops it.
func TestTornTail(t *testing.T) {
	dir, want := storedStream(t, schemas.StreamCommands, 20)
	blocks, err := blocksOf(dir, schemas.StreamCommands)
	if err != nil {
		t.Fatal(err)
	}
	sound, err := os.ReadFile(blocks[0].path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tail := range [][]byte{sound[:40], make([]byte, 4096), append(bytes.Clone(sound[:40]), make([]byte, 4096)...)} {
		if err := os.WriteFile(blocks[0].path, append(bytes.Clone(sound), tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		got, last, found := readBack(t, dir, schemas.StreamCommands, slog.New(slog.NewTextHandler(&log, nil)))
		if len(got) != len(want) || last != 20 || len(found) > 0 || !strings.Contains(log.String(), StreamTornTail) {
			t.Errorf("%d messages, the last is %d: %s", len(got), last, log.String())
		}
	}
}
