package app

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"grout/handlers/httpapi"
	"grout/schemas"
	"grout/store"
)

// deadLetters answers httpapi about what could not be applied.
type deadLetters supervisor

// partition gives one that shows everything that was ever answered.
func (d *deadLetters) partition(number int) (*partition, error) {
	n := d.current.Load()
	if n == nil {
		return nil, errNotWorking
	}
	p, err := n.partition(number)
	if err != nil {
		return nil, err
	}
	if !p.loop.CaughtUp() {
		return nil, schemas.Errorf(schemas.CodeUnavailable, "The store is catching up with its log; try again")
	}
	return p, nil
}

// Letters implements httpapi.DeadLetters.
func (d *deadLetters) Letters(ctx context.Context, q schemas.LetterQuery) (all schemas.LetterPage, err error) {
	last := d.cfg.Partitions - 1
	if q.AppID != "" {
		own := schemas.PartitionOf(q.AppID, d.cfg.Partitions)
		if q.Behind.Partition > own {
			return all, nil
		}
		if q.Behind.Partition < own {
			q.Behind = schemas.LetterPlace{Partition: own}
		}
		last = own
	}
	for q.Behind.Partition <= last {
		p, err := d.partition(q.Behind.Partition)
		if err != nil {
			return all, err
		}
		page, err := p.store.Letters(&q)
		if err != nil {
			return all, fmt.Errorf("partition %d: %w", p.number, err)
		}
		all.Letters = append(all.Letters, page.Letters...)
		if page.More {
			all.More, all.Next = true, page.Next
			return all, nil
		}
		q.Limit -= len(page.Letters)
		q.Behind = schemas.LetterPlace{Partition: p.number + 1}
		if q.Limit <= 0 && p.number < last {
			all.More, all.Next = true, q.Behind
			return all, nil
		}
		if err := ctx.Err(); err != nil {
			return all, err
		}
	}
	return all, nil
}

// Letter implements httpapi.DeadLetters.
func (d *deadLetters) Letter(ctx context.Context, id string) (*httpapi.DeadLetter, error) {
	for number := range max(d.cfg.Partitions, 1) {
		p, err := d.partition(number)
		if err != nil {
			return nil, err
		}
		l, err := p.store.Letter(id)
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", number, err)
		}
		if l != nil {
			original, err := d.original(ctx, p, l)
			return &httpapi.DeadLetter{Letter: l.Letter, Partition: number, Original: original}, err
		}
	}
	return nil, nil
}

// original reads what died: from the outbox while it is there, then from the stream.
func (d *deadLetters) original(ctx context.Context, p *partition, l *store.Letter) (*schemas.DeadLetterOriginal, error) {
	text, err := p.store.UnsentLetter(l.Place)
	if err != nil {
		return nil, err
	}
	if text == nil {
		n := d.current.Load()
		if n == nil {
			return nil, errNotWorking
		}
		if text, err = n.bus.DeadLetter(ctx, p.number, l.AppID, l.Kind, store.LetterPosition(l.Place)); err != nil || text == nil {
			return nil, err
		}
	}
	var letter struct {
		ID   string                 `json:"id"`
		Data schemas.DeadLetterData `json:"data"`
	}
	if err := json.Unmarshal(text, &letter); err != nil {
		return nil, fmt.Errorf("read a dead letter: %w", err)
	}
	if letter.ID != l.ID {
		return nil, nil
	}
	return &letter.Data.Original, nil
}

// Command implements httpapi.DeadLetters.
func (d *deadLetters) Command(ctx context.Context, l *httpapi.DeadLetter) (f schemas.CommandFrame, err error) {
	data, err := base64.StdEncoding.DecodeString(l.Original.DataBase64)
	if err != nil {
		return f, fmt.Errorf("original of a dead letter: %w", err)
	}
	if !strings.HasPrefix(l.Original.Subject, strings.TrimSuffix(schemas.SubjectsGroups, ">")) {
		return d.publicCommand(ctx, l, data)
	}
	list, err := schemas.DecodeGroup(data)
	switch {
	case err != nil || len(list) != 1 || list[0].Kind == "":
		return f, schemas.Errorf(schemas.CodeNotRetryable, "The letter holds no command that can be read; look at it, and drop it")
	case !schemas.Retryable(list[0].Kind):
		return f, schemas.Errorf(schemas.CodeNotRetryable, "Commands of the kind %s are not sent again from a letter", list[0].Kind)
	}
	return list[0], nil
}

// publicCommand reads a message that somebody published, as its pump would: a release that
// knows more may read what could not be read before.
func (d *deadLetters) publicCommand(ctx context.Context, l *httpapi.DeadLetter, data []byte) (f schemas.CommandFrame, err error) {
	headers, err := schemas.OriginalHeaders(l.Original.Headers)
	if err != nil {
		return f, fmt.Errorf("headers of a dead letter: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, l.Original.Time)
	if err != nil {
		return f, fmt.Errorf("time of a dead letter: %w", err)
	}
	c, fault := schemas.DecodePublic(&schemas.StreamMessage{Subject: l.Original.Subject, Seq: l.Original.Sequence, Time: at, Header: headers, Data: data}, schemas.CreatedOf(l.Cause.ID, l.Original.Sequence))
	if fault != nil {
		return f, schemas.Errorf(schemas.CodeNotRetryable, "The message is no command now either: %s (%s)", fault.Detail, fault.Code)
	}
	if l.Cause.Source == c.Source { // what is sent without an id is known by its place
		c.ID = l.Cause.ID
	}
	if c.Execution == nil {
		return c.CommandFrame, nil
	}
	p, err := d.partition(l.Partition)
	if err != nil {
		return f, err
	}
	n := d.current.Load()
	if n == nil {
		return f, errNotWorking
	}
	if why := n.newPump(p).allow(ctx, c.AppID, &c); why != nil {
		return f, why
	}
	c.Payload = c.Execution.EncodePayload(nil)
	return c.CommandFrame, nil
}

// Waiting implements httpapi.DeadLetters.
func (d *deadLetters) Waiting() (sum int64) {
	n := d.current.Load()
	if n == nil {
		return 0
	}
	for _, p := range n.partitions {
		waiting, _ := p.store.LettersWaiting()
		sum += waiting
	}
	return sum
}
