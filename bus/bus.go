package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// Config says how grout's streams are kept. Zero values take the defaults.
type Config struct {
	// Dir is where the embedded server keeps its streams; empty for an external one.
	Dir        string
	Partitions int // 1
	Replicas   int // 1
	// CommandBytes, FactBytes and DeadLetterBytes bound the streams: 8, 8 and 1 GiB.
	CommandBytes, FactBytes, DeadLetterBytes int64
	// InBytes bounds MOZAIKS_IN: 1 GiB.
	InBytes int64
	// KeepLimits leaves streams that are there with the limits that they have: for
	// tools, which need not know what the server was told.
	KeepLimits bool
	// FactAge is 7 days, DeadLetterAge 30 days.
	FactAge, DeadLetterAge time.Duration
	// DuplicateWindow is the smallest that the server takes; nothing of grout's
	// depends on it.
	DuplicateWindow time.Duration
	// Fault is called at named points; nil outside of fault tests. The points are
	// "publish.before", "publish.acked", "relay.batch", "relay.committed" and
	// "epoch.published".
	Fault func(point string)
	// External says that the server is a cluster of somebody else's: it comes back by
	// itself, so silence ends nothing, and its word of a loss is asked for again.
	External bool
	Confirm  time.Duration // for so long: 10 s
	Logger   *slog.Logger  // nil drops what is told
}

// heartbeat is how often a pull must show that it lives, and silence how long it need not.
func (b *Bus) heartbeat() time.Duration {
	if b.cfg.External {
		return externalHeartbeat
	}
	return pullHeartbeat
}

func (b *Bus) silence() time.Duration { return 2*b.heartbeat() + min(2*time.Second, b.heartbeat()) }

// externalHeartbeat is short: the node that a reader's place is on may be gone at any time.
const externalHeartbeat = time.Second

func (c *Config) defaults() {
	def := func(v *int64, std int64) {
		if *v == 0 {
			*v = std
		}
	}
	c.Partitions, c.Replicas = max(c.Partitions, 1), max(c.Replicas, 1)
	def(&c.CommandBytes, 8<<30)
	def(&c.FactBytes, 8<<30)
	def(&c.DeadLetterBytes, 1<<30)
	def(&c.InBytes, 1<<30)
	def((*int64)(&c.FactAge), int64(7*24*time.Hour))
	def((*int64)(&c.DeadLetterAge), int64(30*24*time.Hour))
	def((*int64)(&c.DuplicateWindow), int64(100*time.Millisecond))
	def((*int64)(&c.Confirm), int64(stdConfirm))
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Fault == nil {
		c.Fault = func(string) {}
	}
}

// headerRoom is what a message may have beside its data.
const headerRoom = 64 << 10

// Bus is grout's use of one NATS connection. The connection stays the caller's.
type Bus struct {
	nc  *nats.Conn
	js  jetstream.JetStream
	cfg Config

	acked  ackedNote
	noting sync.Mutex

	attached bool // to a server that is another process's
}

// Open creates the streams or brings their limits up to date. A stream that could
// lose or forge what grout keeps in it is refused by name.
func Open(ctx context.Context, nc *nats.Conn, cfg Config) (*Bus, error) {
	cfg.defaults()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	b := &Bus{nc: nc, js: js, cfg: cfg}
	if cfg.External {
		if err := checkExternal(nc, cfg.Replicas); err != nil {
			return nil, err
		}
	}
	for _, want := range b.streams() {
		if err := b.keepStream(ctx, want); err != nil {
			return nil, err
		}
	}
	return b, b.lookAcked(ctx, js)
}

// streamOf names the destination stream of a relay.
func streamOf(dest string) string {
	if dest == schemas.DestDeadLetters {
		return schemas.StreamDeadLetters
	}
	return schemas.StreamFacts
}

func (b *Bus) streams() []jetstream.StreamConfig {
	std := jetstream.StreamConfig{
		Storage: jetstream.FileStorage, Compression: jetstream.S2Compression,
		Retention: jetstream.LimitsPolicy, Replicas: b.cfg.Replicas,
		MaxMsgSize: schemas.MaxLetterBytes + headerRoom, Duplicates: b.cfg.DuplicateWindow,
		AllowDirect: true, DenyDelete: true, MaxMsgs: -1, MaxMsgsPerSubject: -1, MaxConsumers: -1,
	}
	if b.cfg.External {
		// A copy that is started again may fail for good at a block that it cannot unpack.
		std.Compression = jetstream.NoCompression
	}
	commands := std
	commands.Name, commands.Subjects = schemas.StreamCommands, []string{schemas.SubjectsGroups}
	commands.Discard, commands.MaxBytes = jetstream.DiscardNew, b.cfg.CommandBytes

	facts := std
	facts.Name = schemas.StreamFacts
	facts.Subjects = []string{schemas.SubjectsFacts, schemas.MarkerSubjects(schemas.DestFacts)}
	facts.Discard, facts.MaxBytes, facts.MaxAge = jetstream.DiscardOld, b.cfg.FactBytes, b.cfg.FactAge
	facts.AllowAtomicPublish, facts.AllowRollup = true, true
	// No ConsumerLimits: with a max_ack_pending the server refuses every consumer
	// without acknowledgements, ordered ones included. The gate bounds them.
	facts.MaxConsumers = maxStreamConsumers
	facts.MaxMsgSize = publicSize // MOZAIKS_IN may not take less than its source holds

	dead := facts
	dead.Name = schemas.StreamDeadLetters
	dead.Subjects = []string{schemas.SubjectsDead, schemas.MarkerSubjects(schemas.DestDeadLetters)}
	dead.MaxBytes, dead.MaxAge = b.cfg.DeadLetterBytes, b.cfg.DeadLetterAge
	dead.MaxMsgSize = maxPayload // a letter holds a whole group in base64
	return []jetstream.StreamConfig{commands, facts, dead, b.inStream(std)}
}

