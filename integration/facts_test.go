package integration

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/integration/process"
	"grout/schemas"
)

// fact is a message of MOZAIKS_EVT, read by a stock client in the account consumer.
type fact struct {
	Subject  string `json:"-"`
	ID       string `json:"id"`
	Type     string `json:"type"`
	App      string `json:"partitionkey"`
	Sequence string `json:"sequence"`
	InChat   string `json:"chatsequence"`
	Data     json.RawMessage

	Correlation string `json:"correlationid"`
	Trace       string `json:"traceparent"`
	Cause       string `json:"causationid"`
}

func consumer(t testing.TB, p *process.Process) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(p.NATS, nats.UserInfo("consumer", process.ConsumerPassword))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// facts reads the stream of facts until enough says so, then until it is quiet,
// and holds every one against the API document.
func facts(t testing.TB, p *process.Process, enough func([]fact) bool) []fact {
	t.Helper()
	c, err := consumer(t, p).OrderedConsumer(t.Context(), schemas.StreamFacts, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var list []fact
	deadline := time.Now().Add(30 * time.Second)
	for {
		m, err := c.Next(jetstream.FetchMaxWait(300 * time.Millisecond))
		if errors.Is(err, nats.ErrTimeout) || errors.Is(err, jetstream.ErrNoMessages) {
			if enough(list) {
				return list
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d facts, and no more come", len(list))
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		documents.CheckFact(t, m.Data())
		f := fact{Subject: m.Subject()}
		if err := json.Unmarshal(m.Data(), &f); err != nil {
			t.Fatal(err)
		}
		list = append(list, f)
	}
}

// recorded gathers the events of all usage.recorded facts, by identity, and how
// often each is there.
func recorded(t testing.TB, list []fact) (events map[string]schemas.RecordedEvent, times map[string]int) {
	t.Helper()
	events, times = map[string]schemas.RecordedEvent{}, map[string]int{}
	for _, f := range list {
		if f.Type != schemas.TypeOf(schemas.UsageRecorded.Name) {
			continue
		}
		var d schemas.UsageRecordedData
		if err := json.Unmarshal(f.Data, &d); err != nil {
			t.Fatal(err)
		}
		for _, e := range d.Events {
			key := e.AppID + "\x00" + e.EventID
			events[key] = e
			times[key]++
		}
	}
	return events, times
}
