package store

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"grout/schemas"
)

// markMessage is a message of one mark.
type markMessage struct {
	seq  uint64
	at   int64
	mark schemas.DeliveryMark
}

func (m markMessage) put(tx *Tx) error {
	f := schemas.CommandFrame{Kind: schemas.MarkDelivery.Name, ID: fmt.Sprint(m.seq), Source: "//test", Accepted: m.at}
	tx.Begin(Message{Seq: m.seq, StoredAt: m.at, StreamCreated: 1, Commands: []schemas.CommandFrame{f}})
	tx.Command(&f)
	if err := tx.MarkDelivery(&m.mark); err != nil {
		return err
	}
	return tx.End()
}

func upstreamAt(seq uint64, index uint32) schemas.DeliveryMark {
	return schemas.DeliveryMark{Op: schemas.DeliverySet, Stand: schemas.DeliveryStand{Name: "upstream", Source: schemas.DeliverEvents, Seq: seq, Index: index}}
}

func beginning(name string, source schemas.DeliverySource) schemas.DeliveryMark {
	return schemas.DeliveryMark{Op: schemas.DeliveryBegin, Stand: schemas.DeliveryStand{Name: name, Source: source, Seq: 7, Stream: 5}}
}

func standOf(t testing.TB, s *Store, name string) *schemas.DeliveryStand {
	t.Helper()
	d, err := s.Delivery(name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What marks make of the places of deliveries.
func TestDeliveryMarks(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "s.db"), Options{})
	defer closeStore(t, s)
	seq := uint64(0)
	mark := func(m schemas.DeliveryMark) {
		t.Helper()
		seq++
		applyEach(t, s, 1, markMessage{seq, testNow + int64(seq), m})
	}
	mark(upstreamAt(50, 0)) // nobody knows it
	if d := standOf(t, s, "upstream"); d != nil {
		t.Errorf("a mark without a begin made %+v", d)
	}
	mark(beginning("upstream", schemas.DeliverEvents))
	if d := standOf(t, s, "upstream"); d == nil || d.Seq != 3 || d.Index != 0 || d.MarkedAt != testNow+2 {
		t.Errorf("begun at message 2: %+v", d)
	}
	mark(upstreamAt(9, 4))
	mark(beginning("upstream", schemas.DeliverEvents))
	mark(upstreamAt(9, 3))
	mark(upstreamAt(8, 5))
	if d := standOf(t, s, "upstream"); d.Seq != 9 || d.Index != 4 {
		t.Errorf("a place went back: %+v", d)
	}
	more := upstreamAt(9, 4)
	more.Stand.Delivered, more.Stand.Refused, more.Stand.Gaps, more.Stand.Stopped = 10, 2, 1, "why"
	mark(more)
	mark(upstreamAt(10, 0))
	if d := standOf(t, s, "upstream"); d.Seq != 10 || d.Delivered != 10 || d.Refused != 2 || d.Gaps != 1 || d.Stopped != "" {
		t.Errorf("%+v", d)
	}
	mark(beginning("webhook.b", schemas.DeliverFacts))
	mark(beginning("webhook.a", schemas.DeliverFacts))
	back := beginning("webhook.a", schemas.DeliverFacts)
	back.Op, back.Stand.Seq = schemas.DeliverySet, 2
	mark(back) // its stream has lost its end
	list, err := s.Deliveries()
	if err != nil || len(list) != 3 || list[1].Name != "webhook.a" || list[1].Seq != 2 || list[2].Seq != 7 || list[2].Stream != 5 {
		t.Errorf("%+v, %v", list, err)
	}
	back.Op = schemas.DeliveryRemove
	mark(back)
	mark(back)
	if d := standOf(t, s, "webhook.a"); d != nil {
		t.Errorf("removed, and there is %+v", d)
	}
}

// sendAllFrom reads the event log page by page, as a delivery does.
func sendAllFrom(t testing.TB, s *Store, seq uint64, index uint32, most int) (ids []string, end uint64) {
	t.Helper()
	for {
		page, err := s.EventsBehind(t.Context(), seq, index, most)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Events) > most {
			t.Fatalf("%d events, at most %d were asked for", len(page.Events), most)
		}
		for _, e := range page.Events {
			ids = append(ids, e.Event.EventID)
			if e.RecordedAt == 0 || e.Seq < seq {
				t.Fatalf("%+v behind %d", e, seq)
			}
		}
		if page.Seq < seq || page.Seq == seq && page.Index < index {
			t.Fatalf("page from %d/%d ends at %d/%d", seq, index, page.Seq, page.Index)
		}
		if len(page.Events) == 0 {
			return ids, page.Seq
		}
		seq, index = page.Seq, page.Index
	}
}

