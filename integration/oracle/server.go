package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"grout/integration/process"
)

func newRand(seed, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }

var client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

// server is what is tested, in its current incarnation.
type server struct {
	o           options
	rng         *rand.Rand
	kills       int
	killedInUse int
	lost        int
	inFlight    atomic.Int64
	cluster     *cluster // nil: it runs on its own server

	mu  sync.Mutex
	now *process.Process
	url string
}

// start runs the next incarnation.
func (s *server) start(ctx context.Context) error {
	var env []string
	if s.cluster != nil {
		env = s.cluster.env()
	}
	p, err := process.Start(ctx, process.Options{Binary: s.o.binary, Data: s.o.data, Env: append(env, []string{
		"MOZAIKS_DUPLICATE_WINDOW=100ms", "MOZAIKS_WAIT_LIMIT=3s",
		fmt.Sprint("MOZAIKS_PARTITIONS=", s.o.partitions), fmt.Sprint("MOZAIKS_FOLD_EVERY=", s.o.foldEvery),
		"GROUT_CRASH_AT=" + s.point(), "MOZAIKS_SNAPSHOT_EVERY=" + s.o.snapshots().String(), "MOZAIKS_COMMAND_AGE=1s",
	}...)})
	if errors.Is(err, process.ErrKilled) && s.o.crashAt != "" {
		err = nil // it came to the point while it was starting
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = p
	if p.URL != "" {
		s.url = p.URL
	}
	return nil
}

func (s *server) current() *process.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// base is the address of the current incarnation.
func (s *server) base() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url
}

// point names the fault point with a random pass; none for the last incarnation.
func (s *server) point() string {
	if s.o.crashAt == "" || s.kills >= s.o.kills {
		return ""
	}
	return fmt.Sprintf("%s:%d", s.o.crashAt, 1+s.rng.IntN(20))
}

// cycle ends the current incarnation, by our hand or by its own at a fault point,
// and starts the next.
func (s *server) cycle(ctx context.Context) error {
	p := s.current()
	life := time.Duration(s.rng.Int64N(int64(s.o.maxLife)))
	if s.o.crashAt != "" {
		life = 30 * time.Second
	}
	select {
	case <-p.Ended():
		if s.o.crashAt == "" {
			return fmt.Errorf("the server ended by itself:\n%s", p.Log())
		}
	case <-time.After(life):
		if s.o.crashAt != "" {
			return fmt.Errorf("the server did not come to the point %s within %s", s.o.crashAt, life)
		}
		s.awaitUse(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.inFlight.Load() > 0 {
		s.killedInUse++
	}
	p.Kill()
	s.kills++
	if s.o.loseStore {
		if err := s.loseStore(); err != nil {
			return err
		}
	}
	return s.start(ctx)
}

// snapshots are frequent where stores are lost.
func (o *options) snapshots() time.Duration {
	if o.loseStore {
		return 200 * time.Millisecond
	}
	return time.Hour
}

// loseStore removes the files of the store of every partition that has two
// snapshots: from then on the command stream may begin later than the store.
func (s *server) loseStore() error {
	for p := range s.o.partitions {
		snapshots, err := filepath.Glob(filepath.Join(s.o.data, "snapshots", fmt.Sprintf("partition-%03d", p), "*.json"))
		if err != nil || len(snapshots) < 2 {
			continue
		}
		if err := os.Remove(filepath.Join(s.o.data, "store", fmt.Sprintf("partition-%03d.db", p))); err != nil {
			return err
		}
		s.lost++
	}
	return nil
}

// awaitUse waits for a request to be in flight, for the kill to hit it.
func (s *server) awaitUse(ctx context.Context) {
	tick := time.NewTicker(50 * time.Microsecond)
	defer tick.Stop()
	for end := time.Now().Add(3 * time.Second); s.inFlight.Load() == 0 && time.Now().Before(end) && ctx.Err() == nil; {
		<-tick.C
	}
}
