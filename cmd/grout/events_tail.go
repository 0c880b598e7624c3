package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

func newEvents() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Look at what happens while it happens",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newEventsTail())
	return cmd
}

// tailOptions are what both tails take.
type tailOptions struct {
	chat  string
	kinds []string
	after string
	count int
	agui  bool
}

func newEventsTail() *cobra.Command {
	var o tailOptions
	var run string
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print facts of an app as they happen, until Ctrl-C",
		Long: `Follows the stream of events of a running grout: runs, usage of chats, and every other
fact of the app. What is printed begins now, or behind the event that --after names. A
connection that breaks is opened again and goes on where it was, so nothing is missing
and nothing comes twice; when something has expired meanwhile, stream.reset says so.

With -o json each event is one line: {"id","type","data","chat_id","sequence","timestamp"}.
Notes about the connection go to standard error, and at the end the id of the last event.

The key comes from --key-file, else from INTERNAL_API_KEY, else from the secrets which a
grout on this machine keeps in its data directory.`,
		Example: `  grout events tail
  grout events tail --chat c-1 --kind chat.usage_delta -o json
  grout events tail --kind entitlement,budget --after 1742-911`,
		Args: cobra.NoArgs,
	}
	format := outputFlag(cmd)
	f := cmd.Flags()
	appID := askFlags(f)
	f.StringVar(&o.chat, "chat", "", "events of this chat only")
	f.StringVar(&run, "run", "", "events of this run only")
	f.StringSliceVar(&o.kinds, "kind", nil, "kinds of events, or what they begin with: orchestration, chat.usage_delta, usage; may be repeated")
	f.StringVar(&o.after, "after", "", "id of an event: begin behind it")
	f.IntVar(&o.count, "count", 0, "end after so many events (default: at Ctrl-C)")
	f.BoolVar(&o.agui, "agui", false, "print the AG-UI mirrors of events too")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q, err := o.query(appOf(*appID))
		if err != nil {
			return err
		}
		if run != "" {
			q.Set("run_id", run)
		}
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			return o.tail(ctx, cmd, to, q, *format)
		})
	}
	return cmd
}

func (o *tailOptions) query(app string) (url.Values, error) {
	if o.count < 0 {
		return nil, usagef("--count is at least 0")
	}
	q := url.Values{"app_id": {app}}
	if o.chat != "" {
		q.Set("chat_id", o.chat)
	}
	for _, kind := range o.kinds {
		if kind = strings.TrimSpace(kind); kind != "" {
			q.Add("kind", kind)
		}
	}
	return q, nil
}

// tail prints events until the context ends or there were enough.
func (o *tailOptions) tail(ctx context.Context, cmd *cobra.Command, to *sender, q url.Values, format output) error {
	f := &follower{to: to, query: q, after: o.after, notes: cmd.ErrOrStderr(), opened: func() {}}
	shown := 0
	err := f.follow(ctx, func(e *liveEvent) error {
		if !o.agui && strings.HasPrefix(e.kind, "agui.") {
			return nil
		}
		if err := printEvent(cmd.OutOrStdout(), format, e); err != nil {
			return err
		}
		if shown++; shown == o.count {
			return errEnough
		}
		return nil
	})
	if f.after != "" && f.after != o.after {
		fmt.Fprintf(cmd.ErrOrStderr(), "grout: go on with --after %s\n", printable(f.after))
	}
	return err
}

// printEvent prints one line.
func printEvent(out io.Writer, format output, e *liveEvent) error {
	if format == "json" {
		text := []byte(`{"id":`)
		id, _ := json.Marshal(e.id) // a text
		text = append(append(text, id...), ',')
		data := bytes.TrimSpace(e.data)
		if len(data) < 2 || data[0] != '{' || !json.Valid(data) {
			return fmt.Errorf("event %s is no JSON object", printable(e.id))
		}
		var line bytes.Buffer
		if err := json.Compact(&line, append(text, data[1:]...)); err != nil {
			return err
		}
		line.WriteByte('\n')
		_, err := out.Write(line.Bytes())
		return err
	}
	var m envelope
	if err := decodeAnswer(e.data, &m); err != nil {
		return err
	}
	where := ""
	if m.ChatID != "" {
		where = "  " + printable(m.ChatID)
		if m.Sequence > 0 {
			where += fmt.Sprintf(" #%d", m.Sequence)
		}
	}
	_, err := fmt.Fprintf(out, "%s  %s%s  %s\n", printable(m.Timestamp), printable(m.Type), where, saidBy(&m))
	return err
}

// saidBy tells the gist of an event.
func saidBy(m *envelope) string {
	var d struct {
		RunID   string `json:"run_id"`
		Status  string `json:"status"`
		Agent   string `json:"agent"`
		Tool    string `json:"tool"`
		UserID  string `json:"user_id"`
		Model   string `json:"model_name"`
		Tokens  *int64 `json:"total_tokens"`
		Final   *int64 `json:"usage_total_tokens_final"`
		Message string `json:"message"`
		Summary string `json:"summary"`
		Error   string `json:"error"`
		First   *int64 `json:"first_sequence"`
	}
	if json.Unmarshal(m.Data, &d) != nil { // another shape: it speaks for itself
		return printable(abbreviate(string(m.Data)))
	}
	var parts []string
	add := func(name, text string) {
		if text != "" {
			parts = append(parts, name+printable(abbreviate(text)))
		}
	}
	number := func(name string, n *int64) {
		if n != nil {
			parts = append(parts, name+thousands(*n))
		}
	}
	add("run=", d.RunID)
	add("status=", d.Status)
	add("agent=", d.Agent)
	add("tool=", d.Tool)
	add("model=", d.Model)
	add("user=", d.UserID)
	number("tokens=", d.Tokens)
	number("tokens=", d.Final)
	number("goes on at #", d.First)
	add("", cmp.Or(d.Error, d.Summary, d.Message))
	if len(parts) == 0 {
		return printable(abbreviate(string(m.Data)))
	}
	return strings.Join(parts, " ")
}
