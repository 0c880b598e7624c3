package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
)

// errInterrupted is the cause when a signal ended an ingest.
var errInterrupted = errors.New("interrupted; run the same command again to resume, nothing is counted twice")

// batch is one request, cut from consecutive rows.
type batch struct {
	body          []byte
	lines         []int
	events        int64
	input, output int64
	first, last   time.Time // as sent
	bytes         int64     // of the file
}

// ingestion is one run of `grout ingest`.
type ingestion struct {
	ingestOptions
	to       *sender
	progress *progress
	offset   time.Duration
	size     int64 // bytes of the file, 0 when unknown
	total    int64 // rows of the file, 0 when unknown

	mu        sync.Mutex
	sum       ingestSummary
	doneBytes int64
}

// ingest sends the file. There is a summary whenever sending has begun, also
// beside an error.
func ingest(ctx context.Context, o ingestOptions, to *sender, stderr io.Writer) (*ingestSummary, error) {
	in := &ingestion{ingestOptions: o, to: to}
	in.sum = ingestSummary{File: o.file, Errors: []eventFault{}, unit: "line"}
	if o.format == formatJSON {
		in.sum.unit = "event"
	}
	if err := in.settleShift(stderr); err != nil {
		return nil, err
	}
	file, size, err := openInput(o.file)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	in.size = size
	source, err := newSource(file, o.format, o.plan)
	if err != nil {
		return nil, in.named(err)
	}
	if columns := source.mapping(); columns != "" {
		fmt.Fprintf(stderr, "columns: %s\n", columns)
	}

	in.progress = startProgress(stderr)
	to.retried = in.progress.retrying
	started := time.Now()
	err = in.sendAll(ctx, source)
	in.progress.finish()
	in.sum.Seconds = time.Since(started).Seconds()
	in.sum.Complete = err == nil
	if err == nil && in.sum.Rejected > 0 {
		err = fmt.Errorf("%s: the server refused %d of %d events", o.file, in.sum.Rejected, in.sum.Events)
	}
	return &in.sum, err
}

func openInput(path string) (io.ReadCloser, int64, error) {
	if path == "-" {
		return io.NopCloser(os.Stdin), 0, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	if !info.Mode().IsRegular() {
		return file, 0, nil
	}
	return file, info.Size(), nil
}

// named puts the file's name before an error about its content.
func (in *ingestion) named(err error) error {
	if usage := (usageError{}); errors.As(err, &usage) {
		return err
	}
	return fmt.Errorf("%s: %w", in.file, err)
}

// settleShift finds the offset of all timestamps, by a first pass when one is
// needed, and says what it is.
func (in *ingestion) settleShift(stderr io.Writer) error {
	if !in.shifts() {
		return nil
	}
	file, _, err := openInput(in.file)
	if err != nil {
		return err
	}
	defer file.Close()
	source, err := newSource(file, in.format, in.plan)
	if err != nil {
		return in.named(err)
	}
	b, err := readBounds(source, in.skipBad)
	if err != nil {
		return in.named(err)
	}
	in.total = b.rows
	if b.rows == 0 {
		return nil
	}
	note := ""
	switch {
	case !in.shiftToNow:
		in.offset = in.shiftTo.Sub(b.first)
	default:
		if note, err = in.shiftNow(b, time.Now()); err != nil {
			return err
		}
	}
	in.sum.Offset = in.offset.String()
	fmt.Fprintf(stderr, "offset: %s, %s … %s becomes %s … %s%s\n", in.offset,
		instant(b.first), instant(b.last), instant(b.first.Add(in.offset)), instant(b.last.Add(in.offset)), note)
	return nil
}

func (in *ingestion) shiftNow(b bounds, now time.Time) (note string, err error) {
	if !in.newShift {
		offset, found, err := loadShift(in.shiftFile)
		if err != nil {
			return "", err
		}
		if found {
			in.offset = offset
			return fmt.Sprintf(" (kept in %s by an earlier run; --new-shift chooses another)", in.shiftFile), nil
		}
	}
	in.offset = now.Truncate(time.Millisecond).Sub(b.last)
	kept := keptShift{IDs: in.plan.idPrefix, Offset: in.offset.String(), Kept: now.UTC()}
	return fmt.Sprintf(" (kept in %s for the next run; --new-shift chooses another)", in.shiftFile), keepShift(in.shiftFile, kept)
}

func instant(at time.Time) string { return at.UTC().Format(time.RFC3339Nano) }

// interruptGrace is how long requests under way may still take after a signal.
const interruptGrace = 5 * time.Second

// sendAll cuts the source into batches and sends them. The first error ends the
// cutting; requests under way come to their end.
func (in *ingestion) sendAll(ctx context.Context, source eventSource) error {
	stopping, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	sending, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(interruptGrace, abandon) })()

	batches := make(chan batch)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(batches)
		if err := in.cut(stopping, source, batches); err != nil {
			fail(err)
		}
	})
	for range in.concurrency {
		wg.Go(func() {
			for b := range batches {
				if stopping.Err() != nil {
					continue
				}
				answer, err := in.to.send(sending, stopping, b.body)
				if err == nil {
					err = in.record(b, answer)
				}
				if err != nil {
					fail(err)
				}
			}
		})
	}
	wg.Wait()
	switch {
	case stopping.Err() == nil:
		return nil
	case ctx.Err() != nil:
		return errInterrupted
	}
	return context.Cause(stopping)
}

