package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// history is a data directory that was made by the binary, and what the binary says
// of it when nothing is harmed.
type history struct {
	name       string
	partitions int
	killed     bool   // with something left to apply and to publish
	data       string // as it is harmed
	half       string // the same when it was half as old
	foreign    string // of another instance
	truth      truth
}

const apps = 7

// makeHistories makes, or finds, the directories: with one partition and with four,
// stopped in order and killed with something left to do.
func makeHistories(ctx context.Context, o options) ([]*history, error) {
	mark := filepath.Join(o.dir, "binary")
	if text, err := os.ReadFile(mark); err != nil || string(text) != o.sum {
		if err := os.RemoveAll(filepath.Join(o.dir, "made")); err != nil {
			return nil, err
		}
	}
	var list []*history
	for _, partitions := range []int{1, 4} {
		h, err := makeHistory(ctx, o, partitions)
		if err != nil {
			return nil, err
		}
		list = append(list, h...)
	}
	return list, os.WriteFile(mark, []byte(o.sum), 0o600)
}

func makeHistory(ctx context.Context, o options, partitions int) ([]*history, error) {
	dir := filepath.Join(o.dir, "made", fmt.Sprint("p", partitions))
	at := func(name string) string { return filepath.Join(dir, name, "data") }
	list := []*history{
		{name: fmt.Sprintf("p%d-stopped", partitions), data: at("stopped")},
		{name: fmt.Sprintf("p%d-killed", partitions), data: at("killed"), killed: true},
	}
	for _, h := range list {
		h.partitions, h.half, h.foreign = partitions, at("half"), at("foreign")
	}
	done := filepath.Join(dir, "truth.json")
	if text, err := os.ReadFile(done); err == nil {
		truths := []*truth{&list[0].truth, &list[1].truth}
		return list, json.Unmarshal(text, &truths)
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	fmt.Printf("making the directories of %d partitions\n", partitions)
	w := &writer{o: o, partitions: partitions, rng: rand.New(rand.NewPCG(o.seed, uint64(partitions)))}
	if err := w.make(ctx, at); err != nil {
		return nil, err
	}
	var truths []truth
	for _, h := range list {
		if err := h.record(ctx, o, w, filepath.Join(dir, "look", "data")); err != nil {
			return nil, fmt.Errorf("%s: %w", h.name, err)
		}
		truths = append(truths, h.truth)
	}
	text, err := json.Marshal(truths)
	if err != nil {
		return nil, err
	}
	return list, os.WriteFile(done, text, 0o600)
}

// record notes what the binary says of a copy of the directory.
func (h *history) record(ctx context.Context, o options, w *writer, data string) error {
	if err := os.RemoveAll(filepath.Dir(data)); err != nil {
		return err
	}
	if err := copyDir(h.data, data); err != nil {
		return err
	}
	p, err := serve(ctx, o, data, h.partitions)
	if err != nil {
		return err
	}
	defer p.Kill()
	c, err := newClient(p, data)
	if err != nil {
		return err
	}
	h.truth = truth{Paths: w.paths(), Answers: map[string]string{}}
	for i := 0; i < len(w.batches); i += 1 + len(w.batches)/5 {
		h.truth.Posts = append(h.truth.Posts, w.batches[i])
	}
	look, err := c.look(ctx, &h.truth)
	if err != nil {
		return err
	}
	if len(look.refused)+len(look.wrong) > 0 || look.facts.stalled {
		return fmt.Errorf("an unharmed directory: refused %v, wrong %v", look.refused, look.wrong)
	}
	h.truth.Answers, h.truth.Facts, h.truth.Letters = look.answers, look.facts.list, look.letters.list
	fmt.Printf("%s: %d answers, %d facts, %d letters\n", h.name, len(h.truth.Answers), len(h.truth.Facts), len(h.truth.Letters))
	return p.Stop()
}

func (w *writer) paths() (list []string) {
	for n := range apps {
		app := fmt.Sprint("app-", n)
		list = append(list, "/api/usage?app_id="+app+"&window=hour&group_by=user_id,model,workflow_id", "/api/usage?app_id="+app, "/api/usage/events?limit=1000&app_id="+app)
	}
	for i := 0; i < len(w.batches); i += 1 + len(w.batches)/40 {
		list = append(list, fmt.Sprintf("/api/usage/batches/%s?app_id=%s", w.batches[i].Batch, w.batches[i].App))
	}
	for n := range 20 {
		app := fmt.Sprint("app-", n%apps)
		list = append(list, fmt.Sprintf("/api/chats/%s-chat-%d/usage?app_id=%s", app, n, app))
	}
	return list
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
