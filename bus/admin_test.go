package bus

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"grout/schemas"
)

// The operator is answered, into its inbox and nowhere else. From the account that
// the users of the contract are in nobody answers, and nothing is asked for.
func TestOnlyTheOperatorAsksForSnapshots(t *testing.T) {
	h := newHouse(t)
	var asked atomic.Int64
	admin := must1(h.b.ServeAdmin(func(partition int, answer func(SnapshotAnswer)) {
		asked.Add(1)
		a := SnapshotAnswer{Partitions: 1, File: "file", SHA256: "sum"}
		switch partition {
		case 1:
			a.Refuse(schemas.Errorf(schemas.CodeUnavailable, "it is away"))
		case 2:
			a.Refuse(errors.New("disk full"))
		}
		answer(a)
	}))(t)
	defer admin.Close()

	h.unchanged(t, func() {
		consumer := connectAs(t, h.s, userConsumer, consumerPassword)
		for _, subject := range []string{subjectSnapshot + "0", "mozaiks.v1.gate." + subjectSnapshot + "0"} {
			if m, err := consumer.Request(subject, nil, 300*time.Millisecond); err == nil {
				t.Errorf("a consumer was answered on %s: %s", subject, m.Data)
			}
		}
		settle(t, consumer)
	})
	if n := asked.Load(); n != 0 {
		t.Errorf("a consumer has had %d snapshots taken", n)
	}

	nc := must1(ConnectAdmin(h.s.ClientURL(), adminPassword, "test"))(t)
	defer nc.Close()
	operator := must1(Attach(nc, smallConfig()))(t)
	if a, err := operator.AskSnapshot(testContext(t), 0); err != nil || a.File != "file" || a.SHA256 != "sum" {
		t.Errorf("%+v %v", a, err)
	}
	var told *schemas.Error
	if _, err := operator.AskSnapshot(testContext(t), 1); !errors.As(err, &told) || told.Code != schemas.CodeUnavailable || told.Detail != "it is away" {
		t.Errorf("a refusal: %v", err)
	}
	if _, err := operator.AskSnapshot(testContext(t), 2); !errors.As(err, &told) || told.Code != schemas.CodeInternal || told.Detail != "disk full" {
		t.Errorf("a fault: %v", err)
	}
	before := asked.Load()
	h.unchanged(t, func() {
		for _, reply := range targets {
			if reply == "_INBOX.foreign.1" {
				continue // an inbox is where answers go
			}
			must(t, nc.PublishRequest(subjectSnapshot+"0", reply, nil))
		}
		must(t, nc.Publish(subjectSnapshot+"0", nil))
		must(t, nc.PublishRequest(subjectSnapshot+"x", "_INBOX.a.b", nil))
		must(t, nc.PublishRequest(subjectSnapshot+"-1", "_INBOX.a.b", nil))
		must(t, nc.FlushTimeout(patience))
		if _, err := operator.AskSnapshot(testContext(t), 0); err != nil { // comes behind all of them
			t.Error(err)
		}
	})
	if n := asked.Load() - before; n != 1 {
		t.Errorf("%d requests were passed on, want 1", n)
	}
	admin.Close()
	if _, err := operator.AskSnapshot(testContext(t), 0); err == nil || !strings.Contains(err.Error(), "takes no requests") {
		t.Errorf("nobody listens: %v", err)
	}
	if _, err := ConnectAdmin(h.s.ClientURL(), "guess", "test"); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a wrong password: %v", err)
	}
}

// A tool that reads the command stream as the operator is a reader of its own.
func TestOperatorReadsCommands(t *testing.T) {
	h := newHouse(t)
	nc := must1(ConnectAdmin(h.s.ClientURL(), adminPassword, "test"))(t)
	defer nc.Close()
	operator := must1(Attach(nc, smallConfig()))(t)
	last := must1(operator.LastCommand(testContext(t), 0))(t)
	if none := must1(operator.LastCommand(testContext(t), 5))(t); last == 0 || none != 0 {
		t.Errorf("last %d, of another partition %d", last, none)
	}
	if at := must1(operator.CommandStored(testContext(t), last))(t); at.IsZero() {
		t.Error("the last message was stored at no time")
	}
	if at := must1(operator.CommandStored(testContext(t), last+1))(t); !at.IsZero() {
		t.Errorf("a message that is not there was stored %s", at)
	}
	if err := operator.GuardCommands(testContext(t), 0, schemas.Checkpoint{}); err != nil {
		t.Error(err)
	}
	h.unchanged(t, func() {
		s := operator.NewSource(0)
		defer s.Close()
		must1(s.Open(testContext(t), schemas.Checkpoint{}))(t)
		for seq := uint64(0); seq < last; {
			m, err := s.Next(testContext(t))
			if err != nil {
				t.Fatal(err)
			}
			seq = m.Seq
		}
	})
	h.works(t)
}