// cut reads rows into batches until the source or the context ends.
func (in *ingestion) cut(ctx context.Context, source eventSource, batches chan<- batch) error {
	next := func() (row, error) { return in.good(source) }
	if in.file == "-" {
		next = piped(ctx, next)
	}
	seed := in.batchSeed
	if in.shuffle {
		rows, err := in.shuffled(next)
		if err != nil {
			return err
		}
		seed += "\x00" + in.shuffleSeed
		next = func() (r row, err error) {
			if len(rows) == 0 {
				return r, io.EOF
			}
			r, rows = rows[0], rows[1:]
			return r, nil
		}
	}
	rows := make([]row, 0, in.batchSize)
	for number := 0; ; {
		r, err := next()
		end := errors.Is(err, io.EOF)
		if err != nil && !end && !errors.Is(err, errIdle) {
			return err
		}
		if err == nil {
			rows = append(rows, r)
		}
		if len(rows) == in.batchSize || err != nil && len(rows) > 0 {
			b, err := in.encode(rows, seed, number)
			if err != nil {
				return err
			}
			select {
			case batches <- b:
			case <-ctx.Done():
				return nil
			}
			rows = rows[:0]
			number++
		}
		if end {
			return nil
		}
	}
}

// good gives the next row that can be read, and stops at a bad one unless those
// are skipped.
func (in *ingestion) good(source eventSource) (row, error) {
	for {
		r, err := source.next()
		bad := (*badRow)(nil)
		switch {
		case err == nil:
			r.event.Timestamp = instant(r.at.Add(in.offset))
			return r, nil
		case errors.Is(err, io.EOF):
			return r, err
		case !errors.As(err, &bad):
			return r, in.named(err)
		case !in.skipBad:
			return r, fmt.Errorf("%w; correct it, or leave such rows out with --skip-bad", in.named(err))
		}
		in.mu.Lock()
		in.sum.Skipped++
		few := in.sum.Skipped <= maxListed
		in.mu.Unlock()
		if few {
			in.progress.note("skipped: %v", in.named(err))
		}
	}
}

func (in *ingestion) shuffled(next func() (row, error)) ([]row, error) {
	var rows []row
	for {
		r, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, errIdle) {
			continue
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	in.mu.Lock()
	in.total = int64(len(rows))
	in.mu.Unlock()
	h := fnv.New64a()
	h.Write([]byte(in.shuffleSeed))
	rand.New(rand.NewPCG(h.Sum64(), 0)).Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	return rows, nil
}

// encode makes the request of some rows. Its batch id follows from seed, number
// and content: the same run again is a replay, and other content never takes an
// id that is in use.
func (in *ingestion) encode(rows []row, seed string, number int) (batch, error) {
	b := batch{events: int64(len(rows)), lines: make([]int, len(rows))}
	events := make([]*usageEvent, len(rows))
	var span bounds
	for i := range rows {
		r := &rows[i]
		events[i], b.lines[i] = &r.event, r.line
		b.input += r.event.InputTokens
		b.output += r.event.OutputTokens
		b.bytes += r.bytes
		span.add(r.at.Add(in.offset))
	}
	b.first, b.last = span.first, span.last
	content, err := json.Marshal(events)
	if err != nil {
		return b, fmt.Errorf("encode batch %d: %w", number, err)
	}
	id := uuid.NewSHA1(batchNamespace, join(seed, strconv.Itoa(number), string(content)))
	b.body, err = json.Marshal(struct {
		BatchID string          `json:"batch_id"`
		Events  json.RawMessage `json:"events"`
	}{id.String(), content})
	if err != nil {
		return b, fmt.Errorf("encode batch %d: %w", number, err)
	}
	return b, nil
}

var batchNamespace = uuid.MustParse("5f0b1f0a-2f0e-5b51-9d0c-2c6a5f1f8f6e")

// join keeps parts apart whatever they contain.
func join(parts ...string) (b []byte) {
	for _, p := range parts {
		b = fmt.Appendf(b, "%d:%s", len(p), p)
	}
	return b
}
