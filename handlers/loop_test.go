package handlers

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cloudevent "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"grout/schemas"
	"grout/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// messages is a Source of what it holds, in order, behind the checkpoint.
type messages struct {
	list []schemas.StreamMessage
	at   int
	done chan struct{} // closed when all have been taken
	err  error         // at the end, instead of waiting
}

func (s *messages) Open(_ context.Context, at schemas.Checkpoint) (int64, error) {
	for s.at < len(s.list) && s.list[s.at].Seq <= at.Seq {
		s.at++
	}
	return 1, nil
}

func (s *messages) Next(ctx context.Context) (schemas.StreamMessage, error) {
	if s.at == len(s.list) {
		if s.err != nil {
			return schemas.StreamMessage{}, s.err
		}
		close(s.done)
		<-ctx.Done()
		return schemas.StreamMessage{}, ctx.Err()
	}
	s.at++
	return s.list[s.at-1], nil
}

func rawGroup(seq uint64, frames []schemas.CommandFrame) schemas.StreamMessage {
	return rawMessage(seq, schemas.AppendGroup(nil, frames))
}

func rawMessage(seq uint64, data []byte) schemas.StreamMessage {
	return schemas.StreamMessage{
		Subject: schemas.GroupSubject(0), Seq: seq, Time: time.Unix(0, testNow+int64(seq)).UTC(), Data: data,
		Header: map[string][]string{"ce-id": {fmt.Sprint("group-", seq)}},
	}
}

func (g *given) loop(per int, source Source, answers map[string][][]byte) *Loop {
	return NewLoop(LoopOptions{
		Store: g.store, Source: source, Table: g.table, MaxMessages: per, Logger: slog.New(slog.DiscardHandler),
		DecodeGroup: func(m schemas.StreamMessage) (schemas.Group, error) {
			group, err := decodeTestGroup(m)
			group.ReplyTo = "reply"
			return group, err
		},
		Reply: func(to, id string, outcomes [][]byte) error {
			answers[to[len("reply"):]+id] = outcomes
			return errors.New("nobody listens, which is no reason to stop")
		},
	})
}

