package handlers

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"

	"grout/schemas"
	"grout/store"
)

// message is a group that is ready to be applied.
type message struct {
	raw      schemas.StreamMessage
	created  int64 // creation of the stream it was read from
	digest   [16]byte
	group    schemas.Group
	payloads []any
	dead     map[uint32]*schemas.Error // commands that cannot be applied, by index
	broken   *schemas.Error            // the group itself cannot be read
}

// decode reads a message as far as it can be read; what cannot be is marked.
func (t *Table) decode(raw schemas.StreamMessage, created int64, group func(schemas.StreamMessage) (schemas.Group, error)) *message {
	m := &message{raw: raw, created: created, digest: schemas.MessageDigest(raw.Data)}
	var err error
	if m.group, err = group(raw); err != nil {
		m.broken = schemas.Errorf(schemas.CodeUndecodable, "the message is no readable command group: %v", err)
		m.group = schemas.Group{ID: "message-" + strconv.FormatUint(raw.Seq, 10), Source: "//mozaiks.ai/grout"}
		return m
	}
	m.payloads = make([]any, len(m.group.Commands))
	for i := range m.group.Commands {
		c := &m.group.Commands[i]
		if c.Kind == "" {
			m.kill(uint32(i), schemas.Errorf(schemas.CodeUndecodable, "the frame of the command cannot be read"))
			continue
		}
		row, ok := t.rows[c.Kind]
		if !ok {
			m.kill(uint32(i), schemas.Errorf(schemas.CodeUnknownKind, "no handler knows the kind %q", c.Kind))
			continue
		}
		if m.payloads[i], err = row.decode(c.Payload); err != nil {
			m.kill(uint32(i), schemas.Errorf(schemas.CodeUndecodable, "the payload of %s cannot be read: %v", c.Kind, err))
		}
	}
	return m
}

func (m *message) kill(index uint32, why *schemas.Error) {
	if m.dead == nil {
		m.dead = map[uint32]*schemas.Error{}
	}
	m.dead[index] = why
}

// poison says that a command cannot be applied.
type poison struct {
	message *message
	index   uint32
	err     error
}

func (p *poison) Error() string {
	return fmt.Sprintf("command %d of message %d: %v", p.index, p.message.raw.Seq, p.err)
}

// apply runs the commands of a message and gives their outcomes; that of a dead
// command is empty. A *poison asks for the transaction to be run again without
// the command it names.
func (t *Table) apply(tx *store.Tx, m *message) ([][]byte, error) {
	tx.Begin(store.Message{
		Seq: m.raw.Seq, StoredAt: m.raw.Time.UnixNano(), StreamCreated: m.created, Digest: m.digest,
		Cause: schemas.Cause{ID: m.group.ID, Source: m.group.Source}, Commands: m.group.Commands,
	})
	if m.broken != nil {
		if err := tx.DeadLetter(0, m.letter(nil, 0, m.broken, m.raw.Header, m.raw.Data)); err != nil {
			return nil, err
		}
		return nil, tx.End()
	}
	outcomes := make([][]byte, len(m.group.Commands))
	var later []func()
	for i := range m.group.Commands {
		frame, index := &m.group.Commands[i], uint32(i)
		now := tx.Command(frame)
		if why := m.dead[index]; why != nil {
			if again, ok := m.payloads[i].(*schemas.LetterRetry); ok && why.Code == schemas.CodePoison {
				outcome, err := retryDied(tx, again, why)
				if err != nil {
					return nil, err
				}
				outcomes[i] = outcome
				continue
			}
			if err := tx.DeadLetter(index, m.letter(frame, index, why, nil, frame.Payload)); err != nil {
				return nil, err
			}
			continue
		}
		result, err := t.call(tx, Command{frame, index, now}, m.payloads[i])
		var fault *store.Fault
		var guard *schemas.GuardError
		if errors.As(err, &fault) || errors.As(err, &guard) {
			return nil, err
		}
		if err != nil {
			return nil, &poison{m, index, err}
		}
		if outcomes[i] = result.Outcome; result.Later != nil {
			later = append(later, func() { outcomes[i] = result.Later() })
		}
	}
	if err := tx.End(); err != nil {
		return nil, err
	}
	for _, outcome := range later {
		outcome()
	}
	return outcomes, nil
}

func (t *Table) call(tx *store.Tx, c Command, payload any) (r Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			stack := debug.Stack()
			if damage := store.PanicDamage(p, stack); damage != nil {
				err = &store.Fault{Doing: "apply " + c.Kind, Err: damage}
				return
			}
			err = fmt.Errorf("handler of %s panicked: %v\n%s", c.Kind, p, stack)
		}
	}()
	if c.Published() {
		return t.once(tx, c, payload)
	}
	return t.rows[c.Kind].apply(tx, c, payload)
}

// letter files a command, or the whole message when frame is nil. Commands whose
// own id cannot be read follow from the group, each with a number of its own.
func (m *message) letter(frame *schemas.CommandFrame, index uint32, why *schemas.Error, headers map[string][]string, data []byte) *schemas.DeadLetter {
	l := &schemas.DeadLetter{
		Cause: schemas.Cause{ID: m.group.ID, Source: m.group.Source}, Code: why.Code, Reason: why.Detail, Attempts: 1,
		Original: schemas.OriginalMessage{
			Subject: m.raw.Subject, Headers: headers, Data: data, Sequence: m.raw.Seq, Time: m.raw.Time.UnixNano(),
		},
	}
	n := index
	if frame != nil {
		l.AppID, l.Kind = frame.AppID, frame.Kind
		l.CorrelationID, l.TraceParent = frame.CorrelationID, frame.TraceParent
		if frame.Kind != "" { // the whole command, as a group of one, so that it can be sent again
			whole := *frame
			if whole.Published() { // the same that is read again has the same letter
				whole.Accepted = 0
			}
			l.Original.Data = schemas.AppendGroup(nil, []schemas.CommandFrame{whole})
		}
		if frame.ID != "" {
			l.Cause, n = schemas.Cause{ID: frame.ID, Source: frame.Source}, 0
		}
	}
	l.ID = schemas.LetterID(l.Cause, n, &l.Original)
	return l
}
