package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"grout/cmd/grout/app"
)

func newDemo() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start a throw-away instance with a day of made-up traffic",
		Long: `Starts grout in this process, on free ports of this machine and with a data
directory that is removed at the end, sends it a made-up day of three apps over
HTTP, and shows what became of it. Then it keeps running, for you to try things,
until Ctrl-C.`,
		Args: cobra.NoArgs,
	}
	once := cmd.Flags().Bool("once", false, "end after showing what happened")
	dir := cmd.Flags().String("dir", "", "where to put the data directory (default: with temporary files)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		ctx, stopSignals := untilInterrupted(cmd.Context())
		defer stopSignals()
		out := cmd.OutOrStdout()
		node, data, stop, err := throwAway(ctx, *dir, "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer func() {
			if err = errors.Join(err, stop()); err == nil {
				fmt.Fprintln(out, "Stopped; the data directory is removed.")
			}
		}()
		d := demo{out: out, node: node, data: data}
		if err := d.run(ctx); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			return err
		}
		if *once {
			return nil
		}
		d.suggest()
		select {
		case <-ctx.Done():
		case <-node.Ended():
		}
		return nil
	}
	return cmd
}

// demo shows a day of traffic.
type demo struct {
	out    io.Writer
	node   *app.Instance
	data   string
	sender *sender
}

func (d *demo) run(ctx context.Context) error {
	key, err := app.ReadSecret(app.SecretPath(d.data, app.InternalKeyFile))
	if err != nil {
		return err
	}
	if d.sender, err = newSender(d.node.URL, key, 4, time.Minute); err != nil {
		return err
	}
	defer d.sender.close()
	fmt.Fprintf(d.out, "A throw-away grout listens on %s, with its data in %s.\n\n", d.node.URL, d.data)
	now := time.Now().UTC()
	if err := d.send(ctx, demoDay(now, uint64(now.Unix()))); err != nil {
		return err
	}
	for i := range demoApps {
		fmt.Fprintln(d.out)
		if err := d.show(ctx, demoApps[i].name, now, i == 0); err != nil {
			return err
		}
	}
	return nil
}

// send reports the events over HTTP, and one request a second time.
func (d *demo) send(ctx context.Context, events []usageEvent) error {
	const size = 200
	bodies, err := demoBatches(events, size)
	if err != nil {
		return err
	}
	start := time.Now()
	var sum batchAnswer
	for _, body := range bodies {
		a, err := d.sender.send(ctx, ctx, body)
		if err != nil {
			return err
		}
		sum.Accepted += a.Accepted
		sum.Rejected += a.Rejected
	}
	fmt.Fprintf(d.out, "%s events of a day of %d apps were sent in %s requests: %s were accepted, %s rejected, in %s.\n",
		thousands(int64(len(events))), len(demoApps), thousands(int64(len(bodies))), thousands(sum.Accepted), thousands(sum.Rejected), time.Since(start).Round(time.Millisecond))
	again, err := d.sender.send(ctx, ctx, bodies[len(bodies)-1])
	if err != nil {
		return err
	}
	if !again.replayed {
		return errors.New("the last request was sent again and not recognised")
	}
	fmt.Fprintln(d.out, "The last request was sent again: it got its first answer, and nothing was counted twice.")
	facts, err := d.facts(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "%s facts (usage.recorded) were published on NATS.\n", thousands(facts))
	return nil
}

// facts waits until all facts are published and counts them.
func (d *demo) facts(ctx context.Context) (int64, error) {
	deadline := time.Now().Add(10 * time.Second)
	for {
		text, err := d.sender.get(ctx, "/metrics", nil)
		if err != nil {
			return 0, err
		}
		published := metricOf(text, "grout_relay_facts_total", `destination="evt"`)
		if published > 0 && metricOf(text, "grout_outbox_rows", `destination="evt"`) == 0 {
			return published, nil
		}
		if time.Now().After(deadline) {
			return 0, errors.New("the facts were not published within 10s")
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// metricOf sums the samples of a metric that have a label.
func metricOf(text []byte, name, label string) (sum int64) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		rest, found := strings.CutPrefix(lines.Text(), name+"{")
		labels, value, ok := strings.Cut(rest, "} ")
		if !found || !ok || !strings.Contains(labels, label) {
			continue
		}
		n, _ := strconv.ParseFloat(value, 64)
		sum += int64(n)
	}
	return sum
}

// show prints what was counted for an app.
func (d *demo) show(ctx context.Context, name string, now time.Time, chart bool) error {
	from := now.Add(-24 * time.Hour).Truncate(time.Hour)
	q := url.Values{"app_id": {name}, "from": {instant(from)}, "to": {instant(now.Truncate(time.Hour).Add(time.Hour))}}
	if chart {
		q.Set("window", "hour")
		if err := printUsage(ctx, d.sender, q, nil, "table", true, "total_tokens", d.out); err != nil {
			return err
		}
		fmt.Fprintln(d.out)
		q.Del("window")
	}
	q.Set("group_by", "model")
	return printUsage(ctx, d.sender, q, []string{"model"}, "table", false, "", d.out)
}

// suggest prints what can be tried, ready to be pasted.
func (d *demo) suggest() {
	secret := func(name string) string {
		return `"$(cat '` + filepath.ToSlash(app.SecretPath(d.data, name)) + `')"`
	}
	flags := fmt.Sprintf("--url %s --data-dir '%s'", d.node.URL, d.data)
	fmt.Fprintf(d.out, "\nIt keeps running until Ctrl-C. Try in another terminal:\n\n")
	fmt.Fprintf(d.out, "  grout usage %s --app shop --group-by user_id --chart\n", flags)
	fmt.Fprintf(d.out, "  grout usage %s --app support --from -24h --window hour --group-by model\n", flags)
	fmt.Fprintf(d.out, "  curl -s '%s/api/usage?app_id=lab&group_by=user_id' -H X-Internal-API-Key:%s\n", d.node.URL, secret(app.InternalKeyFile))
	if d.node.NATSURL != "" {
		fmt.Fprintf(d.out, "  nats --server %s --user consumer --password %s sub --stream MOZAIKS_EVT --all\n", d.node.NATSURL, secret("nats_consumer_password"))
	}
	fmt.Fprintln(d.out)
}
