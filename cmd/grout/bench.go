package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
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
	span         time.Duration
	apps         int

	matrix        bool
	budgets       bool
	callers       []int // of budgets
	plugins       bool
	executers     []int // callers of plugins
	live          bool
	chats         string
	openShare     float64
	stored, cache string
	floor         string
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

With --url, what is sent stays in that server: use one that you can throw away.

Events are new each time, with random ids, and mixed in every request over 50 apps
with 100 users each, 20 workflows and 5 models; their timestamps are spread over
the last 24 hours.

--matrix measures more, and takes longer: each combination with a grout of its own
in a process of its own, without and with chat ids, in closed and then in open loop
at 70 % of what the closed loop reached; what the server needed of processor, memory
and disk; what was left to apply and to publish at the end and how long that took;
and how long it took until a read showed an event. Checks and reservations of budgets
follow in a table of their own, and whether 2,000 that race for the last 1,000 tokens
get just those; then calls of plugins, in Python, in Node, on NATS and built in, which
--plugins measures alone; then how long it takes from a command to a subscriber on
NATS, a WebSocket and an SSE stream, which --live measures alone. With --stored events are measured once more on a copy of a
data directory that holds that many ids already, which is filled through ingest the
first time and kept in --cache.`,
		Example: `  grout bench
  grout bench --events 1,100 --connections 16,64 --duration 10s
  grout bench --events 100 --connections 32 --rate 20000 -o json
  grout bench --plugins
  grout bench --live
  grout bench --matrix --stored 10000000`,
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
	f.DurationVar(&o.span, "span", load.Span, "how far back the timestamps of events reach")
	f.IntVar(&o.apps, "apps", load.Apps, "apps that events are of; figures of one app are no measure for many")
	f.BoolVar(&o.matrix, "matrix", false, "measure every aspect, each combination with a server process of its own")
	f.BoolVar(&o.budgets, "budgets", true, "with --matrix: measure checks and reservations of budgets too")
	f.BoolVar(&o.plugins, "plugins", true, "with --matrix: measure executions of plugins too; without: measure nothing else")
	f.BoolVar(&o.live, "live", true, "with --matrix: measure how long it takes to those who watch too; without: measure nothing else")
	f.StringVar(&o.chats, "chats", "both", "with --matrix: events with chat ids (with), without, or both")
	f.Float64Var(&o.openShare, "open-share", .7, "with --matrix: load of the open loop, as a share of what the closed loop reached; 0: none")
	f.StringVar(&o.stored, "stored", "", "with --matrix: measure also with these numbers of ids stored, e.g. 10000000,50000000")
	f.StringVar(&o.cache, "cache", "", "with --stored: directory that keeps what was filled (default: grout-bench among the user's caches)")
	f.StringVar(&o.floor, "floor", "", "with --matrix: program that prints its address and answers 202 to all, measured beside")
	format := outputFlag(cmd)

	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		pluginsOnly := !o.matrix && o.plugins && f.Changed("plugins")
		liveOnly := !o.matrix && o.live && f.Changed("live")
		o.plugins, o.live = o.plugins && (o.matrix || pluginsOnly), o.live && (o.matrix || liveOnly)
		o.matrix = o.matrix || pluginsOnly || liveOnly
		if o.matrix {
			o.matrixDefaults(f.Changed)
		}
		if err := o.check(); err != nil {
			return err
		}
		if pluginsOnly || liveOnly {
			o.events, o.budgets = nil, false
		}
		cfg, _, err := app.Load(f, os.Environ())
		if err != nil {
			return err
		}
		ctx, stop := untilInterrupted(cmd.Context())
		defer stop()
		out := cmd.OutOrStdout()
		if o.matrix {
			return runMatrix(ctx, &o, *format == "json", out)
		}
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
	case o.apps < 1 || o.apps > 10_000:
		return usagef("--apps are from 1 to 10000")
	case o.span < time.Minute || o.span > 30*24*time.Hour:
		return usagef("--span is from 1m to 720h")
	}
	return o.checkMatrix()
}

// run measures all combinations, printing each as it is done.
func (o *benchOptions) run(ctx context.Context, cfg *app.Config, out io.Writer) (_ *benchReport, err error) {
	target, data, stop, err := o.target(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	report := &benchReport{
		Server: "throw-away instance in this process, the same for all lines", Durability: durability,
		Loop: "closed", Load: o.mix(), Machine: load.ReadMachine(data), Runs: []benchRun{},
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
			plan := load.Plan{Events: events, Connections: connections, Warmup: o.warmup, Duration: o.duration, Rate: o.rate / float64(events), Apps: o.apps, Span: o.span}
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

const durability = "every 200 is synced to disk in the command stream and in the store"

// mix tells what the events are; what makes figures look better is named.
func (o *benchOptions) mix() string {
	text := fmt.Sprintf("%d apps × %d users × %d workflows × %d models mixed in every request, random ids, timestamps of the last %s",
		o.apps, load.Users, load.Workflows, load.Models, shortDuration(o.span))
	if o.apps == 1 {
		text += "  [ONE APP: no measure for many]"
	}
	return text
}

// shortDuration leaves out the minutes and seconds of whole hours.
func shortDuration(d time.Duration) string {
	text := d.String()
	if d%time.Minute == 0 {
		text = strings.TrimSuffix(text, "0s")
	}
	if d%time.Hour == 0 {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
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
	cfg.ManifestPath, cfg.ConfigsPath, cfg.PluginsPath = filepath.Join(base, "none"), filepath.Join(base, "none"), filepath.Join(base, "none")
	// The end of ctx is for the caller to see first: what is under way still needs the server.
	node, err := app.Start(context.WithoutCancel(ctx), cfg)
	if err != nil {
		return nil, "", nil, errors.Join(fmt.Errorf("start a throw-away instance: %w", err), os.RemoveAll(base))
	}
	return node, cfg.DataDir, func() error { return errors.Join(node.Stop(), os.RemoveAll(base)) }, nil
}
