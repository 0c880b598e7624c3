package bus

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"grout/schemas"
)

// A dead letter of the largest group passes the relay.
func TestRelayLargestDeadLetter(t *testing.T) {
	b := newBus(t)
	o := newMemoryOutbox()
	letter := schemas.DeadLetter{ID: "x", Code: schemas.CodeUndecodable, Reason: "r", Original: schemas.OriginalMessage{
		Subject: schemas.GroupSubject(0), Data: bytes.Repeat([]byte{7}, schemas.MaxGroupBytes),
	}}
	for i := range 3 {
		o.rows = append(o.rows, schemas.FactMessage{
			Subject: schemas.DeadLetterSubject("", ""), Data: letter.AppendJSON(nil, 0), At: schemas.Position{Seq: uint64(i + 1)},
		})
	}
	stop := run(t, b.NewRelay(schemas.DestDeadLetters, 0, o, RelayOptions{}).Run)
	eventually(t, "the relay has caught up", o.caughtUp)
	_ = stop()
}

func TestTrim(t *testing.T) {
	for _, partitions := range []int{1, 3} {
		t.Run(fmt.Sprint("P=", partitions), func(t *testing.T) {
			b := newBus(t)
			b.cfg.Partitions = partitions
			ctx := testContext(t)
			var at [3][]schemas.Checkpoint
			for i := range 30 {
				p := i % partitions
				data := fmt.Appendf(nil, "group %d", i)
				ack := must1(b.js.Publish(ctx, schemas.GroupSubject(p), data))(t)
				m := must1(b.getMessage(ctx, schemas.StreamCommands, ack.Sequence, ""))(t)
				at[p] = append(at[p], schemas.Checkpoint{Seq: ack.Sequence, StoredAt: m.Time.UnixNano(), Digest: schemas.MessageDigest(data)})
			}
			keep := at[0][len(at[0])/2]
			must(t, b.Trim(ctx, 0, keep.Seq))
			must(t, b.Trim(ctx, 0, keep.Seq)) // again is nothing
			for p := range partitions {
				for i, c := range at[p] {
					m := must1(b.getMessage(ctx, schemas.StreamCommands, c.Seq, ""))(t)
					gone := p == 0 && i < len(at[0])/2
					if (m == nil) != gone {
						t.Errorf("partition %d, message %d: gone %t, want %t", p, c.Seq, m == nil, gone)
					}
				}
				_, err := b.guardCommands(ctx, p, at[p][len(at[p])-1])
				must(t, err)
			}
			if _, err := b.guardCommands(ctx, 0, keep); err != nil {
				t.Error(err)
			}
			var lost *GuardError
			for _, c := range []schemas.Checkpoint{{}, at[0][0]} {
				if _, err := b.guardCommands(ctx, 0, c); !errors.As(err, &lost) || lost.Name != StreamHeadLost {
					t.Errorf("a store at %d: %v, want %s", c.Seq, err, StreamHeadLost)
				}
			}
			if partitions > 1 {
				if _, err := b.guardCommands(ctx, 1, schemas.Checkpoint{}); err != nil {
					t.Errorf("an empty store of a partition that was not trimmed: %v", err)
				}
			}
			must(t, must1(Open(ctx, b.nc, b.cfg))(t).Trim(ctx, 0, keep.Seq)) // opening keeps what was noted
			if _, err := b.guardCommands(ctx, 0, schemas.Checkpoint{}); !errors.As(err, &lost) {
				t.Errorf("after opening again: %v", err)
			}
		})
	}
}

// The beginning of a batch is in the stream and its marker is not, as a write error
// or a power cut may leave it: nothing of it is published again.
func TestRelayPassesRemainsOfABatch(t *testing.T) {
	for _, before := range []int{0, 5} {
		t.Run(fmt.Sprintf("after %d relayed facts", before), func(t *testing.T) {
			b := newBus(t)
			ctx := testContext(t)
			o := newMemoryOutbox()
			if before > 0 {
				o.add(before)
				relayAll(t, b, o, RelayOptions{})
			}
			o.add(10)
			r := b.NewRelay(schemas.DestFacts, 0, o, RelayOptions{})
			other := b.NewRelay(schemas.DestFacts, 1, o, RelayOptions{})
			for i, f := range o.rows[before : before+4] {
				m := &nats.Msg{Subject: f.Subject, Data: f.Data, Header: nats.Header{headerPosition: {r.positionText(f.At)}}}
				must1(b.js.PublishMsg(ctx, m))(t)
				if i == 1 { // another partition's facts lie between
					m := &nats.Msg{Subject: f.Subject, Data: []byte("other"), Header: nats.Header{headerPosition: {other.positionText(o.rows[9].At)}}}
					must1(b.js.PublishMsg(ctx, m))(t)
				}
			}
			relayAll(t, b, o, RelayOptions{})
			var got []string
			facts, _ := relayedFacts(t, b)
			for _, f := range facts {
				if f != "other" {
					got = append(got, f)
				}
			}
			for i := range before + 10 {
				if len(got) != before+10 || got[i] != fmt.Sprintf(`{"row":%d}`, i) {
					t.Fatalf("facts in the stream: %q", got)
				}
			}
		})
	}
}

// A kill between the two files of a stream's settings costs nothing; files that the
// server does not take are never made anew.
func TestInterruptedSettings(t *testing.T) {
	dir := t.TempDir()
	open := func() (*Server, *Bus, error) {
		s := must1(StartServer(ServerOptions{Dir: dir}))(t)
		nc := must1(s.Connect("test"))(t)
		t.Cleanup(nc.Close)
		b, err := Open(testContext(t), nc, Config{Dir: dir, Partitions: 1})
		return s, b, err
	}
	s, b, err := open()
	must(t, err)
	must1(b.js.Publish(testContext(t), schemas.GroupSubject(0), []byte("x")))(t)
	s.Shutdown()
	stream := filepath.Join(streamsDir(dir), schemas.StreamCommands)
	sum := filepath.Join(stream, checksumFile)
	good := must1(os.ReadFile(sum))(t)
	past := time.Now().Add(-time.Hour)
	for _, cut := range []func(){
		func() { must(t, os.Remove(sum)) },
		func() {
			must(t, os.WriteFile(sum, []byte("0123456789abcdef"), 0o600))
			must(t, os.Chtimes(sum, past, past))
		},
	} {
		cut()
		s, b, err := open()
		must(t, err)
		if st := must1(b.Commands(testContext(t)))(t); st.Last != 1 {
			t.Errorf("the stream holds %+v", st)
		}
		s.Shutdown()
		if got := must1(os.ReadFile(sum))(t); string(got) != string(good) {
			t.Errorf("checksum %s, want %s", got, good)
		}
	}
	// A checksum that is newer than the settings was not cut off: something is damaged.
	must(t, os.WriteFile(sum, []byte("0123456789abcdef"), 0o600))
	future := time.Now().Add(time.Hour)
	must(t, os.Chtimes(sum, future, future))
	s, _, err = open()
	defer s.Shutdown()
	var guard *GuardError
	if !errors.As(err, &guard) || guard.Name != StreamUnreadable {
		t.Errorf("damaged settings: %v", err)
	}
	if blocks := must1(filepath.Glob(filepath.Join(stream, "msgs", "*.blk")))(t); len(blocks) == 0 {
		t.Error("the messages are gone")
	}
}
