// Command oracle proves a grout binary right or wrong from outside. It starts the
// binary, sends usage, kills the process with SIGKILL while requests are in
// flight, starts it again and sends what was not answered again, with the same
// ids. It keeps books of its own of what it sent and what was answered, and in
// the end compares them with the answers of GET /api/usage and with every fact in
// the stream MOZAIKS_EVT, read by a stock client in the account consumer.
//
// It ends by itself, talks to loopback only and kills only what it started.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"grout/integration/natsnode"
)

type options struct {
	binary     string
	data       string
	kills      int
	crashAt    string
	seed       uint64
	senders    int
	partitions int
	foldEvery  int
	maxLife    time.Duration
	limit      time.Duration
	loseStore  bool
	verbose    bool
	cluster    bool
	only       string
}

func main() {
	natsnode.Launch() // when this process is to be a node
	var o options
	flag.StringVar(&o.binary, "binary", "", "the grout binary to test")
	flag.StringVar(&o.data, "data", "", "its data directory, empty at the beginning")
	flag.IntVar(&o.kills, "kills", 20, "how many times the process is killed")
	flag.StringVar(&o.crashAt, "crash-at", "", "let the binary (built with the tag faults) kill itself at this point, at a random pass, instead of killing it from outside")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "of everything random")
	flag.IntVar(&o.senders, "senders", 12, "concurrent senders")
	flag.IntVar(&o.partitions, "partitions", 1, "partitions of the store")
	flag.IntVar(&o.foldEvery, "fold-every", 3000, "events between two freezes of the aggregates")
	flag.DurationVar(&o.maxLife, "max-life", 900*time.Millisecond, "a process lives at most this long after it is ready before it is killed")
	flag.DurationVar(&o.limit, "limit", 30*time.Minute, "give up after this long")
	flag.BoolVar(&o.loseStore, "lose-store", false, "after each kill remove the files of the store, once snapshots have let the command stream be trimmed")
	flag.BoolVar(&o.verbose, "v", false, "print progress")
	flag.BoolVar(&o.cluster, "cluster", false, "run it on three NATS nodes, and kill, stop, cut and slow these, too: -kills are rounds")
	flag.StringVar(&o.only, "only", "", "the name of the one fault of every round")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	verdict, err := run(ctx, o)
	if err != nil {
		fmt.Fprintf(os.Stderr, "oracle: seed %d: %v\n", o.seed, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(verdict)
	if len(verdict.Faults) > 0 {
		os.Exit(1)
	}
}

// Verdict is what the oracle prints. No faults: the binary is right.
type Verdict struct {
	Seed         uint64  `json:"seed"`
	Kills        int     `json:"kills"`
	KilledInUse  int     `json:"killed_with_requests_in_flight"`
	StoresLost   int     `json:"stores_lost"`
	Requests     int     `json:"requests"`
	Unanswered   int     `json:"unanswered"`
	Replayed     int     `json:"replayed"`
	Events       int     `json:"events"`
	Duplicates   int     `json:"duplicates"`
	Rejected     int     `json:"rejected"`
	Voided       int     `json:"voided"`
	Amended      int     `json:"amended"`
	Chats        int     `json:"chats"`
	Summaries    int     `json:"summaries"`
	InputTokens  int64   `json:"input_tokens"`
	OutputTokens int64   `json:"output_tokens"`
	Reads        int     `json:"reads_during_the_run"`
	Facts        int     `json:"facts"`
	Seconds      float64 `json:"seconds"`

	Refused  int                 `json:"refused_without_quorum,omitempty"`
	Recovery map[string]recovery `json:"recovery,omitempty"`

	Faults []string `json:"faults"`
}

func run(ctx context.Context, o options) (*Verdict, error) {
	if o.binary == "" || o.data == "" {
		return nil, errors.New("-binary and -data are needed")
	}
	start := time.Now()
	b := newBooks(o.seed)
	s := &server{o: o, rng: newRand(o.seed, 99)}
	if o.cluster {
		var err error
		if s.cluster, err = startCluster(ctx, o.data+"-nats"); err != nil {
			return nil, err
		}
		defer s.cluster.stop()
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	defer func() { s.current().Kill() }()
	c := &campaign{o: o, books: b, server: s}
	if s.cluster != nil {
		s.cluster.c, s.cluster.s = c, s
	}
	if err := c.run(ctx); err != nil {
		return nil, err
	}
	v := b.verdict()
	v.Seed, v.Kills, v.KilledInUse, v.StoresLost, v.Reads = o.seed, s.kills, s.killedInUse, s.lost, int(c.reads.Load())
	v.Faults = append(v.Faults, c.faults()...)
	if s.cluster != nil {
		v.Refused, v.Recovery = s.cluster.refused, s.cluster.recoveries()
	}
	if err := verify(ctx, b, s, v); err != nil {
		return nil, err
	}
	if err := s.current().Stop(); err != nil {
		v.Faults = append(v.Faults, err.Error())
	}
	v.Seconds = time.Since(start).Seconds()
	return v, nil
}
