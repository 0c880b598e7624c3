package bus

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"grout/schemas"
)

// Headers of a message of outcomes.
const (
	headerGroup = "Grout-Group" // id of the group
	headerFirst = "Grout-First" // index of the first outcome in the message
)

const (
	// replyBytes is where the outcomes of a group are cut into another message.
	replyBytes        = 512 << 10
	replyPendingMsgs  = 64 << 10
	replyPendingBytes = 64 << 20
	flushTimeout      = 5 * time.Second
)

// Replies takes the outcomes that arrive for the groups of one node to the requests
// that wait for them.
type Replies struct {
	node   string
	sub    *nats.Subscription
	mu     sync.Mutex
	groups map[string]*sentGroup
}

// sentGroup is a published group somebody still waits for.
type sentGroup struct {
	id       string
	commands []*Pending
	waiting  int // commands neither resolved nor given up; guarded by Replies.mu
}

// NewReplies listens for the outcomes of a node's groups. What arrives while too
// much is pending is dropped: its requests end with 202.
func (b *Bus) NewReplies(node string) (*Replies, error) {
	r := &Replies{node: node, groups: make(map[string]*sentGroup)}
	subject := schemas.ReplySubject(node)
	var err error
	if r.sub, err = b.nc.Subscribe(subject, r.dispatch); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", subject, err)
	}
	if err = r.sub.SetPendingLimits(replyPendingMsgs, replyPendingBytes); err == nil {
		err = b.nc.FlushTimeout(flushTimeout)
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("listen on %s: %w", subject, err)
	}
	return r, nil
}

// Close stops listening. Whoever still waits does so until its context ends.
func (r *Replies) Close() { _ = r.sub.Unsubscribe() }

// Waiting is the number of groups that somebody waits for.
func (r *Replies) Waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.groups)
}

// register makes a group known before it is published: its outcomes may overtake
// the PubAck.
func (r *Replies) register(g *sentGroup) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g.waiting = len(g.commands)
	r.groups[g.id] = g
	for _, p := range g.commands {
		if p.settled { // its caller has given up between the queue and here
			r.leave(g)
		}
		p.group, p.replies = g, r
	}
}

// leave counts one command of a group as nobody's any more. r.mu is held.
func (r *Replies) leave(g *sentGroup) {
	if g.waiting--; g.waiting == 0 {
		delete(r.groups, g.id)
	}
}

// settle resolves one command, once. A nil outcome with a nil error is no
// resolution but the caller's giving up.
func (r *Replies) settle(p *Pending, outcome []byte, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.settled {
		return
	}
	p.settled = true
	if p.group != nil {
		r.leave(p.group)
	}
	if outcome == nil && err == nil {
		return
	}
	p.outcome, p.err = outcome, err
	close(p.done)
}

func (r *Replies) dispatch(m *nats.Msg) {
	first, err := strconv.ParseUint(m.Header.Get(headerFirst), 10, 31)
	if err != nil {
		return
	}
	r.mu.Lock()
	g := r.groups[m.Header.Get(headerGroup)]
	r.mu.Unlock()
	if g == nil {
		return
	}
	outcomes, err := schemas.DecodeReplies(m.Data)
	if err != nil {
		return
	}
	for i, o := range outcomes {
		at := int(first) + i
		if at >= len(g.commands) {
			return
		}
		if o == nil {
			o = []byte{}
		}
		r.settle(g.commands[at], o, nil)
	}
}

// Reply sends the outcomes of a group's commands, in their order, to the subject
// that the group named; several messages when they are large. An outcome of no
// bytes says that the command went to the dead letters. Nobody need listen.
func (b *Bus) Reply(to, groupID string, outcomes [][]byte) error {
	limit := min(replyBytes, int(b.nc.MaxPayload())-headerRoom)
	for first := 0; first < len(outcomes); {
		size, end := 0, first
		for end < len(outcomes) && (end == first || size+len(outcomes[end])+8 <= limit) {
			size += len(outcomes[end]) + 8
			end++
		}
		m := &nats.Msg{Subject: to, Header: nats.Header{
			headerGroup: {groupID}, headerFirst: {strconv.Itoa(first)},
		}}
		m.Data = schemas.AppendReplies(make([]byte, 0, size+8), outcomes[first:end])
		if err := b.nc.PublishMsg(m); err != nil {
			return fmt.Errorf("reply to %s: %w", to, err)
		}
		first = end
	}
	return nil
}
