package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newDLQ() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Look at dead letters, have their commands sent again, and drop them",
		Long: `Asks a running grout. A command, or a message on mozaiks.v1.cmd.>, that cannot be read
or applied becomes a dead letter: a message of the stream MOZAIKS_DLQ with the whole
original, kept 30 days or until the stream is full. It waits until its command is sent
again and has an outcome, or until it is dropped.

The key comes from --key-file, else from INTERNAL_API_KEY, else from the secrets
which a grout on this machine keeps in its data directory.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDLQList(), newDLQShow(), newDLQRetry(), newDLQDrop())
	return cmd
}

// letterRow is a dead letter as GET /api/dlq answers it, as far as it is printed.
type letterRow struct {
	ID          string     `json:"id"`
	Status      string     `json:"status"`
	AppID       *string    `json:"app_id"`
	Kind        *string    `json:"kind"`
	Code        string     `json:"code"`
	Reason      string     `json:"reason"`
	Attempts    int64      `json:"attempts"`
	FiledAt     time.Time  `json:"filed_at"`
	DiedAt      time.Time  `json:"died_at"`
	ClosedAt    *time.Time `json:"closed_at"`
	CausationID string     `json:"causation_id"`
	Source      string     `json:"causation_source"`
	Correlation *string    `json:"correlation_id"`
	Subject     string     `json:"subject"`
	Sequence    uint64     `json:"sequence"`
	Bytes       int64      `json:"bytes"`
	Outcome     *struct {
		Code   *string         `json:"code"`
		Detail *string         `json:"detail"`
		Result json.RawMessage `json:"result"`
	} `json:"outcome"`
	Original *struct {
		Headers map[string][]string `json:"headers"`
		Data    string              `json:"data_base64"`
	} `json:"original"`
}

// letterPage is a page of them.
type letterPage struct {
	Letters []letterRow `json:"dead_letters"`
	Next    *string     `json:"next_cursor"`
}

// letterFilters are the flags that choose letters.
type letterFilters struct {
	texts         map[string]*string
	since, before *string
}

func filterFlags(f *pflag.FlagSet) letterFilters {
	return letterFilters{
		texts: map[string]*string{
			"app_id": f.String("app", "", "letters of this app only (default: of all)"),
			"kind":   f.String("kind", "", "letters of commands of this kind only, such as usage.void"),
			"code":   f.String("code", "", "letters with this code only, such as NOT_APPLICABLE"),
		},
		since:  f.String("since", "", "filed at this time or later: 2026-01-31T08:00:00Z, 2026-01-31, yesterday, -24h"),
		before: f.String("before", "", "filed before this time"),
	}
}

func (f *letterFilters) query(limit int) (url.Values, error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	for name, value := range f.texts {
		if *value != "" {
			q.Set(name, *value)
		}
	}
	for name, value := range map[string]*string{"since": f.since, "before": f.before} {
		if err := addTime(q, name, *value); err != nil {
			return nil, err
		}
	}
	return q, nil
}

func newDLQList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Print dead letters that wait, newest first",
		Example: `  grout dlq list --app shop --since -24h
  grout dlq list --status all --kind usage.ingest -o json`,
		Args: cobra.NoArgs,
	}
	format := outputFlag(cmd)
	f := cmd.Flags()
	serverFlags(f)
	filters := filterFlags(f)
	status := f.String("status", "waiting", "waiting, retried, dropped or all")
	limit := f.Int("limit", 20, "letters on a page, at most 1000")
	cursor := f.String("cursor", "", "next_cursor of the page before")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q, err := filters.query(*limit)
		if err != nil {
			return err
		}
		q.Set("status", *status)
		if *cursor != "" {
			q.Set("cursor", *cursor)
		}
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			text, err := to.ask(ctx, http.MethodGet, "/api/dlq", q, nil)
			if err != nil {
				return err
			}
			return printAnswer(cmd, *format, text, printLetters)
		})
	}
	return cmd
}

func printLetters(out io.Writer, text []byte) error {
	var page letterPage
	if err := decodeAnswer(text, &page); err != nil {
		return err
	}
	if len(page.Letters) == 0 {
		fmt.Fprintln(out, "no dead letter")
		return printOlder(out, page.Next)
	}
	var t textTable
	t.columns("letter", "status", "app", "kind", "code")
	t.numbers("attempts")
	t.columns("filed", "reason")
	for i := range page.Letters {
		l := &page.Letters[i]
		t.rows = append(t.rows, []string{
			printable(l.ID), printable(l.Status), orDash(l.AppID), orDash(l.Kind), printable(l.Code),
			strconv.FormatInt(l.Attempts, 10), moment(l.FiledAt), printable(abbreviate(l.Reason)),
		})
	}
	return t.printPage(out, page.Next)
}

func newDLQShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show LETTER",
		Short: "Print a dead letter with its original",
		Example: `  grout dlq show 9K5S1BO5K6QO3DJ0N6F0J4S8LC
  grout dlq show 9K5S1BO5K6QO3DJ0N6F0J4S8LC --raw > original.bin`,
		Args: cobra.ExactArgs(1),
	}
	format := outputFlag(cmd)
	serverFlags(cmd.Flags())
	raw := cmd.Flags().Bool("raw", false, "write the bytes of the original and nothing else")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			text, err := to.ask(ctx, http.MethodGet, letterPath(args[0]), nil, nil)
			if err != nil {
				return err
			}
			if *raw {
				return writeOriginal(cmd.OutOrStdout(), text)
			}
			return printAnswer(cmd, *format, text, printLetter)
		})
	}
	return cmd
}

func letterPath(id string) string { return "/api/dlq/" + url.PathEscape(id) }

var errOriginalGone = errors.New("the stream of dead letters does not keep the original of this letter any more")

func writeOriginal(out io.Writer, text []byte) error {
	var l letterRow
	if err := decodeAnswer(text, &l); err != nil {
		return err
	}
	if l.Original == nil {
		return errOriginalGone
	}
	data, err := base64.StdEncoding.DecodeString(l.Original.Data)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	_, err = out.Write(data)
	return err
}

func printLetter(out io.Writer, text []byte) error {
	var l letterRow
	if err := decodeAnswer(text, &l); err != nil {
		return err
	}
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(out, "%-14s%s\n", name, text)
		}
	}
	line("letter", printable(l.ID))
	line("status", printable(l.Status))
	line("app", textOf(l.AppID))
	line("kind", textOf(l.Kind))
	line("code", printable(l.Code))
	line("reason", printable(l.Reason))
	line("attempts", strconv.FormatInt(l.Attempts, 10))
	line("filed", moment(l.FiledAt))
	line("died", moment(l.DiedAt))
	if l.ClosedAt != nil {
		line("closed", moment(*l.ClosedAt))
	}
	line("command", printable(l.CausationID)+" of "+printable(l.Source))
	line("correlation", textOf(l.Correlation))
	if o := l.Outcome; o != nil {
		line("refused", textOf(o.Code))
		line("detail", textOf(o.Detail))
		if o.Code == nil {
			line("result", cmp.Or(printable(string(o.Result)), "null"))
		}
	}
	line("published", fmt.Sprintf("%s, sequence %d, %s bytes", printable(l.Subject), l.Sequence, thousands(l.Bytes)))
	if l.Original == nil {
		line("original", "not kept any more")
		return nil
	}
	for name, values := range sortedHeaders(l.Original.Headers) {
		line("header", printable(name)+": "+printable(values))
	}
	data, err := base64.StdEncoding.DecodeString(l.Original.Data)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	const most = 2048
	line("original", printable(string(data[:min(len(data), most)])))
	if len(data) > most {
		line("", fmt.Sprintf("and %s bytes more: --raw writes all of them", thousands(int64(len(data)-most))))
	}
	return nil
}
