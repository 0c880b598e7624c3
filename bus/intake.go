package bus

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"grout/schemas"
)

// Where the imports of publishers lead on a cluster, and the queue of those that serve it.
const (
	doorPrefix = "mozaiks.v1.door."
	doorAll    = doorPrefix + "*.*.>"
)

// Bounds of what an intake has been given and has not passed on, and of the answers that
// it waits for.
const (
	intakePending = 16 << 10
	intakeBytes   = 64 << 20
	intakeWaiting = 16 << 10
	intakeForgets = 30 * time.Second
)

// Intake stands between publishers and MOZAIKS_IN on a cluster. A clustered stream of
// nats-server 2.15 stops for good at a message that expects another last message id,
// which any publisher can send; so headers that would have the server do something are
// refused here, and only what is a plain message goes on. The stream's PubAck goes back.
// The embedded server's stream refuses such headers itself.
type Intake struct {
	nc    *nats.Conn
	inbox string
	subs  []*nats.Subscription

	mu      sync.Mutex
	asked   uint64
	oldest  uint64 // that may be waited for
	waiting map[uint64]publication
}

// publication is a message whose PubAck is on its way.
type publication struct {
	reply string
	at    time.Time
}

// ServeIntake serves commands on a connection in grout's own account, which should be one
// of its own: a flood ends no other.
func ServeIntake(nc *nats.Conn) (*Intake, error) {
	i := &Intake{nc: nc, inbox: nc.NewInbox(), waiting: map[uint64]publication{}}
	err := i.listen(nc.Subscribe(i.inbox+".*", i.acked))
	if err == nil {
		err = i.listen(nc.QueueSubscribe(doorAll, "grout", i.take))
	}
	if err == nil {
		err = nc.FlushTimeout(gateTimeout)
	}
	if err != nil {
		i.Close()
		return nil, fmt.Errorf("serve %s: %w", doorAll, err)
	}
	return i, nil
}

func (i *Intake) listen(sub *nats.Subscription, err error) error {
	if err != nil {
		return err
	}
	i.subs = append(i.subs, sub)
	return sub.SetPendingLimits(intakePending, intakeBytes)
}

// Close stops serving.
func (i *Intake) Close() {
	for _, sub := range i.subs {
		_ = sub.Unsubscribe() // fails when the connection is closed
	}
}

func (i *Intake) take(m *nats.Msg) {
	rest := strings.TrimPrefix(m.Subject, doorPrefix)
	if why := notPlain(rest, m.Header); why != "" {
		i.answer(m.Reply, refuse(codeBadRequest, "%s", why))
		return
	}
	passed := &nats.Msg{Subject: schemas.SubjectFrom + rest, Header: m.Header, Data: m.Data}
	if m.Reply != "" {
		var ok bool
		if passed.Reply, ok = i.await(m.Reply); !ok {
			no := refuse(codeUnavailable, "too many messages wait for their PubAck")
			no.Code = 503
			i.answer(m.Reply, no)
			return
		}
	}
	_ = i.nc.PublishMsg(passed) // a publisher that hears nothing publishes again
}

// await keeps who is to be told, and gives the subject for the stream's answer.
func (i *Intake) await(reply string) (inbox string, ok bool) {
	now := time.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	for i.oldest < i.asked && len(i.waiting) > 0 {
		if p, waits := i.waiting[i.oldest]; waits && now.Sub(p.at) < intakeForgets {
			break
		}
		delete(i.waiting, i.oldest)
		i.oldest++
	}
	if len(i.waiting) >= intakeWaiting {
		return "", false
	}
	i.waiting[i.asked] = publication{reply, now}
	i.asked++
	return i.inbox + "." + strconv.FormatUint(i.asked-1, 10), true
}

// acked passes on what the stream says.
func (i *Intake) acked(m *nats.Msg) {
	n, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, i.inbox+"."), 10, 64)
	if err != nil {
		return
	}
	i.mu.Lock()
	p, waits := i.waiting[n]
	delete(i.waiting, n)
	i.mu.Unlock()
	switch {
	case !waits: // whoever asked has given up long ago
	case len(m.Data) == 0: // nobody listens there
		no := refuse(codeUnavailable, "stream %s is not there, or has no leader", schemas.StreamIn)
		no.Code = 503
		i.answer(p.reply, no)
	default:
		_ = i.nc.Publish(p.reply, m.Data) // a publisher that hears nothing publishes again
	}
}

// answer refuses in the form of a PubAck.
func (i *Intake) answer(reply string, no *refusal) {
	if reply == "" {
		return
	}
	text, _ := json.Marshal(map[string]any{"stream": schemas.StreamIn, "error": no}) // numbers and text: cannot fail
	_ = i.nc.Publish(reply, text)                                                    // as above
}

// passingHeaders are those of the server's own that do no harm to a stream. What the
// server adds, and what asks for a trace, is taken off.
var passingHeaders = map[string]bool{"nats-msg-id": true, "nats-expected-stream": true}

// notPlain says why a message does not go on, and takes off what must not.
func notPlain(subject string, header nats.Header) string {
	for token := range strings.SplitSeq(subject, ".") {
		if token == "*" || token == ">" || token == "" {
			return "the subject has a token that is a wildcard"
		}
	}
	for name := range header {
		low := strings.ToLower(name)
		switch {
		case low == "nats-request-info", strings.HasPrefix(low, "nats-trace"):
			delete(header, name)
		case strings.HasPrefix(low, "nats-") && !passingHeaders[low]:
			return fmt.Sprintf("the header %s is not taken here", name)
		}
	}
	return ""
}
