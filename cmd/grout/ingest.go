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
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"grout/cmd/grout/app"
	"grout/schemas"
)

// ingestOptions is a command line of `grout ingest`, understood.
type ingestOptions struct {
	file        string
	plan        csvPlan
	batchSize   int
	batchSeed   string
	shuffle     bool
	shuffleSeed string
	shiftTo     time.Time // zero: not asked for
	shiftToNow  bool
	newShift    bool
	shiftFile   string
	skipBad     bool
	concurrency int
}

func newIngest() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ingest FILE",
		Short: "Send a CSV file of usage to a running grout",
		Long: `Sends every row of a CSV file with a header as a usage event to a running grout.

A run can be repeated: rows get the same event ids and batches the same batch ids
every time, so whatever was counted before is not counted again. After an
interruption the same command resumes. The ids follow from the file's name and the
number of the row; two files of one name need two --event-id-prefix.

Columns are recognised by their names: those of the API (event_id, timestamp,
app_id, user_id, model, input_tokens, output_tokens, …) in any case, and usual other
ones such as ContextTokens and GeneratedTokens. --map names others, and --app,
--user, --model or --set give one value to every row. The app defaults to
MOZAIKS_APP_ID. Timestamps are RFC 3339, "2006-01-02 15:04:05.9" (UTC), or
seconds or milliseconds since 1970.

A server refuses timestamps older than 34 days. --shift-to-now moves all of them by
one offset so that the latest is now, and keeps the offset for the next run.

The key comes from --key-file, else from INTERNAL_API_KEY, else from the secrets
which a grout on this machine keeps in its data directory.`,
		Example: `  grout ingest usage.csv
  grout ingest trace.csv --app shop --user replay --model gpt-4 --shift-to-now
  grout ingest log.csv --map timestamp=When,input_tokens=In,output_tokens=Out -o json`,
		Args: cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	app.AddFlags(f, "data_dir")
	f.String("url", "http://127.0.0.1:8080", "address of the server")
	f.String("key-file", "", "file with the internal key")
	columns := f.StringSlice("map", nil, "columns of fields, as field=Column,…; an empty column ignores a guess")
	constants := f.StringArray("set", nil, "one value for every row, as field=value (repeatable)")
	short := map[string]*string{
		"app_id":      f.String("app", "", "app of every row"),
		"user_id":     f.String("user", "", "user of every row"),
		"model":       f.String("model", "", "model of every row"),
		"tenant_id":   f.String("tenant", "", "tenant of every row"),
		"workflow_id": f.String("workflow", "", "workflow of every row"),
	}
	var o ingestOptions
	f.StringVar(&o.plan.idPrefix, "event-id-prefix", "", "start of generated event ids (default: the file's name without its ending)")
	f.IntVar(&o.batchSize, "batch-size", 500, "events per request")
	f.StringVar(&o.batchSeed, "batch-ids", "", "seed of the batch ids (default: the event id prefix)")
	f.StringVar(&o.shuffleSeed, "shuffle", "", "send the rows in an order that follows from this seed, in batches of their own")
	shiftTo := f.String("shift-to", "", "move all timestamps so that the earliest is this instant (RFC 3339)")
	f.BoolVar(&o.shiftToNow, "shift-to-now", false, "move all timestamps so that the latest is now; the offset is kept for the next run")
	f.BoolVar(&o.newShift, "new-shift", false, "with --shift-to-now: drop the kept offset and choose a new one")
	f.StringVar(&o.shiftFile, "shift-file", "", "with --shift-to-now: keep the offset here (default: in the data directory)")
	f.BoolVar(&o.skipBad, "skip-bad", false, "leave out and count rows that cannot be read, instead of stopping")
	f.IntVar(&o.concurrency, "concurrency", 4, "requests at a time")
	maxRetry := f.Duration("max-retry-time", 5*time.Minute, "how long a failing request is repeated")
	format := outputFlag(cmd)

	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, _, err := app.Load(f, os.Environ())
		if err != nil {
			return err
		}
		o.file, o.shuffle = args[0], f.Changed("shuffle")
		for field, value := range short {
			if *value != "" {
				*constants = append(*constants, field+"="+*value)
			}
		}
		if err := o.complete(&cfg, *columns, *constants, *shiftTo); err != nil {
			return err
		}
		keyFile, _ := f.GetString("key-file")
		key, err := ingestKey(&cfg, keyFile)
		if err != nil {
			return err
		}
		base, _ := f.GetString("url")
		to, err := newSender(base, key, o.concurrency, *maxRetry)
		if err != nil {
			return err
		}
		defer to.close()
		ctx, stop := untilInterrupted(cmd.Context())
		defer stop()
		sum, err := ingest(ctx, o, to, cmd.ErrOrStderr())
		if sum != nil {
			var perr error
			if *format == "json" {
				perr = printJSON(cmd.OutOrStdout(), sum)
			} else {
				perr = sum.print(cmd.OutOrStdout())
			}
			err = errors.Join(err, perr)
		}
		return err
	}
	return cmd
}

