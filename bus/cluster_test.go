package bus

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/integration/natsnode"
	"grout/schemas"
)

// startCluster starts three nodes on docs/examples/cluster.
func startCluster(t *testing.T, o natsnode.Options) *natsnode.Cluster {
	t.Helper()
	c, err := natsnode.Start(testContext(t), t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

func asGrout(c *natsnode.Cluster) ExternalOptions {
	return ExternalOptions{URLs: strings.Split(c.URLs(), ","), User: userGrout, Password: c.Passwords.Grout}
}

func connectExternal(t *testing.T, o ExternalOptions) *nats.Conn {
	t.Helper()
	nc := must1(ConnectExternal(o, t.Name()))(t)
	t.Cleanup(nc.Close)
	return nc
}

func clusterConfig() Config {
	cfg := smallConfig()
	cfg.External, cfg.Replicas, cfg.Confirm = true, 3, time.Second
	return cfg
}

// What must hold on any NATS holds on a cluster whose nodes are set as documented, also
// while they are started again one after the other.
func TestCluster(t *testing.T) {
	c := startCluster(t, natsnode.Options{})
	t.Run("suite", func(t *testing.T) {
		suiteOf(t, clusterConfig(), func(t *testing.T) *nats.Conn { return connectExternal(t, asGrout(c)) })
	})
	t.Run("unsafe settings", func(t *testing.T) { refusesUnsafe(t, c) })
	t.Run("lease", func(t *testing.T) { leases(t, c) })
	t.Run("a node less", func(t *testing.T) { survives(t, c) })
}

func refusesUnsafe(t *testing.T, c *natsnode.Cluster) {
	nc := connectExternal(t, asGrout(c))
	js := must1(jetstream.New(nc))(t)
	for what, change := range map[string]func(*jetstream.StreamConfig){
		"replicas": func(s *jetstream.StreamConfig) { s.Replicas = 1 },
		"storage":  func(s *jetstream.StreamConfig) { s.Storage = jetstream.MemoryStorage },
		"subjects": func(s *jetstream.StreamConfig) { s.Subjects = append(s.Subjects, "orders.>") },
		"number":   func(s *jetstream.StreamConfig) { s.MaxMsgs = 10 },
		"max_age":  func(s *jetstream.StreamConfig) { s.MaxAge = time.Hour },
	} {
		ctx := testContext(t)
		err := js.DeleteStream(ctx, schemas.StreamCommands)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Fatal(err)
		}
		b := &Bus{cfg: clusterConfig()}
		b.cfg.defaults()
		cfg := b.streams()[0]
		change(&cfg)
		must1(js.CreateStream(ctx, cfg))(t)
		_, err = Open(ctx, nc, clusterConfig())
		var setting *SettingError
		if !errors.As(err, &setting) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, js.DeleteStream(testContext(t), schemas.StreamCommands))
	few := clusterConfig()
	few.Replicas = 1
	var setting *SettingError
	if _, err := Open(testContext(t), nc, few); !errors.As(err, &setting) {
		t.Errorf("one replica on three nodes: %v", err)
	}
	openBus(t, nc, clusterConfig())
}

// Of many that want the lease one has it; it goes to another when it is given back, or
// when its holder says nothing for its time, and never to two.
func leases(t *testing.T, c *natsnode.Cluster) {
	const ttl = time.Second
	lease := func(worker string) *Lease {
		nc := connectExternal(t, asGrout(c))
		return must1(NewLease(nc, LeaseOptions{Holder: LeaseHolder{Worker: worker, Host: "h"}, TTL: ttl}))(t)
	}
	ctx := testContext(t)
	a, b := lease("a"), lease("b")
	must(t, a.Take(ctx, nil))
	if !a.Held() || b.Held() {
		t.Fatalf("held by a %t, b %t", a.Held(), b.Held())
	}
	stopA := run(t, a.Run)
	var owner LeaseHolder
	var once sync.Once
	seen := make(chan struct{})
	taken := make(chan error, 1)
	go func() {
		taken <- b.Take(ctx, func(h LeaseHolder) {
			once.Do(func() { owner = h; close(seen) })
		})
	}()
	<-seen
	if owner.Worker != "a" {
		t.Errorf("b waits for %+v", owner)
	}
	select {
	case <-taken:
		t.Fatal("b has the lease while a renews it")
	case <-time.After(2 * ttl):
	}
	must(t, stopA()) // it says nothing more, as if it were stopped
	began := time.Now()
	must(t, <-taken)
	if a.Held() {
		t.Error("two hold the lease")
	}
	t.Logf("taken over after %s", time.Since(began).Round(time.Millisecond))
	if err := a.Run(ctx); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("a goes on: %v", err)
	}
	// Another process on the same data directory need not wait, and one that is given it
	// back does not.
	again := lease("b")
	must(t, again.Take(ctx, func(LeaseHolder) { t.Error("it waits for itself") }))
	must(t, again.Release(ctx))
	began = time.Now()
	must(t, a.Take(ctx, nil))
	if took := time.Since(began); took > ttl {
		t.Errorf("a lease that was given back was taken after %s", took)
	}
	must(t, a.Release(ctx))
}

