package bustest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// Facts reads facts as the platform and consumers do, with both of the stock clients.
func Facts(t *testing.T, target Target) {
	const n = 50
	js := jetStream(t, target.Grout)
	for i := range n {
		if _, err := js.Publish(t.Context(), schemas.FactSubject("bustest", "usage.recorded"), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	target.each(t, []string{"platform", "consumer"}, func(t *testing.T, user string, nc *nats.Conn) {
		js := jetStream(t, nc)
		if _, err := js.AccountInfo(t.Context()); err != nil {
			t.Errorf("account info: %v", err)
		}
		stream, err := js.Stream(t.Context(), schemas.StreamFacts)
		if err != nil {
			t.Fatal(err)
		}
		const filter = "mozaiks.v1.evt.bustest.>"
		made := func(what string, c jetstream.Consumer, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			readAll(t, what, c, n)
		}
		durable := "bt_facts_" + user
		c, err := stream.CreateOrUpdateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: durable, FilterSubject: filter})
		made("durable", c, err)
		e, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{FilterSubjects: []string{filter, "mozaiks.v1.evt.none.>"}})
		made("ephemeral", e, err)
		o, err := stream.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{FilterSubjects: []string{filter}})
		made("ordered", o, err)
		if err := stream.DeleteConsumer(t.Context(), durable); err != nil {
			t.Errorf("delete: %v", err)
		}
		old, err := nc.JetStream()
		if err != nil {
			t.Fatal(err)
		}
		sub, err := old.PullSubscribe(filter, durable+"_old")
		if err != nil {
			t.Fatalf("older API: %v", err)
		}
		if batch, err := sub.Fetch(n, nats.MaxWait(patience)); err != nil || len(batch) != n {
			t.Errorf("older API: %d messages, %v", len(batch), err)
		}
		_ = sub.Unsubscribe()
		_ = old.DeleteConsumer(schemas.StreamFacts, durable+"_old")
	})
}

func readAll(t *testing.T, what string, c jetstream.Consumer, n int) {
	t.Helper()
	it, err := c.Messages()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer it.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range n {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			t.Fatalf("%s: message %d: %v", what, i, err)
		}
		if !strings.HasPrefix(m.Subject(), "mozaiks.v1.evt.bustest.") || string(m.Data()) != fmt.Sprint(i) {
			t.Fatalf("%s: message %d is %s %s", what, i, m.Subject(), m.Data())
		}
		if i == 0 && what == "durable" {
			if err := m.DoubleAck(ctx); err != nil {
				t.Errorf("%s: confirm: %v", what, err)
			}
			continue
		}
		_ = m.Ack() // ordered consumers have none
	}
	if m, err := it.Next(jetstream.NextMaxWait(50 * time.Millisecond)); err == nil {
		t.Errorf("%s: and %s", what, m.Subject())
	}
}
