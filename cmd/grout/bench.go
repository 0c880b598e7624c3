package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"grout/cmd/grout/app"
	"grout/cmd/grout/load"
	"grout/schemas"
)

// benchOptions is a command line of `grout bench`, understood.
type benchOptions struct {
	url, keyFile string
	dir          string // parent of the data directory of a throw-away instance
	events       []int
	connections  []int
	duration     time.Duration
	warmup       time.Duration
	rate         float64 // events a second
}

func newBench() *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how fast this machine counts events",
		Long: `Sends new events to a throw-away instance in this process, or to the server at
--url, for each number of events per request and of connections, and prints what
was answered. A request counts when every event of it was answered accepted with
200, which grout gives for nothing that is not synced to the disk in the command
stream and in the store; the bench has no other mode.

The figures are those of this machine at this time. Beside each line stands which
share of its processors was busy, which share this process had of them (own: the
load, and the throw-away instance), and which share the host of a virtual machine
gave to others (steal). Where busy is more than own, something else was running.

Without --rate every connection sends its next request when it has its answer
(closed loop), so a slow answer also slows the load. With --rate the requests are
due at fixed instants and latencies begin at those, whether or not a connection
was free (open loop); requests that were due and could not be sent are "missed".

With --url, what is sent stays in that server: use one that you can throw away.`,
		Example: `  grout bench
  grout bench --events 1,100 --connections 16,64 --duration 10s
  grout bench --events 100 --connections 32 --rate 20000 -o json`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	app.AddFlags(f, "data_dir")
	f.StringVar(&o.url, "url", "", "address of a running server (default: a throw-away instance)")
	f.StringVar(&o.keyFile, "key-file", "", "with --url: file with the internal key")
	f.StringVar(&o.dir, "dir", "", "directory on the disk to measure (default: the one for temporary files)")
	f.IntSliceVar(&o.events, "events", []int{1, 10, 100, 1000}, "events in each request")
	f.IntSliceVar(&o.connections, "connections", []int{16, 64}, "requests at a time")
	f.DurationVar(&o.duration, "duration", 5*time.Second, "how long each combination is measured")
	f.DurationVar(&o.warmup, "warmup", 500*time.Millisecond, "how long the load runs before it is measured")
	f.Float64Var(&o.rate, "rate", 0, "events due in a second, in all (default: as fast as answers come)")
	format := outputFlag(cmd)

	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		cfg, _, err := app.Load(f, os.Environ())
		if err != nil {
			return err
		}
		ctx, stop := untilInterrupted(cmd.Context())
		defer stop()
		out := cmd.OutOrStdout()
		if *format == "json" {
			out = io.Discard
		}
		report, err := o.run(ctx, &cfg, out)
		if err == nil && *format == "json" {
			err = printJSON(cmd.OutOrStdout(), report)
		}
		return err
	}
	return cmd
}

func (o *benchOptions) check() error {
	for _, n := range o.events {
		if n < 1 || n > schemas.MaxEventsPerBatch {
			return usagef("--events are from 1 to %d", schemas.MaxEventsPerBatch)
		}
	}
	for _, n := range o.connections {
		if n < 1 || n > 4096 {
			return usagef("--connections are from 1 to 4096")
		}
	}
	switch {
	case len(o.events) == 0 || len(o.connections) == 0:
		return usagef("--events and --connections need a number each")
	case o.duration < 10*time.Millisecond || o.warmup < 0:
		return usagef("--duration is at least 10ms, --warmup at least 0s")
	case o.rate < 0:
		return usagef("--rate is the number of events due in a second")
	case o.url != "" && o.dir != "":
		return usagef("--dir is for a throw-away instance; the server at --url has its own")
	case o.url == "" && o.keyFile != "":
		return usagef("--key-file belongs to --url")
	}
	return nil
}

// run measures all combinations, printing each as it is done.
func (o *benchOptions) run(ctx context.Context, cfg *app.Config, out io.Writer) (_ *benchReport, err error) {
	target, data, stop, err := o.target(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	report := &benchReport{
		Server: "throw-away instance in this process", Durability: "every 200 is synced to disk in the command stream and in the store",
		Loop: "closed", Machine: load.ReadMachine(data), Runs: []benchRun{},
	}
	if o.url != "" {
		report.Server = o.url
	}
	if o.rate > 0 {
		report.Loop = fmt.Sprintf("open, %s events/s due", thousands(int64(o.rate)))
	}
	report.printHead(out)
	for _, events := range o.events {
		for _, connections := range o.connections {
			plan := load.Plan{Events: events, Connections: connections, Warmup: o.warmup, Duration: o.duration, Rate: o.rate / float64(events)}
			r, err := load.Run(ctx, target, plan)
			if ctx.Err() != nil {
				return nil, errors.New("interrupted")
			}
			if err != nil {
				return nil, err
			}
			run := newBenchRun(plan, &r)
			report.Runs = append(report.Runs, run)
			run.print(out)
		}
	}
	return report, nil
}

// target gives the server that was named, or a new one with its data directory.
func (o *benchOptions) target(ctx context.Context, cfg *app.Config) (*load.Target, string, func() error, error) {
	nothing := func() error { return nil }
	if o.url != "" {
		key, err := ingestKey(cfg, o.keyFile)
		if err != nil {
			return nil, "", nil, err
		}
		t, err := load.NewTarget(o.url, key)
		if err != nil {
			return nil, "", nil, usagef("--url: %w", err)
		}
		return t, "", nothing, nil
	}
	node, dir, stop, err := throwAway(ctx, o.dir, "")
	if err != nil {
		return nil, "", nil, err
	}
	key, err := app.ReadSecret(app.SecretPath(dir, app.InternalKeyFile))
	if err != nil {
		return nil, "", nil, errors.Join(err, stop())
	}
	t, err := load.NewTarget(node.URL, key)
	return t, dir, stop, err
}

// throwAway starts grout in this process with a data directory of its own below
// parent (empty: where temporary files are), which stop removes.
func throwAway(ctx context.Context, parent, natsListen string) (*app.Instance, string, func() error, error) {
	base, err := os.MkdirTemp(parent, "grout-")
	if err != nil {
		return nil, "", nil, fmt.Errorf("make a directory to throw away: %w", err)
	}
	cfg := app.DefaultConfig()
	cfg.DataDir = filepath.Join(base, "data")
	cfg.HTTPAddr, cfg.NATSListen, cfg.LogLevel = "127.0.0.1:0", natsListen, "error"
	// The end of ctx is for the caller to see first: what is under way still needs the server.
	node, err := app.Start(context.WithoutCancel(ctx), cfg)
	if err != nil {
		return nil, "", nil, errors.Join(fmt.Errorf("start a throw-away instance: %w", err), os.RemoveAll(base))
	}
	return node, cfg.DataDir, func() error { return errors.Join(node.Stop(), os.RemoveAll(base)) }, nil
}
