package httpapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// commandSource is the CloudEvents source of what HTTP accepts.
const commandSource = "//mozaiks.ai/grout/http"

// ingest serves POST /api/usage/ingest (contract §7): read, split by partition,
// submit, wait, answer.
func (s *Server) ingest(c echo.Context) error {
	r := c.Request()
	form, err := formOf(r.Header)
	if err != nil {
		return err
	}
	u, err := s.readUpload(r, c.Response().Header())
	if err != nil {
		return err
	}
	if form == formEvents {
		return s.ingestEvents(c, u)
	}
	var req ingestRequest
	err = s.parse(r.Context(), u, func(text []byte, b *schemas.ParsedBatch) error {
		err := readForm(form, r.Header, text, b)
		if err == nil {
			req = s.split(b)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := s.stamp(c, req.shares); err != nil {
		return err
	}
	s.Fault("accept")

	ctx, cancel := context.WithTimeout(r.Context(), s.WaitLimit)
	defer cancel()
	async := prefersAsync(r.Header["Prefer"])
	result, err := s.submit(ctx, req, async)
	if err != nil {
		return err
	}
	if result.applied {
		return s.answerApplied(c, req.batchID, &result.outcome)
	}
	if async {
		c.Response().Header().Set("Preference-Applied", "respond-async")
	}
	return answerAccepted(c, req.batchID, result.refs)
}

// share is what one partition gets of a request.
type share struct {
	partition int
	oldest    int64 // timestamp of its oldest event
	frame     schemas.CommandFrame
}

func oldestOf(events []schemas.UsageEvent) int64 {
	oldest := int64(math.MaxInt64)
	for i := range events {
		oldest = min(oldest, events[i].Timestamp)
	}
	return oldest
}

type ingestRequest struct {
	batchID string
	shares  []share // by partition
}

var batchPool = sync.Pool{New: func() any { return new(schemas.ParsedBatch) }}

// maxPooledEvents bounds what a pooled batch keeps in memory.
const maxPooledEvents = 4096

// split makes the payloads of a request's commands.
func (s *Server) split(parsed *schemas.ParsedBatch) ingestRequest {
	made := parsed.BatchID == ""
	req := ingestRequest{batchID: strings.Clone(parsed.BatchID)} // the original is part of the body
	if made {
		req.batchID = uuid.NewString()
	}
	batches := schemas.SplitBatch(parsed, req.batchID, made, s.Partitions)
	req.shares = make([]share, 0, len(batches))
	for _, p := range slices.Sorted(maps.Keys(batches)) {
		req.shares = append(req.shares, share{p, oldestOf(batches[p].Events), schemas.CommandFrame{Payload: batches[p].EncodePayload(nil)}})
	}
	return req
}

// stamp gives the commands of a request their attributes. All of them must fit
// into the log before any is submitted.
func (s *Server) stamp(c echo.Context, shares []share) error {
	now := s.Now().UnixNano()
	trace := traceParent(c.Request().Header.Get("Traceparent"))
	correlation := correlationOf(c)
	for i := range shares {
		f := &shares[i].frame
		f.Kind = schemas.UsageIngest.Name
		f.ID = uuid.Must(uuid.NewV7()).String()
		f.Source = commandSource
		f.Time, f.Accepted = now, now
		f.CorrelationID, f.TraceParent = correlation, trace
		if n := f.FrameSize(); n > schemas.MaxCommandBytes {
			return schemas.Errorf(schemas.CodePayloadTooLarge,
				"The batch takes %d bytes in the log, the limit is %d: send fewer events per request", n, schemas.MaxCommandBytes)
		}
	}
	return nil
}

// ingestResult is what became of a request: the sum of its outcomes, or the
// places of its commands when not all of them are applied yet.
type ingestResult struct {
	applied bool
	outcome schemas.IngestOutcome
	refs    []schemas.CommandRef
}

// submit hands all shares to the log, then waits for all of them. Whatever fails
// makes the whole request one to be repeated: ids make that harmless.
func (s *Server) submit(ctx context.Context, req ingestRequest, async bool) (ingestResult, error) {
	waiting, err := s.enqueue(req)
	if err != nil {
		return ingestResult{}, err
	}
	return await(ctx, req, waiting, async)
}

// admitShares asks the partitions of a request whether they take commands at all, so that
// nothing of it is published when one of them does not.
func (s *Server) admitShares(shares []share) error {
	for i := range shares {
		if err := s.Commands.Admits(shares[i].partition, shares[i].oldest); err != nil {
			return submitError(err)
		}
	}
	return nil
}

// enqueue hands all shares to the log, or none.
func (s *Server) enqueue(req ingestRequest) ([]Pending, error) {
	if err := s.admitShares(req.shares); err != nil {
		return nil, err
	}
	waiting := make([]Pending, 0, len(req.shares))
	for _, sh := range req.shares {
		p, err := s.Commands.Submit(sh.partition, sh.frame)
		if err != nil {
			abandon(waiting)
			return nil, submitError(err)
		}
		waiting = append(waiting, p)
	}
	return waiting, nil
}

// await waits for all shares of a request: until they are applied, or only stored
// when it is async.
func await(ctx context.Context, req ingestRequest, waiting []Pending, async bool) (ingestResult, error) {
	result := ingestResult{applied: !async, refs: make([]schemas.CommandRef, len(waiting))}
	for i, p := range waiting {
		wait := p.Wait
		if async {
			wait = p.Stored
		}
		receipt, err := wait(ctx)
		if err == nil {
			err = result.add(i, req.shares[i].partition, receipt)
		} else {
			err = unavailable("The command log did not confirm; try again", err)
		}
		if err != nil {
			abandon(waiting[i+1:])
			return ingestResult{}, err
		}
	}
	if result.applied {
		return result, nil
	}
	return result, result.locate(ctx, waiting)
}

func submitError(err error) error {
	var known *schemas.Error
	if errors.As(err, &known) && statusOf[known.Code] == http.StatusServiceUnavailable {
		return err // it says itself why
	}
	if errors.Is(err, ErrBusy) {
		return unavailable("Too many commands are waiting; try again", err)
	}
	return unavailable("The command log is not available; try again", err)
}

// abandon gives up commands whose request is refused anyway.
func abandon(waiting []Pending) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, p := range waiting {
		_, _ = p.Wait(ended)
	}
}

// locate completes the places of commands whose outcome overtook them, for the
// status URL of a request of which another part is late.
func (r *ingestResult) locate(ctx context.Context, waiting []Pending) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	for i := range r.refs {
		if r.refs[i].Seq != 0 {
			continue
		}
		receipt, err := waiting[i].Stored(ctx)
		if err != nil || receipt.Seq == 0 {
			return unavailable("The command log did not confirm; try again", err)
		}
		r.refs[i].Seq, r.refs[i].Index = receipt.Seq, receipt.Index
	}
	return nil
}

func (r *ingestResult) add(i, partition int, receipt Receipt) error {
	r.refs[i] = schemas.CommandRef{Partition: partition, Seq: receipt.Seq, Index: receipt.Index}
	if receipt.Dead {
		return schemas.Errorf(schemas.CodeInternal, "The batch could not be applied: its command went to the dead letters")
	}
	r.applied = r.applied && receipt.Outcome != nil
	if !r.applied {
		return nil
	}
	var o schemas.IngestOutcome
	if err := o.Decode(receipt.Outcome); err != nil {
		return fmt.Errorf("outcome of %d.%d.%d: %w", partition, receipt.Seq, receipt.Index, err)
	}
	if i == 0 {
		r.outcome = o
	} else {
		r.outcome.Merge(&o)
	}
	return nil
}