func (b *Bus) keepStream(ctx context.Context, want jetstream.StreamConfig) error {
	stream, err := b.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if err := b.unreadable(want.Name); err != nil {
			return err
		}
		if _, err = b.js.CreateStream(ctx, want); err != nil {
			return fmt.Errorf("create stream %s: %w", want.Name, err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", want.Name, err)
	}
	have := stream.CachedInfo().Config
	if what := unsafeSetting(&have, &want); what != "" {
		return settingf("stream %s cannot be used: %s; grout made no change to it", want.Name, what)
	}
	want.Metadata = have.Metadata
	want.MaxConsumers = have.MaxConsumers // the server never changes it
	if b.cfg.KeepLimits || sameLimits(&have, &want) {
		return nil
	}
	if _, err := b.js.UpdateStream(ctx, want); err != nil {
		return fmt.Errorf("update stream %s: %w", want.Name, err)
	}
	return nil
}

// unreadable tells a stream that is not there from one whose files are there and
// which the server passes over: making it anew would throw away what it holds.
func (b *Bus) unreadable(name string) error {
	if b.cfg.Dir == "" {
		return nil
	}
	dir := filepath.Join(streamsDir(b.cfg.Dir), name)
	blocks, err := filepath.Glob(filepath.Join(dir, "msgs", "*.blk"))
	if err != nil || len(blocks) == 0 {
		return err
	}
	return guardf(StreamUnreadable, "the files of stream %s are in %s, and the server does not take them as a stream (its log says why); put back the files of its settings, or move the directory away to begin anew", name, dir)
}

// unsafeSetting names the first setting with which a stream could lose, change or
// forge messages.
func unsafeSetting(have, want *jetstream.StreamConfig) string {
	subjects := func(list []string) []string { return slices.Sorted(slices.Values(list)) }
	switch {
	case have.Storage != jetstream.FileStorage:
		return "its storage is not file"
	case have.Replicas < want.Replicas:
		return fmt.Sprintf("it has %d replicas, not %d: what one node has acknowledged could be lost with it (nats stream edit %s --replicas %d)", have.Replicas, want.Replicas, want.Name, want.Replicas)
	case have.PersistMode != jetstream.DefaultPersistMode:
		return "its persist_mode is async, which loses acknowledged messages"
	case !slices.Equal(subjects(have.Subjects), subjects(want.Subjects)):
		return fmt.Sprintf("its subjects are %q, not %q", have.Subjects, want.Subjects)
	case have.Retention != jetstream.LimitsPolicy:
		return "its retention is not limits"
	case have.Discard != want.Discard || have.DiscardNewPerSubject:
		return fmt.Sprintf("its discard policy is %s, not %s", have.Discard, want.Discard)
	case have.MaxAge != 0 && want.MaxAge == 0:
		return "it has a max_age"
	case have.MaxMsgs > 0 || have.MaxMsgsPerSubject > 0:
		return "it limits its messages by number"
	case have.NoAck:
		return "it does not acknowledge"
	case have.Sealed:
		return "it is sealed"
	case have.DenyPurge:
		return "deny_purge is set, so it could never be trimmed"
	case have.Mirror != nil || !sameSources(have.Sources, want.Sources):
		return "it takes messages from another stream"
	case have.RePublish != nil || want.SubjectTransform == nil && have.SubjectTransform != nil:
		return "it republishes or renames its messages"
	case have.AllowRollup && !want.AllowRollup:
		return "it allows rollups"
	case have.AllowAtomicPublish && !want.AllowAtomicPublish:
		return "it allows atomic batches"
	case have.AllowMsgTTL || have.AllowMsgCounter || have.AllowMsgSchedules || have.AllowBatchPublish:
		return "it allows message TTLs, counters, schedules or fast batches"
	}
	return ""
}

func sameLimits(have, want *jetstream.StreamConfig) bool {
	return have.MaxBytes == want.MaxBytes && have.MaxAge == want.MaxAge && have.Replicas == want.Replicas &&
		have.MaxMsgSize == want.MaxMsgSize && have.Duplicates == want.Duplicates && have.Compression == want.Compression &&
		have.AllowDirect == want.AllowDirect && have.DenyDelete == want.DenyDelete && have.AllowRollup == want.AllowRollup &&
		have.AllowAtomicPublish == want.AllowAtomicPublish &&
		have.ConsumerLimits == want.ConsumerLimits && sameTransform(have.SubjectTransform, want.SubjectTransform)
}
