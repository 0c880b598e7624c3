package httpapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"grout/schemas"
)

// twoApps gives names of apps of partition 0 and 1 of two.
func twoApps(t *testing.T) (app0, app1 string) {
	t.Helper()
	for i := 0; app0 == "" || app1 == ""; i++ {
		name := fmt.Sprint("app_", i)
		if schemas.PartitionOf(name, 2) == 0 {
			app0 = name
		} else {
			app1 = name
		}
	}
	return app0, app1
}

func two(o *Options) { o.Partitions = 2 }

func TestIngest(t *testing.T) {
	s := serve(t)
	a := s.do("POST", "/api/usage/ingest", batch("b-1", event("e1", "a"), `7`, event("e2", "b")))
	a.is(200).has("Content-Type", "application/json").has("Idempotency-Replayed", "").
		body(`{"batch_id":"b-1","accepted":2,"duplicates":0,"rejected":1,"failed":1,"errors":[` +
			`{"index":1,"event_id":null,"code":"NOT_AN_OBJECT","detail":"the event must be an object, not a number"}]}`)
}

func TestCommandOfAnIngestRequest(t *testing.T) {
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	s := serve(t, two)
	app0, app1 := twoApps(t)
	s.do("POST", "/api/usage/ingest", batch("b-1", event("e1", app0), event("e2", app1), event("e3", app0)),
		"X-Mozaiks-Correlation-Id: c-1", "Traceparent: "+trace).is(200)
	now := time.Unix(1_769_441_400, 5).UnixNano()
	seen := map[string]bool{}
	for partition, want := range map[int]int{0: 2, 1: 1} {
		frames := s.commands.frames[partition]
		if len(frames) != 1 {
			t.Fatalf("partition %d got %d commands", partition, len(frames))
		}
		f := frames[0]
		if f.Kind != "usage.ingest" || f.AppID != "" || f.Source != "//mozaiks.ai/grout/http" || f.Time != now || f.Accepted != now ||
			f.CorrelationID != "c-1" || f.TraceParent != trace {
			t.Errorf("the command is %+v", f)
		}
		if id, err := uuid.Parse(f.ID); err != nil || id.Version() != 7 || seen[f.ID] {
			t.Errorf("the command's id is %q", f.ID)
		}
		seen[f.ID] = true
		var b schemas.UsageBatch
		if err := b.DecodePayload(f.Payload); err != nil {
			t.Fatal(err)
		}
		if b.BatchID != "b-1" || b.Made || len(b.Events) != want {
			t.Errorf("partition %d got %d events of batch %q, made %v", partition, len(b.Events), b.BatchID, b.Made)
		}
	}
}

func TestBatchIDIsMade(t *testing.T) {
	s := serve(t)
	a := s.do("POST", "/api/usage/ingest", batch("", event("e", "a"))).is(200)
	id := a.json()["batch_id"].(string)
	if u, err := uuid.Parse(id); err != nil || u.Version() != 4 {
		t.Errorf("batch_id is %q", id)
	}
	var b schemas.UsageBatch
	if err := b.DecodePayload(s.commands.all()[0].Payload); err != nil || b.BatchID != id || !b.Made {
		t.Errorf("the command's batch is %q, made %v: %v", b.BatchID, b.Made, err)
	}
}

// TestAnswersOutliveTheBody: the body's buffer is used again by others while a
// request still waits.
func TestAnswersOutliveTheBody(t *testing.T) {
	s := serve(t)
	s.commands.answer = func(_ int, b *schemas.UsageBatch) (Pending, error) {
		if b.BatchID == "outer" {
			s.do("POST", "/api/usage/ingest", batch("XXXXX", event("yyyyyyyyyyyyyyyyyy", "zzzzzz"))).is(200)
		}
		return applied(1, &schemas.IngestOutcome{Accepted: 1}), nil
	}
	c := s.api.Commands.(*memoryCommands)
	s.api.Commands = unlocked{c}
	s.do("POST", "/api/usage/ingest", batch("outer", event("e", "a"))).is(200).
		body(`{"batch_id":"outer","accepted":1,"duplicates":0,"rejected":0,"failed":0,"errors":[]}`)
}

// unlocked lets one Submit happen inside of another.
type unlocked struct{ m *memoryCommands }

func (u unlocked) Admits(partition int, oldest int64) error { return u.m.Admits(partition, oldest) }

func (u unlocked) Submit(partition int, f schemas.CommandFrame) (Pending, error) {
	var b schemas.UsageBatch
	if err := b.DecodePayload(f.Payload); err != nil {
		return nil, err
	}
	return u.m.answer(partition, &b)
}