// apply runs a loop until it has applied the messages, and gives the outcomes by
// group.
func (g *given) apply(per int, list ...schemas.StreamMessage) map[string][][]byte {
	g.t.Helper()
	answers := map[string][][]byte{}
	source := &messages{list: list, done: make(chan struct{})}
	l := g.loop(per, source, answers)
	ctx, cancel := context.WithCancel(g.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	<-source.done
	waitFor(g.t, func() bool { return l.Applied() >= int64(len(list)) || len(ended) > 0 })
	cancel()
	if err := <-ended; err != nil {
		g.t.Fatal(err)
	}
	return answers
}

func (g *given) outbox(dest string) (list []cloudevent.Event) {
	g.t.Helper()
	all, err := g.store.Facts(dest, schemas.Position{}, 1<<30, 1<<40)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, m := range all {
		var e cloudevent.Event
		if err := json.Unmarshal(m.Data, &e); err != nil {
			g.t.Fatal(err)
		}
		if err := e.Validate(); err != nil {
			g.t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

func (g *given) rejectedFacts() (list []schemas.UsageRejectedData) {
	g.t.Helper()
	for _, e := range g.outbox(schemas.DestFacts) {
		if e.Type() != schemas.TypeOf(schemas.UsageRejected.Name) {
			continue
		}
		var d schemas.UsageRejectedData
		if err := json.Unmarshal(e.Data(), &d); err != nil {
			g.t.Fatal(err)
		}
		list = append(list, d)
	}
	return list
}

// marked is the payload of a command that does what it is told.
type marked struct{ id, do string }

func (m *marked) DecodePayload(b []byte) error {
	m.id, m.do, _ = strings.Cut(string(b), " ")
	if m.do == "undecodable" {
		return errors.New("the test says so")
	}
	return nil
}

var markedKind = schemas.CommandKind[marked]{Name: "test.marked"} // not in the table of kinds

// obey records an event and then does what it is told, so that what it began must
// vanish again.
func obey(seen *[]int64) func(*store.Tx, Command, *marked) (Result, error) {
	return func(tx *store.Tx, c Command, m *marked) (Result, error) {
		if seen != nil {
			*seen = append(*seen, c.Now)
		}
		e := event(0, "a", m.id, 1)
		p := schemas.EventPrint{Digest: 1}
		p.ID, _ = schemas.FingerprintOf(schemas.IDEvent, e.AppID, e.EventID, nil)
		if _, err := tx.RecordUsage(c.Index, &e, &p); err != nil {
			return Result{}, err
		}
		if _, err := tx.PutBatch(c.Index, &store.Batch{BatchID: m.id}); err != nil {
			return Result{}, err
		}
		switch m.do {
		case "fail":
			return Result{}, errors.New("the test says so")
		case "panic":
			panic("the test says so")
		case "fault":
			return Result{}, fmt.Errorf("wrapped: %w", &store.Fault{Doing: "obey the test", Err: errors.New("broken")})
		}
		return Result{Outcome: []byte("done " + m.id)}, nil
	}
}

func order(id string) schemas.CommandFrame {
	name, _, _ := strings.Cut(id, " ")
	return schemas.CommandFrame{Kind: markedKind.Name, AppID: "a", ID: "c-" + name, Source: "//mozaiks.ai/grout/test", Accepted: testNow, Payload: []byte(id)}
}

// letter is what a test wants to see of a dead letter.
type letter struct {
	Code          schemas.Code
	App, Cause    string
	Subject, Data string
	Sequence      uint64
	Headers       int
}

func (g *given) letters() (list []letter) {
	g.t.Helper()
	ids := map[string]bool{}
	for _, e := range g.outbox(schemas.DestDeadLetters) {
		if ids[e.Source()+e.ID()] {
			g.t.Errorf("dead letter %s twice", e.ID())
		}
		ids[e.Source()+e.ID()] = true
		var d schemas.DeadLetterData
		if err := json.Unmarshal(e.Data(), &d); err != nil {
			g.t.Fatal(err)
		}
		data, err := base64.StdEncoding.DecodeString(d.Original.DataBase64)
		if err != nil || d.Attempts != 1 || d.Reason == "" || strings.Contains(d.Reason, "test says") && d.Code == schemas.CodePoison {
			g.t.Errorf("%+v %v", d, err)
		}
		list = append(list, letter{
			d.Code, e.Extensions()["partitionkey"].(string), e.Extensions()["causationid"].(string),
			d.Original.Subject, string(data), d.Original.Sequence, len(d.Original.Headers),
		})
	}
	return list
}

// appendRaw adds a frame that is no command.
func appendRaw(group []byte, frame string) []byte {
	return append(binary.AppendUvarint(group, uint64(len(frame))), frame...)
}

func TestPoisonIsIsolated(t *testing.T) {
	unknown := order("3")
	unknown.Kind = "nobody.knows"
	foreign := unknown
	foreign.AppID, foreign.ID = "b", "c-foreign"
	// A group of which two frames are broken.
	whole := schemas.AppendGroup(nil, []schemas.CommandFrame{order("5"), order("6")})[2:] // behind form and count
	broken := append([]byte{schemas.GroupForm, 4}, whole[:len(whole)/2]...)
	broken = appendRaw(appendRaw(broken, "\xff\xffone"), "\xff\xfftwo")
	broken = append(broken, whole[len(whole)/2:]...)
	list := []schemas.StreamMessage{
		rawGroup(1, []schemas.CommandFrame{order("1"), order("x fail"), order("2"), order("y panic")}),
		rawGroup(2, []schemas.CommandFrame{unknown, order("3"), foreign}),
		rawGroup(3, []schemas.CommandFrame{order("z undecodable"), order("4")}),
		rawMessage(4, []byte("\x09no group")),
		rawMessage(5, broken),
		rawGroup(6, []schemas.CommandFrame{order("w panic")}),
		rawGroup(7, []schemas.CommandFrame{order("7")}),
	}
	subject := schemas.GroupSubject(0)
	alone := func(c schemas.CommandFrame) string { // the whole command, as a group of one
		return string(schemas.AppendGroup(nil, []schemas.CommandFrame{c}))
	}
	want := []letter{
		{schemas.CodePoison, "a", "c-x", subject, alone(order("x fail")), 1, 0},
		{schemas.CodePoison, "a", "c-y", subject, alone(order("y panic")), 1, 0},
		{schemas.CodeUnknownKind, "a", "c-3", subject, alone(unknown), 2, 0},
		{schemas.CodeUnknownKind, "b", "c-foreign", subject, alone(foreign), 2, 0},
		{schemas.CodeUndecodable, "a", "c-z", subject, alone(order("z undecodable")), 3, 0},
		{schemas.CodeUndecodable, "-", "message-4", subject, "\x09no group", 4, 1},
		{schemas.CodeUndecodable, "-", "group-5", subject, "\xff\xffone", 5, 0},
		{schemas.CodeUndecodable, "-", "group-5", subject, "\xff\xfftwo", 5, 0},
		{schemas.CodePoison, "a", "c-w", subject, alone(order("w panic")), 6, 0},
	}
	outcomes := map[string][]string{
		"group-1": {"done 1", "", "done 2", ""}, "group-2": {"", "done 3", ""}, "group-3": {"", "done 4"},
		"group-5": {"done 5", "", "", "done 6"}, "group-6": {""}, "group-7": {"done 7"},
	}
	var first []byte
	for _, per := range []int{1, 3, 64} {
		t.Run(fmt.Sprintf("%d messages a transaction", per), func(t *testing.T) {
			g := newGiven(t)
			On(g.table, markedKind, obey(nil))
			got := map[string][]string{}
			for id, list := range g.apply(per, list...) {
				for _, o := range list {
					got[id] = append(got[id], string(o))
				}
			}
			if d := cmp.Diff(outcomes, got); d != "" {
				t.Errorf("outcomes: %s", d)
			}
			if d := cmp.Diff(want, g.letters()); d != "" {
				t.Errorf("dead letters: %s", d)
			}
			if n := g.events("a"); n != 7 {
				t.Errorf("%d events, want 7", n)
			}
			counted := map[string]bool{}
			for _, e := range g.outbox(schemas.DestFacts) {
				var d schemas.UsageRecordedData
				if err := json.Unmarshal(e.Data(), &d); err != nil {
					t.Fatal(err)
				}
				for _, e := range d.Events {
					counted[e.EventID] = true
				}
			}
			if len(counted) != 7 || counted["x"] || counted["y"] || counted["w"] {
				t.Errorf("events in facts: %v", counted)
			}
			if at := g.store.Checkpoint(); at.Seq != 7 || at.Digest != schemas.MessageDigest(list[6].Data) {
				t.Errorf("applied up to %+v", at)
			}
			if b := dump(t, g.store); first == nil {
				first = b
			} else if !bytes.Equal(first, b) {
				t.Errorf("contents differ: %s", firstDifference(first, b))
			}
		})
	}
}

// A group whose letters cannot name an app or a kind has a subject all the same.
func TestUnreadableGroupIsFiled(t *testing.T) {
	g := newGiven(t)
	g.apply(1, rawMessage(1, nil), rawMessage(2, []byte{schemas.GroupForm, 1, 2, 0xff, 0xff}))
	all, err := g.store.Facts(schemas.DestDeadLetters, schemas.Position{}, 9, 1<<20)
	if err != nil || len(all) != 2 {
		t.Fatalf("%d letters, %v", len(all), err)
	}
	for _, m := range all {
		if m.Subject != "mozaiks.v1.dlq.-.-" {
			t.Error(m.Subject)
		}
	}
}

// Handler time follows the commands and never goes back, over restarts, too.
func TestHandlerTimeNeverGoesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	hour := int64(time.Hour)
	accepted := [][]int64{{5, 3, 9}, {1, 9, 10}, {2}, {-4, 11}}
	want := [][]int64{{5, 5, 9}, {9, 9, 10}, {10}, {10, 11}}
	for seq, list := range accepted {
		s := openStore(t, path, 0, 1, 100)
		var seen []int64
		g := &given{t: t, store: s, table: NewTable()}
		On(g.table, markedKind, obey(&seen))
		var frames []schemas.CommandFrame
		for i, at := range list {
			c := order(fmt.Sprintf("%d-%d", seq, i))
			c.Accepted = testNow + at*hour
			frames = append(frames, c)
		}
		g.apply(1, rawGroup(uint64(seq+1), frames))
		for i := range seen {
			seen[i] = (seen[i] - testNow) / hour
		}
		if d := cmp.Diff(want[seq], seen); d != "" {
			t.Errorf("message %d: %s", seq, d)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A dead command moves handler time like any other, so its neighbours see the same
// however often their transaction was tried.
func TestFailedCommandsAreReplayedAlike(t *testing.T) {
	var first []byte
	for _, per := range []int{1, 64} {
		g := newGiven(t)
		On(g.table, markedKind, obey(nil))
		late := order("x fail")
		late.Accepted += int64(time.Hour)
		g.apply(per, rawGroup(1, []schemas.CommandFrame{order("1")}), rawGroup(2, []schemas.CommandFrame{late, order("2")}), rawGroup(3, []schemas.CommandFrame{order("3")}))
		if b := dump(t, g.store); first == nil {
			first = b
		} else if !bytes.Equal(first, b) {
			t.Errorf("contents differ: %s", firstDifference(first, b))
		}
	}
}

var errSource = errors.New("the stream is gone")

func TestLoopEndsWithItsError(t *testing.T) {
	var fault *store.Fault
	for name, c := range map[string]struct {
		source Source
		want   any
	}{
		"fault of the file": {&messages{done: make(chan struct{}), list: []schemas.StreamMessage{
			rawGroup(1, []schemas.CommandFrame{order("1")}), rawGroup(2, []schemas.CommandFrame{order("2 fault")}), rawGroup(3, []schemas.CommandFrame{order("3")}),
		}}, &fault},
		"source that ends":             {&messages{err: errSource}, errSource},
		"source that cannot be opened": {closedSource{}, errSource},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGiven(t)
			On(g.table, markedKind, obey(nil))
			l := g.loop(1, c.source, map[string][][]byte{})
			err := l.Run(t.Context())
			if want, ok := c.want.(error); ok && !errors.Is(err, want) || !ok && !errors.As(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if l.Running() {
				t.Error("the loop says that it runs")
			}
			if n := g.store.Checkpoint().Seq; name == "fault of the file" && n != 1 {
				t.Errorf("applied up to %d, want 1", n)
			}
		})
	}
}

type closedSource struct{}

func (closedSource) Open(context.Context, schemas.Checkpoint) (int64, error) { return 0, errSource }

func (closedSource) Next(context.Context) (schemas.StreamMessage, error) {
	return schemas.StreamMessage{}, errSource
}

func TestKindHasOneHandler(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("two handlers for usage.ingest")
		}
	}()
	On(NewTable(), schemas.UsageIngest, (&engine{newLibrary()}).ingestUsage)
}

// Every kind of command has a handler in this release.
func TestEveryKindHasAHandler(t *testing.T) {
	table := NewTable()
	for _, kind := range schemas.CommandKinds() {
		if _, ok := table.rows[kind]; !ok {
			t.Errorf("no handler for %s", kind)
		}
	}
	if len(table.rows) != len(schemas.CommandKinds()) {
		t.Errorf("%d handlers for %d kinds", len(table.rows), len(schemas.CommandKinds()))
	}
}

func TestBudget(t *testing.T) {
	b := newBudget(10)
	ctx, cancel := context.WithCancel(t.Context())
	for _, n := range []int{4, 100} { // the second goes far below, but something was free
		if err := b.take(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	taken := make(chan error, 1)
	go func() { taken <- b.take(ctx, 1) }()
	b.give(4)
	b.give(90) // exactly nothing is free
	select {
	case err := <-taken:
		t.Fatalf("taken although nothing is free: %v", err)
	default:
	}
	b.give(1)
	if err := <-taken; err != nil {
		t.Fatal(err)
	}
	go func() { taken <- b.take(ctx, 1) }()
	cancel()
	if err := <-taken; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
