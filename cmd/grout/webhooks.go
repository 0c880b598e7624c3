package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"grout/handlers/deliver"
)

func newWebhooks() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "webhooks",
		Short: "Look at webhooks, try them, and let stopped ones go on",
		Long: `Webhooks are configured in the settings file (docs/webhooks.md). A running grout
sends them facts, in order and at least once, signed as Standard Webhooks want it.`,
		Example: `  grout webhooks list
  grout webhooks test crm
  grout webhooks resume crm
  grout webhooks secret >> crm.secrets`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newWebhooksList(), newWebhooksTest(), newWebhooksResume(), newWebhooksSecret())
	return cmd
}

func newWebhooksList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Print how the webhooks are: what was sent, what waits, and what is wrong",
		Args:  cobra.NoArgs,
	}
	format := outputFlag(cmd)
	askFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			text, err := to.ask(ctx, http.MethodGet, "/api/webhooks", nil, nil)
			if err != nil {
				return err
			}
			return printAnswer(cmd, *format, text, printWebhooks)
		})
	}
	return cmd
}

// webhookRow is what is printed of a webhook.
type webhookRow struct {
	Name, URL, State string
	Kinds, Apps      []string
	Delivered        uint64
	Skipped          uint64
	Waiting          uint64
	FailuresInARow   int     `json:"failures_in_a_row"`
	LastError        *string `json:"last_error"`
	NextTryAt        *string `json:"next_try_at"`
	StoppedReason    *string `json:"stopped_reason"`
	Gaps             uint64
	Gap              *struct {
		From uint64 `json:"from_sequence"`
		To   uint64 `json:"to_sequence"`
	}
}

func printWebhooks(out io.Writer, text []byte) error {
	var answer struct{ Webhooks []webhookRow }
	if err := decodeAnswer(text, &answer); err != nil {
		return err
	}
	if len(answer.Webhooks) == 0 {
		_, err := fmt.Fprintln(out, "no webhook is configured")
		return err
	}
	var t textTable
	t.columns("webhook", "state", "kinds", "apps")
	t.numbers("sent", "waiting", "skipped", "gaps")
	t.columns("to")
	all := func(list []string) string {
		if len(list) == 0 {
			return "*"
		}
		return printable(strings.Join(list, ","))
	}
	for _, w := range answer.Webhooks {
		t.rows = append(t.rows, []string{
			printable(w.Name), printable(w.State), all(w.Kinds), all(w.Apps), thousands(int64(w.Delivered)), thousands(int64(w.Waiting)),
			thousands(int64(w.Skipped)), thousands(int64(w.Gaps)), printable(w.URL),
		})
	}
	if err := t.print(out); err != nil {
		return err
	}
	for _, w := range answer.Webhooks {
		if line := w.trouble(); line != "" {
			if _, err := fmt.Fprintf(out, "\n%s: %s\n", printable(w.Name), line); err != nil {
				return err
			}
		}
	}
	return nil
}

// trouble says what is wrong with a webhook; empty when nothing is.
func (w *webhookRow) trouble() string {
	var parts []string
	if w.StoppedReason != nil {
		parts = append(parts, "stopped: "+printable(*w.StoppedReason)+" (grout webhooks resume "+printable(w.Name)+")")
	}
	if w.LastError != nil {
		text := strconv.Itoa(w.FailuresInARow) + " failures in a row, the newest: " + printable(*w.LastError)
		if w.NextTryAt != nil {
			text += "; tried again at " + printable(*w.NextTryAt)
		}
		parts = append(parts, text)
	}
	if w.Gap != nil {
		parts = append(parts, fmt.Sprintf("facts had expired before they were sent: sequences %d to %d of MOZAIKS_EVT", w.Gap.From, w.Gap.To))
	}
	return strings.Join(parts, "\n  ")
}

func newWebhooksTest() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test name",
		Short: "Send a signed message that means nothing, once",
		Args:  cobra.ExactArgs(1),
	}
	format := outputFlag(cmd)
	askFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			text, err := to.ask(ctx, http.MethodPost, "/api/webhooks/"+url.PathEscape(args[0])+"/test", nil, nil)
			if err != nil {
				return err
			}
			var t struct {
				Delivered bool
				TookMs    int64 `json:"took_ms"`
				Error     *string
			}
			if err := json.Unmarshal(text, &t); err != nil {
				return fmt.Errorf("read answer: %w", err)
			}
			if *format == "json" {
				if _, err := cmd.OutOrStdout().Write(append(text, '\n')); err != nil {
					return err
				}
			}
			if !t.Delivered {
				reason := "it was not taken"
				if t.Error != nil {
					reason = printable(*t.Error)
				}
				return fmt.Errorf("webhook %s: %s", args[0], reason)
			}
			if *format != "json" {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "taken in %d ms\n", t.TookMs)
			}
			return err
		})
	}
	return cmd
}

func newWebhooksResume() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resume name",
		Short: "Let a webhook go on at once, also when it was stopped",
		Args:  cobra.ExactArgs(1),
	}
	askFlags(cmd.Flags())
	skip := cmd.Flags().Bool("skip", false, "pass over the fact that is the next one")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			q := url.Values{}
			if *skip {
				q.Set("skip", "true")
			}
			if _, err := to.ask(ctx, http.MethodPost, "/api/webhooks/"+url.PathEscape(args[0])+"/resume", q, nil); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "resumed")
			return err
		})
	}
	return cmd
}

func newWebhooksSecret() *cobra.Command {
	return &cobra.Command{
		Use:   "secret",
		Short: "Print a new secret, for a file that a webhook names in secret_files",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var key [32]byte
			_, _ = rand.Read(key[:]) // never fails
			_, err := fmt.Fprintln(cmd.OutOrStdout(), deliver.FormatSecret(key[:]))
			return err
		},
	}
}
