// Command consumer keeps the sums of what an app has used, from grout's facts: the same as
// GET /api/usage, however often it or grout dies and facts are delivered again.
//
// Its position is that of a durable pull consumer, which the server keeps. What it has
// done it writes down before it acknowledges, each fact with its id in one record of one
// file; a fact whose id stands there is not counted again.
//
//	NATS_URL=nats://127.0.0.1:4222 NATS_PASSWORD=… go run . -state usage.jsonl
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	stream = "MOZAIKS_EVT"
	batch  = 100
)

func main() {
	name := flag.String("name", "usage-sums", "durable name of the consumer; its position is kept under it")
	state := flag.String("state", "usage.jsonl", "file of what was counted")
	filter := flag.String("filter", "mozaiks.v1.evt.*.usage.*", "subjects of the facts")
	wait := flag.Duration("ack-wait", 30*time.Second, "when facts that are not acknowledged come again")
	idle := flag.Duration("exit-when-idle", 0, "print the sums and end when all is acknowledged and nothing has come for so long; 0: go on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *name, *state, *filter, *wait, *idle); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, name, state, filter string, wait, idle time.Duration) error {
	ledger, err := openLedger(state)
	if err != nil {
		return err
	}
	defer ledger.close()
	nc, err := nats.Connect(env("NATS_URL", nats.DefaultURL), nats.UserInfo(env("NATS_USER", "consumer"), os.Getenv("NATS_PASSWORD")),
		nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	last := time.Now()
	for ctx.Err() == nil {
		facts, err := consumer(ctx, js, name, filter, wait)
		for err == nil && ctx.Err() == nil {
			var n int
			if n, err = take(facts, ledger); n > 0 {
				last = time.Now()
			} else if idle > 0 && err == nil && time.Since(last) > idle {
				var all bool
				if all, err = done(ctx, facts); all {
					return json.NewEncoder(os.Stdout).Encode(ledger.sums())
				}
			}
		}
		if broken := (*ledgerError)(nil); errors.As(err, &broken) {
			return err
		}
		if ctx.Err() == nil {
			log.Print("trying again: ", err)
			pause(ctx, time.Second)
		}
	}
	return nil
}

// done tells whether everything was acknowledged: what a process that died had in its
// hands comes again when its time is over.
func done(ctx context.Context, facts jetstream.Consumer) (bool, error) {
	info, err := facts.Info(ctx)
	return err == nil && info.NumPending == 0 && info.NumAckPending == 0, err
}

// consumer makes the durable consumer, or finds it where it was left. Facts that are not
// acknowledged in time are delivered again.
func consumer(ctx context.Context, js jetstream.JetStream, name, filter string, wait time.Duration) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return js.CreateOrUpdateConsumer(ctx, stream, jetstream.ConsumerConfig{
		Durable: name, FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy,
		AckWait: wait, MaxAckPending: 1000,
	})
}

// take fetches facts, writes down what they say, and only then acknowledges them: what was
// written and not acknowledged is delivered again, and known.
func take(from jetstream.Consumer, ledger *ledger) (n int, err error) {
	messages, err := from.Fetch(batch, jetstream.FetchMaxWait(time.Second))
	if err != nil {
		return 0, err
	}
	var taken []jetstream.Msg
	for m := range messages.Messages() {
		taken = append(taken, m)
		if err := ledger.add(m.Data()); err != nil {
			return 0, err
		}
	}
	if err := ledger.sync(); err != nil {
		return 0, err
	}
	for _, m := range taken {
		if err := m.Ack(); err != nil {
			return len(taken), err
		}
	}
	if err := messages.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
		return len(taken), err
	}
	return len(taken), nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func env(name, absent string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return absent
}
