package bus

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

const (
	pullExpires   = 30 * time.Second
	pullHeartbeat = 5 * time.Second
	silenceLimit  = 2*pullHeartbeat + 2*time.Second
	// readerTick is how often a reader that waits looks whether it may still hope.
	readerTick     = time.Second
	readerInactive = time.Minute
)

// reader pulls the messages of a consumer of its own, in order and each once. What is on
// its way is bounded. It sees when something was left out; what follows from that is for
// its owner. It belongs to one goroutine; only pending may be asked from others.
type reader struct {
	b         *Bus
	stream    string
	most      int // messages of a pull
	mostBytes int // and bytes
	pending   atomic.Uint64

	behind   uint64 // delivered last, or what reading begins behind
	consumer string
	sub      *nats.Subscription // nil: there is no consumer
	messages chan *nats.Msg
	inbox    string
	pulls    uint64 // asked for so far; the number is in the reply subject of each
	next     uint64 // consumer sequence that must come next
	left     int    // messages of the pull on its way
	room     int    // bytes of it
	heard    time.Time
	connects uint64
}

// watch has a connection that is lost from now on be noticed. It comes before everything
// that a consumer relies on.
func (r *reader) watch() { r.connects = r.b.nc.Stats().Reconnects }

// consume makes a consumer behind what was delivered last. An empty name gets it one.
func (r *reader) consume(ctx context.Context, name string, subjects ...string) (err error) {
	messages := make(chan *nats.Msg, 2*r.most)
	r.inbox, r.pulls = r.b.nc.NewInbox(), 0
	if r.sub, err = r.b.nc.ChanSubscribe(r.inbox+".*", messages); err != nil {
		return err
	}
	r.messages = messages
	c, err := r.b.js.CreateConsumer(ctx, r.stream, jetstream.ConsumerConfig{
		Name: name, AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq: r.behind + 1, FilterSubjects: subjects, MaxWaiting: 16,
		InactiveThreshold: readerInactive, MemoryStorage: true, Replicas: 1,
	})
	if err != nil {
		return err
	}
	info := c.CachedInfo()
	r.consumer, r.next, r.left, r.room, r.heard = info.Name, 1, 0, 0, time.Now()
	r.pending.Store(info.NumPending)
	return nil
}

// drop forgets the consumer. The server would remove it by itself after a while;
// asking it to is a courtesy that waits for no answer.
func (r *reader) drop() {
	if r.sub != nil {
		_ = r.sub.Unsubscribe()
	}
	if r.consumer != "" {
		_ = r.b.nc.Publish("$JS.API.CONSUMER.DELETE."+r.stream+"."+r.consumer, nil)
	}
	r.sub, r.messages, r.consumer = nil, nil, ""
}

func (r *reader) replySubject() string { return r.inbox + "." + strconv.FormatUint(r.pulls, 10) }

// ask pulls when nothing is on its way.
func (r *reader) ask() error {
	if r.left > 0 && r.room > 0 {
		return nil
	}
	return r.pull()
}

func (r *reader) pull() error {
	r.pulls++
	ask := fmt.Appendf(nil, `{"expires":%d,"batch":%d,"max_bytes":%d,"idle_heartbeat":%d}`,
		pullExpires.Nanoseconds(), r.most, r.mostBytes, r.b.heartbeat().Nanoseconds())
	r.left, r.room, r.heard = r.most, r.mostBytes, time.Now()
	return r.b.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+r.stream+"."+r.consumer, r.replySubject(), ask)
}

// lost tells that nothing more will come.
func (r *reader) lost() bool {
	return r.b.nc.IsClosed() || r.b.nc.Stats().Reconnects != r.connects || time.Since(r.heard) > r.b.silence()
}

// arrival is what a reader was sent.
type arrival int

const (
	arrivedMessage arrival = iota + 1
	arrivedBeat            // the pull lives, and there is nothing
	arrivedEnd             // of a pull
)

// take judges what arrived. After an error only a new consumer goes on.
func (r *reader) take(m *nats.Msg) (got schemas.StreamMessage, what arrival, err error) {
	r.heard = time.Now()
	// A publisher's own header Status says nothing: what the server says has no ack subject.
	if status := m.Header.Get("Status"); status != "" && !strings.HasPrefix(m.Reply, "$JS.ACK.") {
		description := strings.ToLower(m.Header.Get("Description"))
		switch {
		case status == "100":
			return got, arrivedBeat, nil
		case status == "408", status == "404", status == "409" && (strings.Contains(description, "maxbytes") || strings.Contains(description, "batch completed")):
			if m.Subject == r.replySubject() {
				r.left = 0
			}
			return got, arrivedEnd, nil
		}
		// Consumer deleted, leadership change, no responders.
		return got, 0, fmt.Errorf("the consumer ended: %s %s", status, description)
	}
	d, err := parseDelivery(m.Reply)
	if err != nil {
		return got, 0, err
	}
	if d.consumerSeq != r.next || d.streamSeq <= r.behind {
		return got, 0, fmt.Errorf("delivery %d comes in the place of %d", d.consumerSeq, r.next)
	}
	r.next++
	r.left--
	r.room -= m.Size()
	r.behind = d.streamSeq
	r.pending.Store(d.pending)
	return schemas.StreamMessage{Subject: m.Subject, Seq: d.streamSeq, Time: d.stored, Header: m.Header, Data: m.Data}, arrivedMessage, nil
}

type delivery struct {
	streamSeq, consumerSeq, pending uint64
	stored                          time.Time
}

// parseDelivery reads the reply subject of a delivered message:
// $JS.ACK.[<domain>.<account hash>.]<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<random>]
func parseDelivery(reply string) (delivery, error) {
	t := strings.Split(reply, ".")
	if len(t) > 9 {
		t = append(t[:2], t[4:]...)
	}
	if len(t) < 9 || t[0] != "$JS" || t[1] != "ACK" {
		return delivery{}, fmt.Errorf("reply subject %q is not of a delivery", reply)
	}
	var n [4]uint64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseUint(t[5+i], 10, 63); err != nil {
			return delivery{}, fmt.Errorf("reply subject %q is not of a delivery: %w", reply, err)
		}
	}
	return delivery{streamSeq: n[0], consumerSeq: n[1], stored: time.Unix(0, int64(n[2])).UTC(), pending: n[3]}, nil
}
