package app

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"grout/bus"
	"grout/schemas"
)

const (
	// scrubEvery is how often all messages of all streams are read from the disk.
	scrubEvery = 24 * time.Hour
	// scrubAgain is when a look that found something is taken once more: the server
	// writes to its files meanwhile.
	scrubAgain = time.Second
	// scrubPace is how fast, in MiB a second, beside everything else.
	scrubPace = 64
)

// scrub reads every message of every stream, at the start and each day, because the
// server looks at a message only when it is asked for it. What it finds is an alarm.
func (n *node) scrub(ctx context.Context) error {
	for {
		for _, stream := range []string{schemas.StreamFacts, schemas.StreamDeadLetters, schemas.StreamIn, schemas.StreamCommands} {
			found, err := n.scrubStream(ctx, stream)
			if err == nil && len(found) > 0 && pauseFor(ctx, scrubAgain) == nil {
				found, err = n.scrubStream(ctx, stream)
			}
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				n.logger.Warn("the files of a stream could not be looked at", "stream", stream, "error", err)
				continue
			}
			n.scrubbed(stream, found)
		}
		if pauseFor(ctx, scrubEvery) != nil {
			return nil
		}
	}
}

func pauseFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// scrubStream lists what is wrong in a stream.
func (n *node) scrubStream(ctx context.Context, stream string) (list []string, err error) {
	visit := func(*bus.StoredMessage) error { return nil }
	var chain *bus.Chain
	if dest := destinationOf(stream); dest != "" {
		of := map[int]bus.FactsOf{}
		for _, p := range n.partitions {
			st, err := p.store.Relayed(dest)
			if err != nil {
				return nil, err
			}
			of[p.number] = bus.FactsOf{Origin: p.store.Origin(), Relayed: st.After, Applied: time.Unix(0, p.store.Now())}
		}
		since, err := n.bus.CompleteSince(ctx, stream)
		if err != nil {
			return nil, err
		}
		chain = bus.NewChain(stream, since, of)
		visit = chain.Add
	}
	c, err := bus.CheckStream(ctx, natsDir(n.cfg), stream, scrubPacer(), visit)
	if err != nil {
		return nil, err
	}
	for i := range c.Damage {
		if d := &c.Damage[i]; !d.Torn {
			list = append(list, d.Error())
		}
	}
	if chain != nil {
		list = append(list, chain.End()...)
	}
	return list, nil
}

func destinationOf(stream string) string {
	switch stream {
	case schemas.StreamFacts:
		return schemas.DestFacts
	case schemas.StreamDeadLetters:
		return schemas.DestDeadLetters
	}
	return ""
}

// scrubPacer waits as long as what was read should have taken.
func scrubPacer() func(context.Context, int64) error {
	return func(ctx context.Context, bytes int64) error {
		return pauseFor(ctx, time.Duration(bytes)*time.Second/(scrubPace<<20))
	}
}

// scrubbed raises an alarm for what was not known before.
func (n *node) scrubbed(stream string, found []string) {
	n.checks.note(stream, len(found))
	found = slices.DeleteFunc(found, n.checks.known)
	if len(found) == 0 {
		return
	}
	more := ""
	if len(found) > 3 {
		more = fmt.Sprintf(" (and %d more)", len(found)-3)
	}
	n.alarms.raise(n.logger, schemas.Alarm{
		Name: bus.DamageName(stream), Partition: -1,
		Detail: fmt.Sprintf("stream %s: %s%s; stop the server and run grout repair, which says what can be done", stream, strings.Join(found[:min(3, len(found))], "; "), more),
	})
}