// complete checks the options against each other and fills in what follows.
func (o *ingestOptions) complete(cfg *app.Config, columns, constants []string, shiftTo string) (err error) {
	if o.plan.columns, err = assignments("--map", columns); err != nil {
		return err
	}
	if o.plan.constant, err = assignments("--set", constants); err != nil {
		return err
	}
	for name := range o.plan.constant {
		if o.plan.columns[name] != "" {
			return usagef("%s is given both a column and a value", name)
		}
	}
	if o.plan.idPrefix == "" {
		if o.file == "-" {
			return usagef("standard input has no name to make event ids of; give --event-id-prefix")
		}
		name := filepath.Base(o.file)
		o.plan.idPrefix = strings.TrimSuffix(name, filepath.Ext(name))
	}
	const digits = 20 // of the number of a row, with its dash
	if n := utf8.RuneCountInString(o.plan.idPrefix); n == 0 || n > schemas.MaxIDChars-digits || !utf8.ValidString(o.plan.idPrefix) {
		return usagef("event ids cannot begin with %q; give an --event-id-prefix of 1 to %d characters", abbreviate(o.plan.idPrefix), schemas.MaxIDChars-digits)
	}
	if o.batchSeed == "" {
		o.batchSeed = o.plan.idPrefix
	}
	if o.batchSize < 1 || o.batchSize > schemas.MaxEventsPerBatch {
		return usagef("--batch-size is from 1 to %d", schemas.MaxEventsPerBatch)
	}
	if o.concurrency < 1 || o.concurrency > 256 {
		return usagef("--concurrency is from 1 to 256")
	}
	if shiftTo != "" {
		if o.shiftTo, err = time.Parse(time.RFC3339, shiftTo); err != nil {
			return usagef("--shift-to: %q is not an RFC 3339 instant, such as 2026-01-31T08:00:00Z", shiftTo)
		}
	}
	if shiftTo != "" && o.shiftToNow {
		return usagef("--shift-to and --shift-to-now exclude each other")
	}
	if o.shifts() && o.file == "-" {
		return usagef("standard input cannot be shifted, for that needs a first reading")
	}
	if (o.newShift || o.shiftFile != "") && !o.shiftToNow {
		return usagef("--new-shift and --shift-file belong to --shift-to-now")
	}
	if o.shiftFile == "" {
		o.shiftFile = shiftPath(cfg.DataDir, o.plan.idPrefix)
	}
	o.plan.defaultApp = cfg.AppID
	return nil
}

func (o *ingestOptions) shifts() bool { return o.shiftToNow || !o.shiftTo.IsZero() }

func assignments(flag string, list []string) (map[string]string, error) {
	m := make(map[string]string, len(list))
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if !ok || fieldByName(name) == nil {
			names := make([]string, len(csvFields))
			for i := range csvFields {
				names[i] = csvFields[i].name
			}
			return nil, usagef("%s %q is not field=…; the fields are %s", flag, abbreviate(text), strings.Join(names, ", "))
		}
		if _, twice := m[name]; twice {
			return nil, usagef("%s is given twice", name)
		}
		m[name] = strings.TrimSpace(value)
	}
	return m, nil
}

// ingestKey finds the internal key, without which no event is taken.
func ingestKey(cfg *app.Config, keyFile string) (string, error) {
	switch {
	case keyFile != "":
		text, err := os.ReadFile(keyFile)
		if err != nil {
			return "", fmt.Errorf("read key: %w", err)
		}
		key, _, _ := strings.Cut(strings.TrimSpace(string(text)), ",")
		if key == "" {
			return "", fmt.Errorf("key file %s is empty", keyFile)
		}
		return key, nil
	case len(cfg.InternalKeys.Values) > 0:
		return cfg.InternalKeys.Values[0], nil
	}
	key, err := app.ReadSecret(app.SecretPath(cfg.DataDir, app.InternalKeyFile))
	if err != nil {
		return "", fmt.Errorf("no internal key: %w; set INTERNAL_API_KEY, give --key-file, or name the server's --data-dir", err)
	}
	return key, nil
}

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
	in.sum.File = o.file
	if err := in.settleShift(stderr); err != nil {
		return nil, err
	}
	file, size, err := openInput(o.file)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	in.size = size
	source, err := newCSVSource(file, o.plan)
	if err != nil {
		return nil, in.named(err)
	}
	fmt.Fprintf(stderr, "columns: %s\n", source.mapping())

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
	source, err := newCSVSource(file, in.plan)
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
func (in *ingestion) sendAll(ctx context.Context, source *csvSource) error {
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
func (in *ingestion) cut(ctx context.Context, source *csvSource, batches chan<- batch) error {
	next := func() (row, error) { return in.good(source) }
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
		if err != nil && !end {
			return err
		}
		if !end {
			rows = append(rows, r)
		}
		if len(rows) == in.batchSize || end && len(rows) > 0 {
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
func (in *ingestion) good(source *csvSource) (row, error) {
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