func TestOutcomesOfPartitionsAreSummed(t *testing.T) {
	app0, app1 := twoApps(t)
	body := batch("b", event("e1", app0), event("e2", app1))
	late := schemas.EventError{Index: 1, EventID: "e2", Code: "BATCH_CONFLICT", Detail: "d"}
	early := schemas.EventError{Index: 0, EventID: "e1", Code: "conflict", Detail: "d"}
	for name, c := range map[string]struct {
		outcomes [2]schemas.IngestOutcome
		status   int
		replayed string
		body     string
	}{
		"sum": {
			[2]schemas.IngestOutcome{{Accepted: 1, Duplicates: 2, Rejected: 1, Errors: []schemas.EventError{late}}, {Accepted: 3, Rejected: 1, Errors: []schemas.EventError{early}, Replayed: true}},
			200, "", `{"batch_id":"b","accepted":4,"duplicates":2,"rejected":2,"failed":2,"errors":[` +
				`{"index":0,"event_id":"e1","code":"conflict","detail":"d"},{"index":1,"event_id":"e2","code":"BATCH_CONFLICT","detail":"d"}]}`,
		},
		"all replayed": {[2]schemas.IngestOutcome{{Accepted: 1, Replayed: true}, {Accepted: 1, Replayed: true}}, 200, "true", `{"batch_id":"b","accepted":2,"duplicates":0,"rejected":0,"failed":0,"errors":[]}`},
		"one conflict": {[2]schemas.IngestOutcome{{Accepted: 1}, {Rejected: 1, Errors: []schemas.EventError{late}, Conflict: true}}, 200, "", `{"batch_id":"b","accepted":1,"duplicates":0,"rejected":1,"failed":1,"errors":[{"index":1,"event_id":"e2","code":"BATCH_CONFLICT","detail":"d"}]}`},
		"all conflict": {[2]schemas.IngestOutcome{{Rejected: 1, Conflict: true}, {Rejected: 1, Conflict: true}}, 409, "", `{"detail":"Batch \"b\" was sent before with other events; nothing was applied","error_code":"BATCH_CONFLICT","status_code":409}`},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, two)
			s.commands.answer = func(p int, _ *schemas.UsageBatch) (Pending, error) { return applied(1, &c.outcomes[p]), nil }
			s.do("POST", "/api/usage/ingest", body).is(c.status).has("Idempotency-Replayed", c.replayed).body(c.body)
		})
	}
}

func TestAccepted(t *testing.T) {
	app0, app1 := twoApps(t)
	body := batch("b/ü 1", event("e1", app0), event("e2", app1))
	done := (&schemas.IngestOutcome{Accepted: 1}).Append(nil)
	stored := func(seq uint64) memoryPending { return memoryPending{stored: &Receipt{Seq: seq, Index: 3}} }
	for name, c := range map[string]struct {
		pending [2]memoryPending
		prefer  string
		refs    string
	}{
		"too slow":              {[2]memoryPending{stored(7), stored(9)}, "", "0.7.3,1.9.3"},
		"one too slow":          {[2]memoryPending{{applied: &Receipt{Seq: 5, Outcome: done}}, stored(9)}, "", "0.5.0,1.9.3"},
		"first too slow":        {[2]memoryPending{stored(7), {applied: &Receipt{Seq: 9, Index: 3, Outcome: done}}}, "", "0.7.3,1.9.3"},
		"outcome overtook seq":  {[2]memoryPending{{stored: &Receipt{Seq: 5, Index: 2}, applied: &Receipt{Index: 2, Outcome: done}}, stored(9)}, "", "0.5.2,1.9.3"},
		"not waited for":        {[2]memoryPending{stored(7), stored(9)}, "respond-async", "0.7.3,1.9.3"},
		"async, though applied": {[2]memoryPending{{stored: &Receipt{Seq: 1, Outcome: done}}, stored(9)}, "wait=5, Respond-Async;x", "0.1.0,1.9.3"},
	} {
		t.Run(name, func(t *testing.T) {
			limit := 20 * time.Millisecond
			if c.prefer != "" {
				limit = time.Hour
			}
			s := serve(t, two, func(o *Options) { o.WaitLimit = limit })
			s.commands.answer = func(p int, _ *schemas.UsageBatch) (Pending, error) { return c.pending[p], nil }
			location := "/api/usage/batches/b%2F%C3%BC%201?request=" + c.refs
			headers := []string{"X: y"}
			applied := ""
			if c.prefer != "" {
				headers, applied = []string{"Prefer: handling=lenient", "Prefer: " + c.prefer}, "respond-async"
			}
			s.do("POST", "/api/usage/ingest", body, headers...).is(202).has("Location", location).has("Preference-Applied", applied).
				body(`{"batch_id":"b/ü 1","status":"accepted","status_url":"` + location + `"}`)

			var got []schemas.CommandRef
			s.reads.byRef = func(refs []schemas.CommandRef) (schemas.BatchStatus, bool, error) {
				got = refs
				return schemas.BatchStatus{BatchID: "b/ü 1", Applied: true}, true, nil
			}
			s.do("GET", location, nil).is(200)
			if len(got) != 2 || got[0].Partition != 0 || got[1] != (schemas.CommandRef{Partition: 1, Seq: 9, Index: 3}) {
				t.Errorf("the status URL asks for %v", got)
			}
		})
	}
}

