package bus

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// What a destination stream has lost is found at the start, and where to go on. From
// there the relay publishes again, once, and later starts find nothing.
func TestRelayLossIsFound(t *testing.T) {
	removed := func(e *embedded) {
		must(e.t, os.RemoveAll(filepath.Join(streamsDir(e.dir), schemas.StreamFacts)))
	}
	for what, c := range map[string]struct {
		harm  func(e *embedded, older string)
		after int // rows that the stream still shows
	}{
		"an older copy": {func(e *embedded, older string) {
			e.stopped(func() { e.copyFrom(older) })
		}, 5},
		"an older copy that others have written on": {func(e *embedded, older string) {
			e.stopped(func() { e.copyFrom(older) })
			for range 30 {
				must1(e.js.Publish(testContext(e.t), "mozaiks.v1.evt.other.x", nil))(e.t)
			}
		}, 5},
		"made anew": {func(e *embedded, _ string) { e.stopped(func() { removed(e) }) }, 0},
		"a copy from before the first fact, written on": {func(e *embedded, _ string) {
			e.stopped(func() { removed(e) })
			for range 30 {
				must1(e.js.Publish(testContext(e.t), "mozaiks.v1.evt.other.x", nil))(e.t)
			}
		}, 0},
	} {
		t.Run(what, func(t *testing.T) {
			e := newEmbedded(t, 1)
			o := newMemoryOutbox()
			older := t.TempDir()
			o.add(5)
			relayAll(t, e.Bus, o, RelayOptions{})
			e.stopped(func() { e.copyTo(older) })
			o.add(7)
			relayAll(t, e.Bus, o, RelayOptions{})
			if l, err := e.SurveyRelay(testContext(t), schemas.DestFacts, 0, o.relayed(), 0); l != nil || err != nil {
				t.Fatalf("nothing is wrong: %+v, %v", l, err)
			}
			noted := o.relayed()
			c.harm(e, older)
			if what == "a copy from before the first fact, written on" {
				// As an older copy keeps it: the stream is the same.
				o.state.StreamCreated = must1(e.streamState(testContext(t), schemas.StreamFacts, false))(t).created
				noted = o.state
			}
			wantGuard(t, RelayTailLost, e.NewRelay(schemas.DestFacts, 0, o, RelayOptions{}).Run(testContext(t)))
			l, err := e.SurveyRelay(testContext(t), schemas.DestFacts, 0, noted, 0)
			if err != nil || l == nil {
				t.Fatalf("the loss was not found: %v", err)
			}
			want := schemas.Position{}
			if c.after > 0 {
				want = o.rows[c.after-1].At
			}
			if l.Found.After != want || l.Noted != noted || l.Detail == "" || l.Stream != schemas.StreamFacts {
				t.Fatalf("%+v, want to go on behind %s", l, want)
			}
			o.state = l.Found
			relayAll(t, e.Bus, o, RelayOptions{})
			facts := ownFacts(t, e.Bus)
			if len(facts) != 12 {
				t.Errorf("%d facts: %v", len(facts), facts)
			}
			for i, f := range facts {
				if f != i {
					t.Errorf("facts %v", facts)
					break
				}
			}
			e.stopped(func() {})
			if l, err := e.SurveyRelay(testContext(t), schemas.DestFacts, 0, o.relayed(), 0); l != nil || err != nil {
				t.Errorf("after it was mended: %+v, %v", l, err)
			}
			relayAll(t, e.Bus, o, RelayOptions{})
			if again := ownFacts(t, e.Bus); len(again) != 12 {
				t.Errorf("%d facts", len(again))
			}
		})
	}
}

// ownFacts gives the numbers of the rows of the relay under test, in order.
func ownFacts(t *testing.T, b *Bus) (rows []int) {
	t.Helper()
	facts, _ := relayedFacts(t, b)
	for _, f := range facts {
		if f != "" {
			n := 0
			for _, c := range f[len(`{"row":`) : len(f)-1] {
				n = 10*n + int(c-'0')
			}
			rows = append(rows, n)
		}
	}
	return rows
}

// What has expired or was purged is no loss.
func TestExpiredFactsAreNoLoss(t *testing.T) {
	for what, opts := range map[string][]jetstream.StreamPurgeOpt{
		"everything":       nil,
		"the marker alone": {jetstream.WithPurgeSubject("mozaiks.v1.relay.>")},
		"all but the end":  {jetstream.WithPurgeSequence(5)},
	} {
		e := newEmbedded(t, 1)
		o := newMemoryOutbox()
		o.add(5)
		relayAll(t, e.Bus, o, RelayOptions{})
		must(t, must1(e.js.Stream(testContext(t), schemas.StreamFacts))(t).Purge(testContext(t), opts...))
		if l, err := e.SurveyRelay(testContext(t), schemas.DestFacts, 0, o.relayed(), 0); l != nil || err != nil {
			t.Errorf("%s: %+v, %v", what, l, err)
		}
	}
}

// A marker of another store's relay says nothing about this one's facts.
func TestForeignMarkerStops(t *testing.T) {
	e := newEmbedded(t, 1)
	origin := func(n int64) func() int64 { return func() int64 { return n } }
	other, own := newMemoryOutbox(), newMemoryOutbox()
	other.add(9)
	relayAll(t, e.Bus, other, RelayOptions{Origin: origin(1)})
	own.add(3)
	_, err := e.SurveyRelay(testContext(t), schemas.DestFacts, 0, own.relayed(), 2)
	wantGuard(t, RelayForeign, err)
	wantGuard(t, RelayForeign, e.NewRelay(schemas.DestFacts, 0, own, RelayOptions{Origin: origin(2)}).Run(testContext(t)))
	other.add(1)
	relayAll(t, e.Bus, other, RelayOptions{Origin: origin(1)})
	wantFacts(t, e.Bus, 10)
}

// A store that was put back from before its fact stream was made anew finds its own
// marker there, and goes on at it.
func TestOlderNoteOfAnotherStream(t *testing.T) {
	e := newEmbedded(t, 1)
	o := newMemoryOutbox()
	o.add(9)
	relayAll(t, e.Bus, o, RelayOptions{Origin: func() int64 { return 1 }})
	o.state = schemas.RelayState{After: o.rows[3].At, MarkerSeq: 900, StreamCreated: 5}
	if l, err := e.SurveyRelay(testContext(t), schemas.DestFacts, 0, o.relayed(), 1); l != nil || err != nil {
		t.Errorf("%+v, %v", l, err)
	}
	relayAll(t, e.Bus, o, RelayOptions{Origin: func() int64 { return 1 }})
	wantFacts(t, e.Bus, 9)
}
