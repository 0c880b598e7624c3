package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"grout/schemas"
)

// PublishOne publishes one command as a group of its own, with nobody waiting for
// its outcome, and returns its stream sequence: for tools that work on a data
// directory while no server does.
func (b *Bus) PublishOne(ctx context.Context, partition int, f schemas.CommandFrame) (uint64, error) {
	m, err := toolMessage(partition, f)
	if err != nil {
		return 0, err
	}
	ack, err := b.js.PublishMsg(ctx, m, jetstream.WithExpectStream(schemas.StreamCommands))
	if err != nil {
		return 0, fmt.Errorf("publish %s: %w", f.Kind, err)
	}
	return ack.Sequence, nil
}

// toolMessage is a group of one command, for nobody who waits.
func toolMessage(partition int, f schemas.CommandFrame) (*nats.Msg, error) {
	e := event.New()
	e.SetID(nuid.Next())
	e.SetSource(groupSource + "tool")
	e.SetType(schemas.TypeCommandGroup)
	e.SetTime(time.Unix(0, f.Accepted).UTC())
	e.SetDataContentType(groupContentType)
	e.DataEncoded = schemas.AppendGroup(nil, []schemas.CommandFrame{f})
	m := &nats.Msg{Subject: schemas.GroupSubject(partition)}
	return m, EncodeBinary(m, &e)
}
