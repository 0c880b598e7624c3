package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// sortedHeaders gives headers by name, their values joined.
func sortedHeaders(h map[string][]string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, name := range slices.Sorted(maps.Keys(h)) {
			if !yield(name, strings.Join(h[name], ", ")) {
				return
			}
		}
	}
}

func newDLQRetry() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retry LETTER...",
		Short: "Have the commands of dead letters sent again",
		Long: `Has the command of each letter carried out once more, with its own id and source: what
is sent twice is carried out once. A letter whose command dies again goes on waiting,
with one more attempt.`,
		Example: `  grout dlq retry 9K5S1BO5K6QO3DJ0N6F0J4S8LC
  grout dlq retry --all --kind usage.ingest --since -24h`,
	}
	changeLetters(cmd, http.MethodPost, "/retry", func(l *letterRow) (string, bool) {
		switch {
		case l.Status != "retried":
			return "died again: " + printable(l.Code) + ": " + printable(l.Reason), false
		case l.Outcome != nil && l.Outcome.Code != nil:
			return "refused: " + textOf(l.Outcome.Code) + ": " + textOf(l.Outcome.Detail), true
		}
		return "done", true
	})
	return cmd
}

func newDLQDrop() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drop LETTER...",
		Short: "Let dead letters wait no more",
		Long: `Notes that nobody wants the letters. Their messages stay in the stream MOZAIKS_DLQ as
long as it keeps them.`,
		Example: `  grout dlq drop 9K5S1BO5K6QO3DJ0N6F0J4S8LC
  grout dlq drop --all --code UNDECODABLE --before -168h`,
	}
	changeLetters(cmd, http.MethodDelete, "", func(*letterRow) (string, bool) { return "dropped", true })
	return cmd
}

// changeLetters makes a command that does one thing with the letters it is given, or with
// all that wait and fit its filters. tell says what came of one, and whether that is well.
func changeLetters(cmd *cobra.Command, method, action string, tell func(*letterRow) (string, bool)) {
	format := outputFlag(cmd)
	f := cmd.Flags()
	serverFlags(f)
	filters := filterFlags(f)
	all := f.Bool("all", false, "all letters that wait and fit the filters")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *all == (len(args) > 0) {
			return usagef("name letters, or choose them with --all and filters")
		}
		q, err := filters.query(1000)
		if err != nil {
			return err
		}
		if !*all && len(q) > 1 {
			return usagef("filters go with --all")
		}
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			c := letterChange{to: to, out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), method: method, action: action, json: *format == "json", tell: tell}
			if *all {
				return c.each(ctx, q)
			}
			for _, id := range args {
				if err := c.one(ctx, id); err != nil {
					return err
				}
			}
			return c.end()
		})
	}
}

type letterChange struct {
	to             *sender
	out, err       io.Writer
	method, action string
	json           bool
	tell           func(*letterRow) (string, bool)
	done, failed   int
}

// each goes through the pages before it changes anything: what is changed waits no more.
func (c *letterChange) each(ctx context.Context, q url.Values) error {
	var ids []string
	for {
		text, err := c.to.ask(ctx, http.MethodGet, "/api/dlq", q, nil)
		if err != nil {
			return err
		}
		var page letterPage
		if err := decodeAnswer(text, &page); err != nil {
			return err
		}
		for i := range page.Letters {
			ids = append(ids, page.Letters[i].ID)
		}
		if page.Next == nil {
			break
		}
		q.Set("cursor", *page.Next)
	}
	slices.Reverse(ids) // in the order in which they died
	for _, id := range ids {
		if err := c.one(ctx, id); err != nil {
			fmt.Fprintf(c.err, "%s  %v\n", printable(id), err)
			if ctx.Err() != nil {
				return err
			}
			c.failed++
		}
	}
	if len(ids) == 0 && !c.json {
		fmt.Fprintln(c.out, "no dead letter")
	}
	return c.end()
}

func (c *letterChange) one(ctx context.Context, id string) error {
	text, err := c.to.ask(ctx, c.method, letterPath(id)+c.action, nil, nil)
	if err != nil {
		return err
	}
	var l letterRow
	if err := decodeAnswer(text, &l); err != nil {
		return err
	}
	said, well := c.tell(&l)
	if well {
		c.done++
	} else {
		c.failed++
	}
	if c.json {
		_, err = c.out.Write(append(text, '\n'))
		return err
	}
	_, err = fmt.Fprintf(c.out, "%s  %s\n", printable(l.ID), said)
	return err
}

func (c *letterChange) end() error {
	if c.failed > 0 {
		return fmt.Errorf("%d of %d letters go on waiting", c.failed, c.failed+c.done)
	}
	return nil
}
