package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// DeadLetter reads the published letter of a command from the stream of dead letters: the
// JSON of its CloudEvent. at is its position, whose number does not matter; nil when the
// stream does not keep it any more. Letters of a partition stand there in the order of
// their positions, so it is found by halving.
func (b *Bus) DeadLetter(ctx context.Context, partition int, app, kind string, at schemas.Position) ([]byte, error) {
	stream, err := b.js.Stream(ctx, schemas.StreamDeadLetters)
	if err != nil {
		return nil, fmt.Errorf("look up stream %s: %w", schemas.StreamDeadLetters, err)
	}
	state := stream.CachedInfo().State
	search := letterSearch{stream, schemas.DeadLetterSubject(app, kind), partition}
	low, high := state.FirstSeq, state.LastSeq+1 // the letter is in [low, high)
	for low < high {
		middle := low + (high-low)/2
		m, p, err := search.from(ctx, middle, high)
		if err != nil {
			return nil, err
		}
		if m == nil {
			high = middle
			continue
		}
		p.N, at.N = 0, 0
		switch order := p.Compare(at); {
		case order == 0:
			return m.Data, nil
		case order < 0:
			low = m.Sequence + 1
		default:
			high = middle
		}
	}
	return nil, nil
}

type letterSearch struct {
	stream    jetstream.Stream
	subject   string
	partition int
}

// from gives the first letter of the partition at or behind a sequence, and its position;
// nil when there is none before end.
func (s *letterSearch) from(ctx context.Context, seq, end uint64) (*jetstream.RawStreamMsg, schemas.Position, error) {
	for seq < end {
		m, err := s.stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(s.subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, schemas.Position{}, fmt.Errorf("read a message of stream %s: %w", schemas.StreamDeadLetters, err)
		}
		if m.Sequence >= end {
			break
		}
		if partition, at, ok := parsePosition(m.Header.Get(headerPosition)); ok && partition == s.partition {
			return m, at, nil
		}
		seq = m.Sequence + 1
	}
	return nil, schemas.Position{}, nil
}

func parsePosition(text string) (partition int, at schemas.Position, ok bool) {
	n, err := fmt.Sscanf(text, "%d/%d/%d/%d/%d", &partition, &at.Epoch, &at.Seq, &at.Index, &at.N)
	return partition, at, err == nil && n == 5
}
