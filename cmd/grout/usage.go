package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"grout/cmd/grout/app"
)

// choice is a flag with a fixed set of values.
type choice struct {
	value   string
	choices []string
}

func (c *choice) String() string { return c.value }

// Type names the choices in the help text.
func (c *choice) Type() string { return strings.Join(c.choices, "|") }

// Set takes one of the choices.
func (c *choice) Set(s string) error {
	if !slices.Contains(c.choices, s) {
		return fmt.Errorf("the choices are %s", strings.Join(c.choices, ", "))
	}
	c.value = s
	return nil
}

func newUsage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Ask a running grout for sums of usage",
		Long: `Prints what a running grout has counted for an app, in all or for each hour, day
or month (UTC), and for each user, model, workflow or tenant.

--from is inclusive, --to exclusive. Both are RFC 3339 instants on the hour, days
(2026-01-31), now, today, yesterday, or distances from now such as -24h, -7d and
-2w. Days are those of UTC; distances and now are widened to whole hours.

The app is the one of --app or MOZAIKS_APP_ID, else the one the server belongs to.
The key comes from --key-file, else from INTERNAL_API_KEY, else from the secrets
which a grout on this machine keeps in its data directory.`,
		Example: `  grout usage --group-by user_id,model
  grout usage --from -24h --window hour --chart
  grout usage --app shop --from 2026-01-01 --to 2026-02-01 --window day -o csv`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	serverFlags(f)
	filters := map[string]*string{
		"app_id":      f.String("app", "", "app to ask for"),
		"tenant_id":   f.String("tenant", "", "only this tenant"),
		"user_id":     f.String("user", "", "only this user"),
		"workflow_id": f.String("workflow", "", "only this workflow"),
		"model":       f.String("model", "", "only this model"),
	}
	from := f.String("from", "", "begin of the time asked for (default: the first event)")
	to := f.String("to", "", "end of the time asked for (default: the last event)")
	window := &choice{choices: []string{"none", "hour", "day", "month"}}
	f.Var(window, "window", "a row for each of these (default none; with --chart hour or day, by the time asked for)")
	groups := f.StringSlice("group-by", nil, "a row for each app_id, tenant_id, user_id, workflow_id or model")
	chart := f.Bool("chart", false, "draw bars instead of a table")
	measure := &choice{value: "total_tokens", choices: []string{"total_tokens", "input_tokens", "output_tokens", "events", "cost"}}
	f.Var(measure, "measure", "what the bars of --chart show")
	format := &choice{value: "table", choices: []string{"table", "json", "csv"}}
	f.VarP(format, "output", "o", "how to print")

	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *chart && format.value != "table" {
			return usagef("--chart draws; it does not go with -o %s", format.value)
		}
		q, err := usageQuery(f, filters, *from, *to, time.Now())
		if err != nil {
			return err
		}
		if window.value == "" {
			window.value = defaultWindow(*chart, len(*groups) > 0, q)
		}
		q.Set("window", window.value)
		if len(*groups) > 0 {
			q.Set("group_by", strings.Join(*groups, ","))
		}
		to, err := readerOf(f)
		if err != nil {
			return err
		}
		defer to.close()
		ctx, stop := untilInterrupted(cmd.Context())
		defer stop()
		return printUsage(ctx, to, q, *groups, format.value, *chart, measure.value, cmd.OutOrStdout())
	}
	return cmd
}

// readerOf makes a client of the flags url, key-file and data-dir.
func readerOf(f *pflag.FlagSet) (*sender, error) {
	cfg, _, err := app.Load(f, os.Environ())
	if err != nil {
		return nil, err
	}
	keyFile, _ := f.GetString("key-file")
	key, err := ingestKey(&cfg, keyFile)
	if err != nil {
		return nil, err
	}
	base, _ := f.GetString("url")
	return newSender(base, key, 1, 0)
}