func TestNothingIsPromisedThatIsNotStored(t *testing.T) {
	app0, app1 := twoApps(t)
	body := batch("b", event("e1", app0), event("e2", app1))
	gone := errors.New("gone")
	var asked int
	good := applied(1, &schemas.IngestOutcome{Accepted: 1})
	good.asked = &asked
	done := good.applied.Outcome
	for name, c := range map[string]struct {
		pending [2]Pending
		submit  error
		status  int
		asked   int  // of the good one: nothing may be left behind
		later   bool // not seen before the command is applied
	}{
		"busy":                       {[2]Pending{good, nil}, fmt.Errorf("partition 1: %w", ErrBusy), 503, 1, false},
		"away":                       {[2]Pending{good, nil}, gone, 503, 1, false},
		"first is not stored":        {[2]Pending{memoryPending{err: gone}, good}, nil, 503, 1, false},
		"second is not stored":       {[2]Pending{good, memoryPending{err: gone}}, nil, 503, 1, false},
		"neither stored nor refused": {[2]Pending{memoryPending{}, good}, nil, 503, 1, false},
		"first is dead":              {[2]Pending{memoryPending{applied: &Receipt{Seq: 1, Dead: true}}, good}, nil, 500, 1, true},
		"second is dead":             {[2]Pending{good, memoryPending{applied: &Receipt{Seq: 1, Dead: true}}}, nil, 500, 1, true},
		"unreadable outcome":         {[2]Pending{good, memoryPending{applied: &Receipt{Seq: 1, Outcome: []byte{9}}}}, nil, 500, 1, true},
		"place stays unknown":        {[2]Pending{memoryPending{applied: &Receipt{Outcome: done}, stored: &Receipt{}}, memoryPending{stored: &Receipt{Seq: 1}}}, nil, 503, 0, true},
	} {
		prefers := []string{"X: y"}
		if !c.later {
			prefers = append(prefers, "Prefer: respond-async")
		}
		for _, prefer := range prefers {
			t.Run(name+" "+prefer, func(t *testing.T) {
				asked = 0
				s := serve(t, two, func(o *Options) { o.WaitLimit = 20 * time.Millisecond })
				s.commands.answer = func(p int, _ *schemas.UsageBatch) (Pending, error) {
					if p == 1 && c.submit != nil {
						return nil, c.submit
					}
					return c.pending[p], nil
				}
				a := s.do("POST", "/api/usage/ingest", body, prefer).is(c.status)
				if c.status == 503 {
					a.is(503, schemas.CodeUnavailable).has("Retry-After", "1")
				} else {
					a.is(500, schemas.CodeInternal).has("Retry-After", "")
				}
				if strings.Contains(a.text, "gone") {
					t.Errorf("the caller is told an inner error: %s", a.text)
				}
				if asked != c.asked {
					t.Errorf("the other command was asked %d times, want %d", asked, c.asked)
				}
			})
		}
	}
}

func TestDeadLetterIsSaid(t *testing.T) {
	s := serve(t)
	s.commands.answer = func(int, *schemas.UsageBatch) (Pending, error) {
		return memoryPending{applied: &Receipt{Seq: 1, Dead: true}}, nil
	}
	s.do("POST", "/api/usage/ingest", batch("b", event("e", "a"))).is(500, schemas.CodeInternal).
		detail("The batch could not be applied: its command went to the dead letters")
}

