package bus

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// WatchFacts connects to a server as a consumer and calls show with the data of every
// fact on a subject that is stored from now on: for measurements and tests. It uses what
// is open to everybody in that account.
func WatchFacts(ctx context.Context, url, password, subject string, show func(data []byte)) (stop func(), err error) {
	nc, err := nats.Connect(url, nats.UserInfo(userConsumer, password), nats.Name("watch "+subject))
	if err != nil {
		return nil, fmt.Errorf("connect to watch %s: %w", subject, err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("watch %s: %w", subject, err)
	}
	c, err := js.CreateConsumer(ctx, schemas.StreamFacts, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverNewPolicy, FilterSubject: subject,
	})
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("watch %s: %w", subject, err)
	}
	run, err := c.Consume(func(m jetstream.Msg) { show(m.Data()) })
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("watch %s: %w", subject, err)
	}
	return func() {
		run.Stop()
		<-run.Closed()
		nc.Close()
	}, nil
}