// A publisher, a source and a relay go on by themselves when nodes come and go.
func survives(t *testing.T, c *natsnode.Cluster) {
	b := openBus(t, connectExternal(t, asGrout(c)), clusterConfig())
	cfg := clusterConfig()
	cfg.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	reader := openBus(t, connectExternal(t, asGrout(c)), cfg)
	stopAnswers := answer(t, reader, 0)
	defer func() {
		if err := stopAnswers(); !errors.Is(err, context.Canceled) {
			t.Errorf("the reader ended with: %v", err)
		}
	}()
	r := must1(b.NewReplies("survivor"))(t)
	defer r.Close()
	p := b.NewPublisher(0, r, PublisherOptions{PublishTimeout: 2 * time.Second})
	run(t, p.Run)
	o := newMemoryOutbox()
	run(t, b.NewRelay(schemas.DestFacts, 7, o, RelayOptions{PublishTimeout: 2 * time.Second}).Run)
	before, _ := relayedFacts(t, b)
	for i, n := range c.Nodes {
		n.Kill()
		o.add(20)
		eventually(t, "a command is applied with a node less", func() bool {
			ctx, cancel := context.WithTimeout(testContext(t), 3*time.Second)
			defer cancel()
			pending, err := p.Submit(command("alive", "x"))
			if err != nil {
				return false
			}
			got, err := pending.Wait(ctx)
			return err == nil && string(got.Outcome) == "alive"
		})
		eventually(t, "the relay has caught up", o.caughtUp)
		if facts, _ := relayedFacts(t, b); len(facts) != len(before)+20*(i+1) {
			t.Fatalf("%d facts, want %d", len(facts), len(before)+20*(i+1))
		}
		must(t, n.Start())
		eventually(t, "the cluster is whole", func() bool { return whole(b) })
	}
}

func whole(b *Bus) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for _, name := range []string{schemas.StreamCommands, schemas.StreamFacts, schemas.StreamDeadLetters} {
		s, err := b.js.Stream(ctx, name)
		if err != nil || s.CachedInfo().Cluster == nil || len(s.CachedInfo().Cluster.Replicas) != 2 {
			return false
		}
		for _, p := range s.CachedInfo().Cluster.Replicas {
			if p.Offline || !p.Current {
				return false
			}
		}
	}
	return true
}

// The accounts of the examples are those of the embedded server.
func TestClusterAccounts(t *testing.T) {
	text := must1(os.ReadFile(filepath.Join("..", "docs", "examples", "cluster", "accounts.conf")))(t)
	if string(text) != ClusterAccounts(nil) {
		t.Error("docs/examples/cluster/accounts.conf is not what grout doctor --accounts prints")
	}
}

func TestCheckURL(t *testing.T) {
	for _, good := range []string{"nats://a:4222", "tls://10.0.0.1:4222", "nats://[::1]:4222", "nats://host"} {
		if err := CheckURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "a:4222", "http://a", "nats://u:p@a", "nats://token@a", "nats://", "nats://a/x", "nats://a?b", "nats://a#b", "nats://a\n", "ws://a"} {
		if err := CheckURL(bad); err == nil {
			t.Errorf("%q was taken", bad)
		} else if strings.Contains(err.Error(), ":p@") {
			t.Errorf("%q: the error shows the password: %v", bad, err)
		}
	}
}

func TestPassing(t *testing.T) {
	for err, want := range map[error]bool{
		nats.ErrNoServers: true, nats.ErrTimeout: true, context.DeadlineExceeded: true, ErrLeaseLost: true,
		&jetstream.APIError{Code: 503, ErrorCode: 10008}: true, &jetstream.APIError{Code: 400, ErrorCode: 10005}: true,
		&jetstream.APIError{Code: 400, ErrorCode: 10058}: false, errors.New("other"): false,
		settingf("unsafe"): false, guardf(StreamGap, "x"): false, nats.ErrAuthorization: false,
	} {
		if got := Passing(err); got != want {
			t.Errorf("%v: %t", err, got)
		}
	}
}
