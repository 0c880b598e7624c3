package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"grout/integration/process"
)

// writer makes a history.
type writer struct {
	o          options
	partitions int
	rng        *rand.Rand
	sent, made int
	events     []string // app and id
	batches    []post
	chats      map[string]string // chat → app
}

// post is a request and its answer.
type post struct {
	Path, Body, Answer, App, Batch string
}

func (w *writer) make(ctx context.Context, at func(string) string) error {
	half := w.o.events / 2
	err := w.life(ctx, at("stopped"), []string{"MOZAIKS_SNAPSHOT_EVERY=400ms", "MOZAIKS_COMMAND_AGE=1s"}, func(c *client) error {
		if err := w.send(ctx, c, half); err != nil {
			return err
		}
		return w.untilTrimmed(ctx, c)
	})
	if err == nil {
		err = copyDir(at("stopped"), at("half"))
	}
	if err == nil {
		err = w.life(ctx, at("stopped"), nil, func(c *client) error { return w.send(ctx, c, w.o.events-half) })
	}
	if err == nil {
		err = copyDir(at("stopped"), at("killed"))
	}
	if err == nil {
		err = w.kill(ctx, at("killed"))
	}
	if err == nil {
		other := &writer{o: w.o, partitions: w.partitions, rng: rand.New(rand.NewPCG(w.o.seed+1, 9))}
		err = other.life(ctx, at("foreign"), []string{"MOZAIKS_SNAPSHOT_EVERY=400ms", "MOZAIKS_COMMAND_AGE=1s"}, func(c *client) error {
			if err := other.send(ctx, c, w.o.events/10); err != nil {
				return err
			}
			return other.untilTrimmed(ctx, c)
		})
	}
	return err
}

// life starts the binary, works with it and stops it.
func (w *writer) life(ctx context.Context, data string, env []string, do func(*client) error) error {
	if err := os.MkdirAll(filepath.Dir(data), 0o700); err != nil {
		return err
	}
	p, err := serve(ctx, w.o, data, w.partitions, env...)
	if err != nil {
		return err
	}
	defer p.Kill()
	c, err := newClient(p, data)
	if err != nil {
		return err
	}
	if err := do(c); err != nil {
		return err
	}
	return p.Stop()
}

func serve(ctx context.Context, o options, data string, partitions int, env ...string) (*process.Process, error) {
	return process.Start(ctx, process.Options{
		Binary: o.binary, Data: data, GenerateSecrets: true, Stdout: io.Discard,
		Env: append([]string{fmt.Sprint("MOZAIKS_PARTITIONS=", partitions), "MOZAIKS_FOLD_EVERY=3000", "MOZAIKS_COMMAND_MAX_BYTES=16MiB"}, env...),
	})
}

// send posts events in batches, some of them twice, some refused, and corrects some.
func (w *writer) send(ctx context.Context, c *client, events int) error {
	for end := w.sent + events; w.sent < end; {
		p := w.batch(min(20+w.rng.IntN(180), end-w.sent))
		status, answer, err := c.do(ctx, http.MethodPost, p.Path, p.Body)
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("post: %d %s", status, answer)
		}
		p.Answer = answer
		w.batches = append(w.batches, p)
		if w.rng.IntN(3) == 0 {
			if err := w.correct(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *writer) batch(n int) post {
	first := fmt.Sprint("app-", w.rng.IntN(apps))
	id := fmt.Sprintf("batch-%d", w.made)
	w.made++
	var events []map[string]any
	for range n {
		app := first
		if w.rng.IntN(4) == 0 {
			app = fmt.Sprint("app-", w.rng.IntN(apps))
		}
		e := w.event(app)
		switch w.rng.IntN(40) {
		case 0:
			e["input_tokens"] = -1 // refused
		case 1:
			if len(w.events) > 0 { // sent before, with other content
				e["app_id"], e["event_id"], _ = strings.Cut(w.events[w.rng.IntN(len(w.events))], "/")
			}
		}
		events = append(events, e)
		w.sent++
	}
	body, _ := json.Marshal(map[string]any{"batch_id": id, "events": events})
	return post{Path: "/api/usage/ingest", Body: string(body), App: first, Batch: id}
}

func (w *writer) event(app string) map[string]any {
	id := fmt.Sprintf("event-%d", w.sent)
	w.events = append(w.events, app+"/"+id)
	filler := make([]byte, 120)
	for i := range filler {
		filler[i] = byte(w.rng.Uint32())
	}
	e := map[string]any{
		"event_id": id, "timestamp": time.Now().Add(-time.Duration(w.rng.Int64N(int64(30 * time.Hour)))).UTC().Format(time.RFC3339Nano),
		"app_id": app, "user_id": fmt.Sprint("user-", w.rng.IntN(20)), "model": fmt.Sprint("model-", w.rng.IntN(4)), "workflow_id": fmt.Sprint("flow-", w.rng.IntN(5)),
		"input_tokens": w.rng.IntN(2000), "output_tokens": w.rng.IntN(500), "metadata": map[string]any{"x": hex.EncodeToString(filler)},
	}
	if w.rng.IntN(3) == 0 {
		chat := fmt.Sprintf("%s-chat-%d", app, w.rng.IntN(20))
		e["chat_id"] = chat
		if w.chats == nil {
			w.chats = map[string]string{}
		}
		w.chats[chat] = app
	}
	return e
}

// correct voids or amends an event; one that was refused is no event.
func (w *writer) correct(ctx context.Context, c *client) error {
	app, id, _ := strings.Cut(w.events[w.rng.IntN(len(w.events))], "/")
	body, what := map[string]any{"app_id": app, "reason": "wrong"}, "void"
	if w.rng.IntN(2) == 0 {
		what, body["input_tokens"] = "amend", w.rng.IntN(5000)
	}
	text, _ := json.Marshal(body)
	status, answer, err := c.do(ctx, http.MethodPost, "/api/usage/events/"+id+"/"+what, string(text))
	if err == nil && status >= 500 {
		err = fmt.Errorf("%s: %d %s", what, status, answer)
	}
	return err
}

// untilTrimmed sends a little until every partition has two snapshots and has trimmed
// the stream.
func (w *writer) untilTrimmed(ctx context.Context, c *client) error {
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); {
		m, err := c.metrics(ctx)
		if err != nil {
			return err
		}
		trimmed := 0
		for name, v := range m {
			if strings.HasPrefix(name, "grout_trimmed_stream_sequence") && v > 0 {
				trimmed++
			}
		}
		if trimmed == w.partitions {
			return nil
		}
		if err := w.send(ctx, c, 50); err != nil {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("the stream was not trimmed in time")
}

// kill ends a binary with requests in flight, some of which it has promised to apply.
func (w *writer) kill(ctx context.Context, data string) error {
	p, err := serve(ctx, w.o, data, w.partitions)
	if err != nil {
		return err
	}
	defer p.Kill()
	c, err := newClient(p, data)
	if err != nil {
		return err
	}
	var posts []post
	for range 400 {
		posts = append(posts, w.batch(20))
	}
	var group sync.WaitGroup
	for n := range 16 {
		group.Go(func() {
			for i := n; i < len(posts); i += 16 {
				if _, _, err := c.do(ctx, http.MethodPost, posts[i].Path, posts[i].Body, "Prefer", "respond-async"); err != nil {
					return
				}
			}
		})
	}
	if err := pause(ctx, 60*time.Millisecond); err != nil {
		return err
	}
	p.Kill()
	group.Wait()
	return nil
}
