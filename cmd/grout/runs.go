package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

func newRuns() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "runs",
		Short: "Look at runs of plugins and of other runtimes, and cancel them",
		Long: `Asks a running grout. Every execution of a plugin is a run, and other runtimes report
theirs. A run starts once, may open agents and tools, and ends once: completed, failed
or cancelled.

The key comes from --key-file, else from INTERNAL_API_KEY, else from the secrets
which a grout on this machine keeps in its data directory.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRunsList(), newRunsShow(), newRunsTail(), newRunsCancel())
	return cmd
}

// runRow is a run as GET /api/runs answers it, as far as it is printed.
type runRow struct {
	RunID       string       `json:"run_id"`
	UserID      *string      `json:"user_id"`
	TenantID    *string      `json:"tenant_id"`
	ChatID      *string      `json:"chat_id"`
	Plugin      *string      `json:"plugin"`
	Action      *string      `json:"action"`
	Workflow    *string      `json:"workflow_name"`
	Parent      *string      `json:"parent_run_id"`
	Status      string       `json:"status"`
	Attempt     int64        `json:"attempt"`
	Implicit    bool         `json:"implicit"`
	StartedAt   time.Time    `json:"started_at"`
	EndedAt     *time.Time   `json:"ended_at"`
	Error       *string      `json:"error"`
	Code        *string      `json:"code"`
	Cost        *json.Number `json:"cost"`
	TotalTokens *int64       `json:"total_tokens"`

	Result json.RawMessage `json:"result"`
}

// what ran: a plugin, or a workflow of another runtime.
func (r *runRow) what() string { return cmp.Or(textOf(r.Plugin), textOf(r.Workflow), "-") }

func (r *runRow) took() string {
	if r.EndedAt == nil {
		return "-"
	}
	return r.EndedAt.Sub(r.StartedAt).Round(time.Millisecond / 10).String()
}

// moment is an instant for people.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func textOf(s *string) string {
	if s == nil {
		return ""
	}
	return printable(*s)
}

func newRunsList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Print runs, newest first",
		Example: `  grout runs list --status failed --since -24h
  grout runs list --plugin greet --user ann -o json`,
		Args: cobra.NoArgs,
	}
	format := outputFlag(cmd)
	f := cmd.Flags()
	appID := askFlags(f)
	filters := map[string]*string{
		"user_id": f.String("user", "", "runs of this user only"),
		"status":  f.String("status", "", "runs that are in_progress, completed, failed or cancelled"),
		"plugin":  f.String("plugin", "", "runs of this plugin only"),
		"cursor":  f.String("cursor", "", "next_cursor of the page before"),
	}
	since := f.String("since", "", "runs that started at this time or later: 2026-01-31T08:00:00Z, 2026-01-31, yesterday, -24h")
	limit := f.Int("limit", 20, "runs on a page, at most 1000")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q := url.Values{"app_id": {appOf(*appID)}, "limit": {strconv.Itoa(*limit)}}
		for name, value := range filters {
			if *value != "" {
				q.Set(name, *value)
			}
		}
		if err := addTime(q, "since", *since); err != nil {
			return err
		}
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			text, err := to.ask(ctx, http.MethodGet, "/api/runs", q, nil)
			if err != nil {
				return err
			}
			return printAnswer(cmd, *format, text, printRuns)
		})
	}
	return cmd
}

func printRuns(out io.Writer, text []byte) error {
	var page struct {
		Runs []runRow
		Next *string `json:"next_cursor"`
	}
	if err := decodeAnswer(text, &page); err != nil {
		return err
	}
	if len(page.Runs) == 0 {
		_, err := fmt.Fprintln(out, "no run")
		return err
	}
	var t textTable
	t.columns("run", "what", "user", "status", "started")
	t.numbers("took")
	t.columns("code")
	for i := range page.Runs {
		r := &page.Runs[i]
		t.rows = append(t.rows, []string{
			printable(r.RunID), r.what(), orDash(r.UserID), printable(r.Status), moment(r.StartedAt), r.took(), orDash(r.Code),
		})
	}
	return t.printPage(out, page.Next)
}

func newRunsShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show RUN",
		Short: "Print a run, what it and its agents have used, and its events",
		Args:  cobra.ExactArgs(1),
	}
	format := outputFlag(cmd)
	appID := askFlags(cmd.Flags())
	limit := cmd.Flags().Int("limit", 100, "events on a page, at most 1000")
	after := cmd.Flags().Int64("after", 0, "only events behind this sequence")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path := "/api/runs/" + url.PathEscape(args[0])
		own := url.Values{"app_id": {appOf(*appID)}}
		page := url.Values{"app_id": own["app_id"], "limit": {strconv.Itoa(*limit)}}
		if *after > 0 {
			page.Set("cursor", strconv.FormatInt(*after, 10))
		}
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			run, err := to.ask(ctx, http.MethodGet, path, own, nil)
			if err != nil {
				return err
			}
			events, err := to.ask(ctx, http.MethodGet, path+"/events", page, nil)
			if err != nil {
				return err
			}
			usage, err := to.ask(ctx, http.MethodGet, path+"/usage", own, nil)
			if err != nil { // the run is worth showing without it
				fmt.Fprintf(cmd.ErrOrStderr(), "what the run has used is not known: %v\n", err)
			}
			return printRun(cmd.OutOrStdout(), *format, run, events, usage)
		})
	}
	return cmd
}

func printRun(out io.Writer, format output, run, events, usage []byte) error {
	var page struct {
		Events []json.RawMessage
		Next   *string `json:"next_cursor"`
	}
	if err := decodeAnswer(events, &page); err != nil {
		return err
	}
	if format == "json" {
		return printJSON(out, map[string]any{"run": json.RawMessage(run), "usage": json.RawMessage(usage), "events": page.Events, "next_cursor": page.Next})
	}
	var r runRow
	if err := decodeAnswer(run, &r); err != nil {
		return err
	}
	printRunHead(out, &r)
	if err := printRunUsage(out, usage); err != nil {
		return err
	}
	if len(page.Events) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	return printRunEvents(out, page.Events, page.Next)
}

func printRunHead(out io.Writer, r *runRow) {
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(out, "%-12s%s\n", name, text)
		}
	}
	line("run", printable(r.RunID))
	line("plugin", textOf(r.Plugin))
	line("action", textOf(r.Action))
	if textOf(r.Workflow) != textOf(r.Plugin) {
		line("workflow", textOf(r.Workflow))
	}
	line("user", textOf(r.UserID))
	line("tenant", textOf(r.TenantID))
	if textOf(r.ChatID) != printable(r.RunID) {
		line("chat", textOf(r.ChatID))
	}
	line("parent", textOf(r.Parent))
	line("status", printable(r.Status))
	if r.Attempt > 1 {
		line("attempt", strconv.FormatInt(r.Attempt, 10))
	}
	line("started", moment(r.StartedAt))
	if r.EndedAt != nil {
		line("ended", moment(*r.EndedAt)+", after "+r.took())
	}
	line("code", textOf(r.Code))
	line("error", textOf(r.Error))
	if r.TotalTokens != nil {
		line("tokens", thousands(*r.TotalTokens))
	}
	if r.Cost != nil {
		line("cost", r.Cost.String())
	}
	if len(r.Result) > 0 {
		line("result", printable(string(r.Result)))
	}
}

func printRunEvents(out io.Writer, events []json.RawMessage, next *string) error {
	var t textTable
	t.numbers("sequence")
	t.columns("at", "event", "status", "agent", "says")
	for _, text := range events {
		var e struct {
			Sequence                       int64
			Timestamp, Kind, Status, Agent string
			Message, Summary, Error        string
		}
		if err := decodeAnswer(text, &e); err != nil {
			return err
		}
		t.rows = append(t.rows, []string{
			strconv.FormatInt(e.Sequence, 10), e.Timestamp, printable(e.Kind), printable(e.Status), cmp.Or(printable(e.Agent), "-"),
			cmp.Or(printable(abbreviate(cmp.Or(e.Error, e.Summary, e.Message))), "-"),
		})
	}
	if err := t.print(out); err != nil || next == nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\nmore: --after %s\n", *next)
	return err
}

func newRunsCancel() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cancel RUN",
		Short: "End a run; a plugin is stopped, with all that it started",
		Args:  cobra.ExactArgs(1),
	}
	format := outputFlag(cmd)
	appID := askFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			text, err := to.ask(ctx, http.MethodPost, "/api/runs/"+url.PathEscape(args[0])+"/cancel", url.Values{"app_id": {appOf(*appID)}}, nil)
			if err != nil {
				return err
			}
			return printAnswer(cmd, *format, text, func(out io.Writer, text []byte) error {
				var said struct{ Status string }
				if err := decodeAnswer(text, &said); err != nil {
					return err
				}
				_, err := fmt.Fprintf(out, "run %s is %s\n", printable(args[0]), printable(said.Status))
				return err
			})
		})
	}
	return cmd
}
