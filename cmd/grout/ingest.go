package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"grout/cmd/grout/app"
	"grout/schemas"
)

// ingestOptions is a command line of `grout ingest`, understood.
type ingestOptions struct {
	file        string
	format      string // empty: by the file's name
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
		Short: "Send a file of usage to a running grout",
		Long: `Sends the usage events of a file to a running grout: the rows of a CSV file with a
header, the lines of an NDJSON file (.ndjson, .jsonl), or the events of a JSON file
(.json: a list, or an object with the list "events"). - is standard input, whose
--format is csv unless another one is given.

A run can be repeated: rows get the same event ids and batches the same batch ids
every time, so whatever was counted before is not counted again. After an
interruption the same command resumes. Where there are no event ids, they follow
from the file's name and the number of the row, line or event; two files of one
name need two --event-id-prefix.

Columns, and keys of JSON objects, are recognised by their names: those of the API (event_id, timestamp,
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
  tail -n +1 -f usage.ndjson | grout ingest - --format ndjson
  grout ingest log.csv --map timestamp=When,input_tokens=In,output_tokens=Out -o json`,
		Args: cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	serverFlags(f)
	format := &choice{choices: []string{formatCSV, formatNDJSON, formatJSON}}
	f.Var(format, "format", "what the file holds (default: by its name)")
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
	print := outputFlag(cmd)

	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, _, err := app.Load(f, os.Environ())
		if err != nil {
			return err
		}
		o.file, o.shuffle = args[0], f.Changed("shuffle")
		o.format = cmp.Or(format.value, formatOf(args[0]))
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
			if *print == "json" {
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
	nameless := o.file == "-" && o.format != formatCSV // its events may have ids
	if o.plan.idPrefix == "" && o.file == "-" {
		if !nameless {
			return usagef("standard input has no name to make event ids of; give --event-id-prefix")
		}
	} else if o.plan.idPrefix == "" {
		name := filepath.Base(o.file)
		o.plan.idPrefix = strings.TrimSuffix(name, filepath.Ext(name))
	}
	const digits = 20 // of the number of a row, with its dash
	if n := utf8.RuneCountInString(o.plan.idPrefix); n == 0 && !nameless || n > schemas.MaxIDChars-digits || !utf8.ValidString(o.plan.idPrefix) {
		return usagef("event ids cannot begin with %q; give an --event-id-prefix of 1 to %d characters", abbreviate(o.plan.idPrefix), schemas.MaxIDChars-digits)
	}
	if o.batchSeed == "" {
		o.batchSeed = cmp.Or(o.plan.idPrefix, o.file)
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

// formatOf tells the format of a file by its name.
func formatOf(file string) string {
	switch strings.ToLower(filepath.Ext(file)) {
	case ".ndjson", ".jsonl":
		return formatNDJSON
	case ".json":
		return formatJSON
	}
	return formatCSV
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
