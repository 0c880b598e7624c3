package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// LeaseBucket is the JetStream KV bucket that says which worker owns the state on an
// external cluster, and leaseKey the key in it.
const (
	LeaseBucket = "MOZAIKS_LEASE"
	leaseKey    = "worker"
)

// ErrLeaseLost says that another worker owns the state now.
var ErrLeaseLost = errors.New("another worker has taken the lease")

// LeaseHolder is what is written in the lease.
type LeaseHolder struct {
	// Worker is the same for every process on one data directory, of which there is one
	// at a time; Process is one process.
	Worker  string    `json:"worker"`
	Process string    `json:"process"`
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Since   time.Time `json:"since"`
	TTL     string    `json:"ttl"`
	Renewed uint64    `json:"renewed"`
}

func (h LeaseHolder) String() string {
	return fmt.Sprintf("process %d on %s since %s", h.PID, h.Host, h.Since.UTC().Format(time.RFC3339))
}

// LeaseOptions say who wants the lease.
type LeaseOptions struct {
	Holder   LeaseHolder   // Worker, Host and PID
	TTL      time.Duration // 10 s
	Replicas int           // 3
	Logger   *slog.Logger
}

// Lease makes one worker the owner of the state. Its value is renewed by compare and
// set on its revision, so of two that want it one gets it. The owner counts its time from
// before it asked for a renewal, another one from when it first saw that renewal, so no
// clock is compared with another.
type Lease struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	opts LeaseOptions
	log  *slog.Logger

	mu       sync.Mutex
	value    LeaseHolder
	revision uint64
	until    time.Time // owned until then, when nothing renews it
}

// NewLease makes a lease that nobody holds yet. The connection stays the caller's.
func NewLease(nc *nats.Conn, o LeaseOptions) (*Lease, error) {
	if o.TTL == 0 {
		o.TTL = 10 * time.Second
	}
	if o.Replicas == 0 {
		o.Replicas = 3
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Holder.Process, o.Holder.TTL = nuid.Next(), o.TTL.String()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	return &Lease{nc: nc, js: js, opts: o, log: o.Logger}, nil
}

// keepBucket makes the bucket, or refuses one that could forget who holds the lease.
func (l *Lease) keepBucket(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := l.js.Stream(ctx, "KV_"+LeaseBucket)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = l.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: LeaseBucket, Description: "which grout owns the state", Replicas: l.opts.Replicas,
			Storage: jetstream.FileStorage, History: 1, MaxValueSize: 4096, MaxBytes: 1 << 20,
		})
		if err != nil {
			return fmt.Errorf("make the bucket %s: %w", LeaseBucket, err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up the bucket %s: %w", LeaseBucket, err)
	}
	if what := unsafeBucket(&stream.CachedInfo().Config, l.opts.Replicas); what != "" {
		return settingf("the bucket %s cannot be used: %s; grout made no change to it", LeaseBucket, what)
	}
	return nil
}

func unsafeBucket(have *jetstream.StreamConfig, replicas int) string {
	switch {
	case have.Storage != jetstream.FileStorage:
		return "its storage is not file"
	case have.Replicas < replicas:
		return fmt.Sprintf("it has %d replicas, not %d", have.Replicas, replicas)
	case have.MaxAge != 0:
		return "it has a max_age: the lease would end by the clock of a node"
	case len(have.Subjects) != 1 || have.Subjects[0] != "$KV."+LeaseBucket+".>" || have.MaxMsgsPerSubject != 1:
		return "it is not a bucket with a history of 1"
	case have.Mirror != nil || len(have.Sources) > 0 || have.RePublish != nil || have.SubjectTransform != nil:
		return "it takes from or gives to another stream"
	}
	return ""
}

// Take waits until the lease is this worker's. While it is another's, waiting is told who
// that is, each time it changes. The lease of an earlier process on the same data
// directory is taken at once: that process has ended.
func (l *Lease) Take(ctx context.Context, waiting func(LeaseHolder)) error {
	var seen uint64
	var first time.Time
	var told LeaseHolder
	for failures := 0; ; {
		wait := l.opts.TTL / 10
		have, revision, err := l.look(ctx)
		switch {
		case err != nil:
		case revision != seen || first.IsZero():
			seen, first = revision, time.Now()
			fallthrough
		default:
			ttl, bad := time.ParseDuration(have.TTL)
			if bad != nil {
				ttl = l.opts.TTL
			}
			// A tenth more: two machines do not count seconds alike.
			over := revision == 0 || have.Worker == "" || have.Worker == l.opts.Holder.Worker || time.Since(first) > ttl+ttl/10
			if over {
				taken, takeErr := l.write(ctx, revision)
				if taken {
					return nil
				}
				err = takeErr
				break
			}
			if waiting != nil && have.Process != told.Process {
				told = have
				waiting(have)
			}
		}
		var setting *SettingError
		if errors.As(err, &setting) || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if err != nil {
			if failures++; failures == 1 {
				l.log.Warn("the lease cannot be asked for; trying again", "error", err)
			}
			if err := pause(ctx, failures); err != nil {
				return err
			}
			continue
		}
		failures = 0
		if err := sleep(ctx, jitter(wait)); err != nil {
			return err
		}
	}
}