// Whatever the pages, every event is read once, in the order of the log, from any place.
func TestEventsBehind(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := openAt(t, filepath.Join(t.TempDir(), "s.db"), Options{})
		defer closeStore(rt, s)
		var want []string
		var places [][2]uint64
		messages := rapid.IntRange(0, 6).Draw(rt, "messages")
		var list []putter
		for m := range messages {
			seq := uint64(m + 1)
			if rapid.Bool().Draw(rt, "empty") {
				list = append(list, ownMessage{seq: seq, at: testNow, tick: true})
				continue
			}
			req := request{batch: fmt.Sprint("b", m)}
			for i := range rapid.SampledFrom([]int{1, 2, 7, 900}).Draw(rt, "events") { // 900 of them are more than a chunk
				id := fmt.Sprintf("%064d-%d", m, i)
				req.events = append(req.events, plainEvent("a", id, 1))
				want = append(want, id)
				places = append(places, [2]uint64{seq, uint64(i)})
			}
			list = append(list, &message{seq: seq, requests: []request{req}})
		}
		applyEach(t, s, 1, list...)
		most := rapid.SampledFrom([]int{1, 3, 100, 899, 900, 901, 5000}).Draw(rt, "page")
		if most < 3 && len(want) > 100 {
			most = 100
		}
		from := 0
		if len(want) > 0 {
			from = rapid.IntRange(0, len(want)-1).Draw(rt, "from")
		}
		at := [2]uint64{0, 0}
		if from > 0 {
			at = places[from]
		}
		got, end := sendAllFrom(t, s, at[0], uint32(at[1]), most)
		if fmt.Sprint(got) != fmt.Sprint(want[from:]) {
			rt.Fatalf("read %d events from %v on, there are %d", len(got), at, len(want)-from)
		}
		if end != uint64(messages)+1 {
			rt.Fatalf("read up to %d of %d messages", end, messages)
		}
	})
}

// What is not sent keeps its segment for 60 days from its end, and no longer; what expires
// then is a gap with a name. What is sent keeps nothing, however old its place is.
func TestUnsentEventsKeepTheirSegment(t *testing.T) {
	for _, c := range []struct {
		name  string
		place schemas.DeliveryMark
		days  int64  // of the newest tick
		line  uint64 // the first segment begins behind an empty one at 3
		gaps  uint64
	}{
		{"nothing is sent", upstreamAt(2, 0), 40, 3, 0},
		{"a part of a message is sent", upstreamAt(3, 1), 40, 3, 0},
		{"a message is sent", upstreamAt(4, 0), 40, 6, 0},
		{"the first days are sent", upstreamAt(15, 0), 40, 15, 0},
		{"nothing is sent for 60 days", upstreamAt(2, 0), 63, 9, 1},
		{"the first days are sent, and nothing since", upstreamAt(15, 0), 63, 15, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s.db")
			s := openAt(t, path, Options{})
			applyEach(t, s, 1, markMessage{1, testNow, beginning("upstream", schemas.DeliverEvents)})
			list := days(5, 3, newBatch)
			for i := range list { // they begin behind the mark
				switch m := list[i].(type) {
				case ownMessage:
					m.seq++
					list[i] = m
				case *message:
					m.seq++
				}
			}
			applyEach(t, s, 1, list...)
			applyEach(t, s, 1, markMessage{17, testNow + 5*24*testHour, c.place})
			published(t, s)
			late := testNow + c.days*24*testHour
			applyEach(t, s, 1, ownMessage{seq: 18, at: late, tick: true})
			before, ok, err := s.Expirable()
			if err != nil || !ok {
				t.Fatalf("expirable %v until %d, %v", ok, before, err)
			}
			applyEach(t, s, 1, ownMessage{seq: 19, at: late, before: before})
			applyEach(t, s, 1, ownMessage{seq: 20, at: late, before: late - schemas.SegmentKept - 1}) // who asks for more
			if s.segments.Line.Position != c.line {
				t.Fatalf("the line is at %d", s.segments.Line.Position)
			}
			d := standOf(t, s, "upstream")
			if d.Gaps != c.gaps {
				t.Fatalf("%+v", d)
			}
			if c.gaps > 0 && (d.Gap.From != 3 || d.Gap.To != s.segments.Line.Position-1 || d.Seq != s.segments.Line.Position || d.Gap.At != late || d.Gap.Until != s.segments.Line.Until) {
				t.Errorf("%+v, line %+v", d, s.segments.Line)
			}
			closeStore(t, s)
			sound(t, path)
		})
	}
}

// A replay makes the same places, however many messages share a transaction.
func TestDeliveriesReplay(t *testing.T) {
	var dumps [][]byte
	for _, per := range []int{1, 7, 64} {
		s := openAt(t, filepath.Join(t.TempDir(), "s.db"), Options{})
		defer closeStore(t, s)
		list := []putter{markMessage{1, testNow, beginning("upstream", schemas.DeliverEvents)}, markMessage{2, testNow, beginning("webhook.a", schemas.DeliverFacts)}}
		for seq := uint64(3); seq < 40; seq++ {
			list = append(list, &message{seq: seq, requests: []request{{batch: fmt.Sprint(seq), events: []schemas.UsageEvent{plainEvent("a", fmt.Sprint(seq), 1)}}}})
			seq++
			list = append(list, markMessage{seq, testNow + int64(seq), upstreamAt(seq-1, 1)})
		}
		applyEach(t, s, per, list...)
		var b bytes.Buffer
		if err := s.Dump(&b); err != nil {
			t.Fatal(err)
		}
		dumps = append(dumps, b.Bytes())
	}
	if !bytes.Contains(dumps[0], []byte("deliveries ")) || !bytes.Equal(dumps[0], dumps[1]) || !bytes.Equal(dumps[0], dumps[2]) {
		t.Error("dumps differ")
	}
}
