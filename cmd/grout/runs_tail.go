package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

func newRunsTail() *cobra.Command {
	var o tailOptions
	cmd := &cobra.Command{
		Use:   "tail [RUN]",
		Short: "Print what runs do as they do it, until Ctrl-C or the end of RUN",
		Long: `Follows the runs of an app, or one of them: what that one did before is printed first, and
its end ends the command. A connection that breaks is opened again and goes on where it
was. With -o json each event is one line, as of grout events tail; what a run did before
has no id.`,
		Example: `  grout runs tail
  grout runs tail --chat c-1
  grout runs tail 0b0b6d2e-5a6c-4f4e-9d0e-2f8a3f1b7c55 -o json`,
		Args: cobra.MaximumNArgs(1),
	}
	format := outputFlag(cmd)
	f := cmd.Flags()
	appID := askFlags(f)
	f.StringVar(&o.chat, "chat", "", "runs of this chat only")
	f.StringVar(&o.after, "after", "", "without RUN: id of an event, begin behind it")
	f.IntVar(&o.count, "count", 0, "without RUN: end after so many events (default: at Ctrl-C)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.kinds = []string{"orchestration"}
		q, err := o.query(appOf(*appID))
		if err != nil {
			return err
		}
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			if len(args) == 0 {
				return o.tail(ctx, cmd, to, q, *format)
			}
			if o.after != "" || o.count != 0 {
				return usagef("--after and --count go without RUN")
			}
			return tailRun(ctx, cmd, to, q, args[0], *format)
		})
	}
	return cmd
}

// tailRun prints the events of one run, from its first on.
func tailRun(ctx context.Context, cmd *cobra.Command, to *sender, q url.Values, run string, format output) error {
	path := "/api/runs/" + url.PathEscape(run)
	own := url.Values{"app_id": q["app_id"]}
	text, err := to.ask(ctx, http.MethodGet, path, own, nil)
	if err != nil {
		return err
	}
	var head runRow
	if err := decodeAnswer(text, &head); err != nil {
		return err
	}
	q.Set("run_id", run)
	if head.ChatID != nil && q.Get("chat_id") == "" {
		q.Set("chat_id", *head.ChatID)
	}
	shown, last := int64(0), "" // sequence of the run's event that was printed last, and its status
	show := func(e *liveEvent, data []byte) error {
		var d struct {
			Sequence int64
			Status   string
		}
		if err := decodeAnswer(data, &d); err != nil {
			return err
		}
		if e.kind == "stream.reset" || d.Sequence > shown {
			if err := printEvent(cmd.OutOrStdout(), format, e); err != nil {
				return err
			}
		}
		if d.Sequence > shown {
			shown, last = d.Sequence, d.Status
		}
		return nil
	}
	// The stream is opened before the run's past is read, so that nothing lies between.
	past := false
	f := &follower{to: to, query: q, notes: cmd.ErrOrStderr(), opened: func() {}}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f.opened = func() {
		if past {
			return
		}
		past = true
		err := printPast(ctx, to, path, own, &head, show)
		if err == nil && ended(last) {
			err = errEnough
		}
		if err != nil {
			cancel(err)
		}
	}
	err = f.follow(ctx, func(e *liveEvent) error {
		var m envelope
		if err := decodeAnswer(e.data, &m); err != nil {
			return err
		}
		if err := show(e, m.Data); err != nil {
			return err
		}
		if ended(last) {
			return errEnough
		}
		return nil
	})
	if why := context.Cause(ctx); err == nil && why != nil && why != errEnough && why != context.Canceled {
		return why
	}
	return err
}

func ended(status string) bool {
	return status == "completed" || status == "failed" || status == "cancelled"
}

// printPast shows the events that a run has had.
func printPast(ctx context.Context, to *sender, path string, own url.Values, head *runRow, show func(*liveEvent, []byte) error) error {
	page := url.Values{"app_id": own["app_id"], "limit": {"1000"}}
	for {
		text, err := to.ask(ctx, http.MethodGet, path+"/events", page, nil)
		if err != nil {
			return err
		}
		var list struct {
			Events []json.RawMessage
			Next   *string `json:"next_cursor"`
		}
		if err := decodeAnswer(text, &list); err != nil {
			return err
		}
		for _, data := range list.Events {
			e, err := pastEvent(head, data)
			if err != nil {
				return err
			}
			if err := show(e, data); err != nil {
				return err
			}
		}
		if list.Next == nil {
			return nil
		}
		page.Set("cursor", *list.Next)
	}
}

// pastEvent gives an event of a run's list the form of one of the stream.
func pastEvent(head *runRow, data []byte) (*liveEvent, error) {
	var d struct{ Kind, Timestamp string }
	if err := decodeAnswer(data, &d); err != nil {
		return nil, err
	}
	chat := head.RunID
	if head.ChatID != nil {
		chat = *head.ChatID
	}
	text, err := json.Marshal(map[string]any{"type": "chat." + d.Kind, "data": json.RawMessage(data), "chat_id": chat, "timestamp": d.Timestamp})
	if err != nil {
		return nil, fmt.Errorf("event of run %s: %w", printable(head.RunID), err)
	}
	return &liveEvent{kind: "chat." + d.Kind, data: text}, nil
}