// look reads the lease from the leader of its stream.
func (l *Lease) look(ctx context.Context) (have LeaseHolder, revision uint64, err error) {
	if err := l.keepBucket(ctx); err != nil {
		return have, 0, err
	}
	b := Bus{nc: l.nc}
	m, err := b.askMessage(ctx, "KV_"+LeaseBucket, `{"last_by_subj":`+strconv.Quote(leaseSubject)+`}`)
	if err != nil || m == nil {
		return have, 0, err
	}
	if len(m.Data) > 0 && json.Unmarshal(m.Data, &have) != nil { // released, or not grout's
		have = LeaseHolder{}
	}
	return have, m.Seq, nil
}

const leaseSubject = "$KV." + LeaseBucket + "." + leaseKey

// write takes or renews the lease behind a revision. Without an error, false says that
// somebody else was faster.
func (l *Lease) write(ctx context.Context, revision uint64) (bool, error) {
	l.mu.Lock()
	next := l.value
	l.mu.Unlock()
	if next.Process == "" {
		next = l.opts.Holder
		next.Since = time.Now().UTC()
	}
	next.Renewed++
	text, err := json.Marshal(next)
	if err != nil {
		return false, err
	}
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, max(l.opts.TTL/4, 500*time.Millisecond))
	defer cancel()
	ack, err := l.js.Publish(ctx, leaseSubject, text, jetstream.WithExpectLastSequencePerSubject(revision),
		jetstream.WithExpectStream("KV_"+LeaseBucket), jetstream.WithRetryAttempts(0))
	if wrongLast(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("write the lease: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.value, l.revision, l.until = next, ack.Sequence, asked.Add(l.opts.TTL)
	return true, nil
}

func wrongLast(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// Run renews the lease until ctx ends. It ends with ErrLeaseLost when another worker has
// it. While the cluster cannot be asked the lease runs out, and may be renewed later: as
// long as it cannot be asked nobody else gets it.
func (l *Lease) Run(ctx context.Context) error {
	tick := time.NewTicker(l.opts.TTL / 5)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		l.mu.Lock()
		revision := l.revision
		l.mu.Unlock()
		ok, err := l.write(ctx, revision)
		if err == nil && !ok {
			err = l.adopt(ctx)
		}
		switch {
		case errors.Is(err, ErrLeaseLost):
			l.forget()
			return err
		case err != nil && ctx.Err() == nil && !failing:
			l.log.Warn("the lease cannot be renewed; trying again", "error", err)
			failing = true
		case err == nil && failing:
			l.log.Info("the lease is renewed again")
			failing = false
		}
	}
}

// adopt finds out whose the value is that another revision has: a renewal of this process
// may have been stored without an answer.
func (l *Lease) adopt(ctx context.Context) error {
	have, revision, err := l.look(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if have.Process != l.opts.Holder.Process {
		return fmt.Errorf("%w: %s", ErrLeaseLost, have)
	}
	l.revision = revision
	return nil
}

func (l *Lease) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.value, l.revision, l.until = LeaseHolder{}, 0, time.Time{}
}

// Held reports whether the lease is this worker's for certain.
func (l *Lease) Held() bool { return l.Left() > 0 }

// Left is how long the lease is this worker's for certain.
func (l *Lease) Left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.until)
}

// Revision is that of the lease's last renewal.
func (l *Lease) Revision() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.revision
}

// Release gives the lease back, so that nobody waits for its end.
func (l *Lease) Release(ctx context.Context) error {
	l.mu.Lock()
	revision := l.revision
	l.mu.Unlock()
	if revision == 0 {
		return nil
	}
	l.forget()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := l.js.Publish(ctx, leaseSubject, nil, jetstream.WithExpectLastSequencePerSubject(revision), jetstream.WithExpectStream("KV_"+LeaseBucket))
	if err != nil && !wrongLast(err) {
		return fmt.Errorf("give the lease back: %w", err)
	}
	return nil
}

// Holder says who has the lease; an empty Worker is nobody.
func (l *Lease) Holder(ctx context.Context) (LeaseHolder, error) {
	have, _, err := l.look(ctx)
	return have, err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