func TestRefusedRequests(t *testing.T) {
	for name, c := range map[string]struct {
		body   string
		status int
		code   schemas.Code
	}{
		"empty":           {"", 400, schemas.CodeInvalidJSON},
		"no JSON":         {"{", 400, schemas.CodeInvalidJSON},
		"bad UTF-8":       {"{\"batch_id\":\"\xff\",\"events\":[1]}", 400, schemas.CodeInvalidJSON},
		"repeated key":    {`{"events":[1],"events":[2]}`, 400, schemas.CodeInvalidJSON},
		"list":            {"[]", 422, schemas.CodeValidation},
		"no events":       {"{}", 422, schemas.CodeValidation},
		"empty batch":     {batch("b"), 422, schemas.CodeValidation},
		"long id":         {batch(strings.Repeat("b", 129), event("e", "a")), 422, schemas.CodeValidation},
		"too deep":        {`{"events":[1],"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, 422, schemas.CodeValidation},
		"too many events": {batch("b", strings.Repeat("1,", 20_000)+"1"), 413, schemas.CodeTooManyEvents},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(o *Options) { o.Fault = func(p string) { t.Errorf("reached %s", p) } })
			a := s.do("POST", "/api/usage/ingest", c.body).is(c.status, c.code)
			if fields, _ := a.json()["errors"].([]any); (len(fields) > 0) != (c.code == schemas.CodeValidation) {
				t.Errorf("errors: %v", fields)
			}
			if n := len(s.commands.all()); n != 0 {
				t.Errorf("%d commands were submitted", n)
			}
		})
	}
}

// TestCommandTooLarge: metadata may make a batch within all other limits larger
// than a message. Then nothing of it may be submitted.
func TestCommandTooLarge(t *testing.T) {
	app0, app1 := twoApps(t)
	events := []string{event("small", app0)}
	metadata := strings.Repeat("m", 4000)
	for i := range 2200 {
		e := event(fmt.Sprint("e", i), app1)
		events = append(events, strings.TrimSuffix(e, "}")+`,"metadata":{"k":"`+metadata+`"}}`)
	}
	s := serve(t, two)
	a := s.do("POST", "/api/usage/ingest", batch("b", events...)).is(413, schemas.CodePayloadTooLarge)
	if d := a.json()["detail"].(string); !strings.Contains(d, fmt.Sprint(schemas.MaxCommandBytes)) || !strings.Contains(d, "fewer events per request") {
		t.Errorf("detail: %s", d)
	}
	if n := len(s.commands.all()); n != 0 {
		t.Errorf("%d commands were submitted", n)
	}
}

func TestFaultPointIsBeforeSubmit(t *testing.T) {
	var points []string
	s := serve(t)
	s.api.Fault = func(p string) { points = append(points, fmt.Sprint(p, len(s.commands.all()))) }
	s.do("POST", "/api/usage/ingest", batch("b", event("e", "a"))).is(200)
	if fmt.Sprint(points) != "[accept0]" {
		t.Errorf("fault points: %v", points)
	}
}

func TestStopAccepting(t *testing.T) {
	s := serve(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	let := sync.OnceFunc(func() { close(leave) })
	defer let()
	s.commands.answer = func(int, *schemas.UsageBatch) (Pending, error) {
		close(entered)
		<-leave
		return applied(1, &schemas.IngestOutcome{Accepted: 1}), nil
	}
	running := make(chan *answer, 1)
	go func() { running <- s.do("POST", "/api/usage/ingest", batch("b", event("e", "a"))) }()
	<-entered
	s.api.StopAccepting()
	a := s.do("POST", "/api/usage/ingest", batch("c", event("e", "a"))).is(503, schemas.CodeUnavailable).has("Retry-After", "1")
	if !a.closed {
		t.Error("the connection stays open")
	}
	s.do("GET", "/health", nil).is(200)
	let()
	(<-running).is(200)
}

// TestClientGoesAway: the wait ends with the request.
func TestClientGoesAway(t *testing.T) {
	s := serve(t, func(o *Options) { o.WaitLimit = time.Hour })
	waiting, ended := make(chan struct{}), make(chan error, 1)
	s.commands.answer = func(int, *schemas.UsageBatch) (Pending, error) {
		return pendingFunc(func(ctx context.Context) (Receipt, error) {
			close(waiting)
			<-ctx.Done()
			ended <- ctx.Err()
			return Receipt{}, ctx.Err()
		}), nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { <-waiting; cancel() }()
	if _, err := s.http.Client().Do(s.request(ctx, batch("b", event("e", "a")))); !errors.Is(err, context.Canceled) {
		t.Fatalf("the client got %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the wait ended with %v", err)
	}
}

type pendingFunc func(context.Context) (Receipt, error)

func (p pendingFunc) Wait(ctx context.Context) (Receipt, error)   { return p(ctx) }
func (p pendingFunc) Stored(ctx context.Context) (Receipt, error) { return p(ctx) }

// A request that would reach a partition which takes nothing is refused whole: nothing
// of it is submitted elsewhere.
func TestNothingIsSubmittedBesideADamagedPartition(t *testing.T) {
	app0, app1 := twoApps(t)
	log := &memoryCommands{shut: map[int]error{1: schemas.Errorf(schemas.CodeStoreDamaged, "Partition 1 is in quarantine")}}
	s := serve(t, func(o *Options) { o.Partitions, o.Commands = 2, log })
	a := s.do("POST", "/api/usage/ingest", batch("b", event("e1", app0), event("e2", app1))).is(503, schemas.CodeStoreDamaged)
	if got := a.header.Get("Retry-After"); got != "" {
		t.Errorf("Retry-After %q for what waiting does not heal", got)
	}
	if left := log.all(); len(left) != 0 {
		t.Errorf("%d commands were submitted", len(left))
	}
	s.do("POST", "/api/usage/ingest", batch("b", event("e1", app0))).is(200)
}