// usageQuery makes the parameters of filters and times.
func usageQuery(f *pflag.FlagSet, filters map[string]*string, from, to string, now time.Time) (url.Values, error) {
	q := url.Values{}
	for name, value := range filters {
		if *value != "" {
			q.Set(name, *value)
		}
	}
	if own := os.Getenv("MOZAIKS_APP_ID"); own != "" && q.Get("app_id") == "" {
		q.Set("app_id", own)
	}
	for name, text := range map[string]string{"from": from, "to": to} {
		if text == "" {
			if f.Changed(name) {
				return nil, usagef("--%s is empty", name)
			}
			continue
		}
		at, err := parseWhen(text, now)
		if err != nil {
			return nil, usagef("--%s: %w", name, err)
		}
		if at.relative {
			hour := at.Truncate(time.Hour)
			if name == "to" && hour.Before(at.Time) {
				hour = hour.Add(time.Hour)
			}
			at.Time = hour
		}
		q.Set(name, instant(at.Time))
	}
	return q, nil
}

// when is an instant of a command line.
type when struct {
	time.Time
	relative bool // to now, and to be widened to a whole hour
}

var distance = regexp.MustCompile(`^-(\d+)([mhdw])$`)

func parseWhen(text string, now time.Time) (when, error) {
	now = now.UTC()
	today := now.Truncate(24 * time.Hour)
	switch text {
	case "now":
		return when{now, true}, nil
	case "today":
		return when{Time: today}, nil
	case "yesterday":
		return when{Time: today.AddDate(0, 0, -1)}, nil
	}
	if m := distance.FindStringSubmatch(text); m != nil {
		unit := map[string]time.Duration{"m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour}[m[2]]
		n, err := strconv.ParseInt(m[1], 10, 64)
		if err == nil && n <= int64(100*365*24*time.Hour/unit) {
			return when{now.Add(-time.Duration(n) * unit), true}, nil
		}
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return when{Time: at.UTC()}, nil
		}
	}
	return when{}, fmt.Errorf("%q is no time; write 2026-01-31T08:00:00Z, 2026-01-31, now, today, yesterday, or a distance such as -24h or -7d", abbreviate(text))
}

// defaultWindow cuts a chart into bars, unless groups are its bars.
func defaultWindow(chart, grouped bool, q url.Values) string {
	if !chart || grouped {
		return "none"
	}
	from, err1 := time.Parse(time.RFC3339, q.Get("from"))
	to, err2 := time.Parse(time.RFC3339, q.Get("to"))
	if err2 != nil {
		to = time.Now()
	}
	if err1 == nil && to.Sub(from) <= 49*time.Hour {
		return "hour"
	}
	return "day"
}

// usageReport is the answer of GET /api/usage (contract §7).
type usageReport struct {
	AppID  string
	Window string
	Rows   []usageRow
	Totals usageSums
}

type usageSums struct {
	Events          int64       `json:"events"`
	InputTokens     int64       `json:"input_tokens"`
	OutputTokens    int64       `json:"output_tokens"`
	TotalTokens     int64       `json:"total_tokens"`
	CachedTokens    int64       `json:"cached_tokens"`
	ReasoningTokens int64       `json:"reasoning_tokens"`
	Cost            json.Number `json:"cost"`
}

type usageRow struct {
	Start time.Time // zero when the window is open
	Group []string  // "" for what the events did not have
	usageSums
}

// usageOf reads a report grouped by some fields.
func usageOf(text []byte, groups []string) (*usageReport, error) {
	var in struct {
		AppID  string            `json:"app_id"`
		Window string            `json:"window"`
		Rows   []json.RawMessage `json:"rows"`
		Totals usageSums         `json:"totals"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return nil, fmt.Errorf("the answer is not grout's: %w", err)
	}
	out := &usageReport{AppID: in.AppID, Window: in.Window, Totals: in.Totals}
	for _, raw := range in.Rows {
		var start struct {
			At *time.Time `json:"window_start"`
		}
		var fields map[string]any
		row := usageRow{}
		for _, into := range []any{&start, &fields, &row.usageSums} {
			if err := json.Unmarshal(raw, into); err != nil {
				return nil, fmt.Errorf("the answer is not grout's: %w", err)
			}
		}
		if start.At != nil {
			row.Start = *start.At
		}
		for _, g := range groups {
			value, _ := fields[g].(string)
			row.Group = append(row.Group, value)
		}
		out.Rows = append(out.Rows, row)
	}
	return out, nil
}

// get asks the server once.
func (s *sender) get(ctx context.Context, path string, q url.Values) ([]byte, error) {
	target := s.base.JoinPath(path)
	target.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Internal-API-Key", s.key)
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		target.RawQuery = ""
		return nil, s.refusal(http.MethodGet, target, resp.StatusCode, text, 0)
	}
	return text, nil
}
