// Command damage proves that a grout binary tells no wrong thing from a damaged data
// directory. It makes directories of some 20,000 events with the binary, records what
// it answers, and then, round by round, harms one file of a copy, starts the binary on
// it and compares everything. A round is right when nothing differs, named when the
// binary says by name what is wrong and tells nothing wrong beside it, and silent
// otherwise, which is a failure, as are a panic and a hang. What happens in a round
// follows from the seed.
//
// It ends by itself, talks to loopback only and kills only what it started. A run that
// was cut off goes on where it was.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

type options struct {
	binary   string
	dir      string
	kinds    string
	rounds   int
	seed     uint64
	parallel int
	events   int
	most     int
	only     string
	fresh    bool
	keep     bool
	limit    time.Duration
	sum      string // of the binary, the seed and the size
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "", "the grout binary to test")
	flag.StringVar(&o.dir, "dir", "", "working directory; it keeps the made directories and what was finished")
	flag.StringVar(&o.kinds, "kinds", "", "kinds of files, separated by commas; empty is all of them: "+strings.Join(kindNames(), ", "))
	flag.IntVar(&o.rounds, "rounds", 100, "flipped bits per kind of file; ten times as many for stores and command blocks")
	flag.Uint64Var(&o.seed, "seed", 1, "of everything random")
	flag.IntVar(&o.parallel, "parallel", 2, "rounds at a time")
	flag.IntVar(&o.events, "events", 20_000, "events of a directory")
	flag.IntVar(&o.most, "most", 0, "at most this many rounds of each kind of file; 0 is all")
	flag.StringVar(&o.only, "only", "", "the name of one round, to see it again")
	flag.BoolVar(&o.fresh, "fresh", false, "forget what an earlier run has finished")
	flag.BoolVar(&o.keep, "keep", false, "keep the directories of rounds that fail")
	flag.DurationVar(&o.limit, "limit", time.Hour, "give up after this long")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	failed, err := run(ctx, o)
	if err != nil {
		fmt.Fprintf(os.Stderr, "damage: seed %d: %v\n", o.seed, err)
		os.Exit(1)
	}
	if failed > 0 {
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (failed int, err error) {
	if o.binary == "" || o.dir == "" {
		return 0, errors.New("-binary and -dir are needed")
	}
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return 0, err
	}
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return 0, err
	}
	binary, err := os.ReadFile(o.binary)
	if err != nil {
		return 0, err
	}
	sum := sha256.Sum256(fmt.Appendf(binary, "%d %d", o.seed, o.events))
	o.sum = hex.EncodeToString(sum[:8])
	histories, err := makeHistories(ctx, o)
	if err != nil {
		return 0, fmt.Errorf("make the directories: %w", err)
	}
	list, err := plan(o, histories)
	if err != nil {
		return 0, err
	}
	state, err := openState(filepath.Join(o.dir, "finished.jsonl"), o)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, state.Close()) }()
	list = slices.DeleteFunc(list, func(r round) bool { return state.has(r.name()) || o.only != "" && o.only != r.name() })
	fmt.Printf("seed %d: %d rounds to do, %d were finished before\n", o.seed, len(list), len(state.done))
	if err := work(ctx, o, list, state); err != nil {
		return 0, err
	}
	return state.report(os.Stdout), ctx.Err()
}

// work runs the rounds, some at a time.
func work(ctx context.Context, o options, list []round, state *state) error {
	next := make(chan round)
	var group sync.WaitGroup
	faults := make(chan error, o.parallel)
	for n := range o.parallel {
		group.Go(func() {
			for r := range next {
				res, err := r.run(ctx, o, filepath.Join(o.dir, fmt.Sprintf("round-%d", n)))
				if err != nil && ctx.Err() == nil {
					err = fmt.Errorf("%s: %w", r.name(), err)
				}
				if err == nil {
					err = ctx.Err() // what was cut off proves nothing
				}
				if err == nil {
					err = state.add(res)
				}
				if err != nil {
					faults <- err
					return
				}
			}
		})
	}
	began := time.Now()
	err := func() error {
		defer close(next)
		for i, r := range list {
			select {
			case next <- r:
			case err := <-faults:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
			if i > 0 && i%100 == 0 {
				fmt.Printf("%d of %d rounds, %s each\n", i, len(list), (time.Since(began) / time.Duration(i)).Round(time.Millisecond))
			}
		}
		return nil
	}()
	group.Wait()
	select {
	case late := <-faults:
		err = errors.Join(err, late)
	default:
	}
	return err
}
