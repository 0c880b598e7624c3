package bus

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"grout/integration/natsnode"
	"grout/schemas"
)

func TestMain(m *testing.M) {
	natsnode.Launch() // when this process is to be a node of a cluster
	// A server that ends while a source is being set up (MOZAIKS_IN has one) leaves a
	// goroutine behind that waits 30 s for the answer.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3"))
}

const patience = 20 * time.Second

// eventually polls until ok says so, within the one time limit of these tests.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-limit.C:
			t.Fatalf("waited %s for: %s", patience, what)
		case <-tick.C:
		}
	}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must1[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

const (
	consumerPassword = "consumer-secret"
	adminPassword    = "admin-secret"
	platformPassword = "platform-secret"
)

func testDoors() Doors {
	return Doors{
		Consumer: Door{Passwords: []string{"old", consumerPassword}},
		Admin:    Door{Passwords: []string{adminPassword}},
		Platform: Door{Passwords: []string{platformPassword}},
	}
}

func startServer(t testing.TB, dir, listen string) *Server {
	t.Helper()
	s, err := StartServer(ServerOptions{
		Dir: dir, Listen: listen, Doors: testDoors(), Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) { w.t.Logf("%s", b); return len(b), nil }

func connect(t testing.TB, s *Server) *nats.Conn {
	t.Helper()
	nc, err := s.Connect(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func connectAs(t testing.TB, s *Server, user, password string, more ...nats.Option) *nats.Conn {
	t.Helper()
	more = append(more, nats.UserInfo(user, password), nats.MaxReconnects(0), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	nc, err := nats.Connect(s.ClientURL(), more...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func smallConfig() Config {
	return Config{CommandBytes: 256 << 20, FactBytes: 256 << 20, DeadLetterBytes: 64 << 20}
}

func openBus(t testing.TB, nc *nats.Conn, cfg Config) *Bus {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b, err := Open(ctx, nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newBus(t testing.TB) *Bus {
	t.Helper()
	return openBus(t, connect(t, startServer(t, t.TempDir(), "")), smallConfig())
}

func command(id string, payload string) schemas.CommandFrame {
	return schemas.CommandFrame{Kind: "usage.ingest", ID: id, Source: "//test", Time: 1, Accepted: 2, Payload: []byte(payload)}
}

// run starts a part's Run and returns what ends it and waits for it.
func run(t testing.TB, f func(context.Context) error) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var err error
	ended := false
	stop = func() error {
		cancel()
		if !ended {
			err, ended = <-done, true
		}
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

// answer replies to every group of a partition, with "<id>" for each command.
func answer(t testing.TB, b *Bus, partition int) (stop func() error) {
	t.Helper()
	return run(t, func(ctx context.Context) error {
		s := b.NewSource(partition)
		if _, err := s.Open(ctx, schemas.Checkpoint{}); err != nil {
			return err
		}
		defer s.Close()
		for {
			m, err := s.Next(ctx)
			if err != nil {
				return err
			}
			g, err := DecodeGroupMessage(m)
			if err != nil {
				return fmt.Errorf("decode %d: %w", m.Seq, err)
			}
			out := make([][]byte, len(g.Commands))
			for i, c := range g.Commands {
				if c.ID != "dead" {
					out[i] = []byte(c.ID)
				}
			}
			if err := b.Reply(g.ReplyTo, g.ID, out); err != nil {
				return err
			}
		}
	})
}
