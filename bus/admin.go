package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// subjectSnapshot, with the number of a partition behind it, asks for a snapshot of
// the partition now. The account that users of the contract are in cannot reach it.
const subjectSnapshot = "grout.admin.snapshot."

// adminPending bounds the requests that wait to be looked at.
const adminPending = 64

// SnapshotAnswer says where a snapshot is that was asked for, or why there is none.
type SnapshotAnswer struct {
	File       string             `json:"file,omitempty"`
	Manifest   string             `json:"manifest,omitempty"`
	Epoch      uint32             `json:"epoch,omitempty"`
	Position   schemas.Checkpoint `json:"position"`
	SHA256     string             `json:"sha256,omitempty"`
	Partitions int                `json:"partitions"`
	Code       schemas.Code       `json:"code,omitempty"`
	Error      string             `json:"error,omitempty"`
}

// Refuse makes it the answer that there is no snapshot.
func (a *SnapshotAnswer) Refuse(err error) {
	var told *schemas.Error
	if errors.As(err, &told) {
		a.Code, a.Error = told.Code, told.Detail
	} else {
		a.Code, a.Error = schemas.CodeInternal, err.Error()
	}
}

// Admin answers the operator's requests.
type Admin struct {
	nc  *nats.Conn
	sub *nats.Subscription
}

// ServeAdmin listens for requests. take must not wait; it answers when the snapshot
// is there.
func (b *Bus) ServeAdmin(take func(partition int, answer func(SnapshotAnswer))) (*Admin, error) {
	sub, err := b.nc.Subscribe(subjectSnapshot+"*", func(m *nats.Msg) {
		// The answer goes to an inbox and nowhere else: a reply subject is under no
		// permission, and what grout says must not appear under a subject of its own.
		number, err := strconv.Atoi(strings.TrimPrefix(m.Subject, subjectSnapshot))
		if err != nil || number < 0 || !strings.HasPrefix(m.Reply, nats.InboxPrefix) {
			return
		}
		take(number, func(a SnapshotAnswer) {
			if text, err := json.Marshal(a); err == nil {
				_ = m.Respond(text)
			}
		})
	})
	if err == nil {
		err = sub.SetPendingLimits(adminPending, adminPending<<10)
	}
	if err == nil {
		err = b.nc.FlushTimeout(flushTimeout)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s*: %w", subjectSnapshot, err)
	}
	return &Admin{b.nc, sub}, nil
}

// Close stops listening.
func (a *Admin) Close() {
	if a.sub.Unsubscribe() == nil {
		_ = a.nc.FlushTimeout(apiTimeout) // whoever asks from here on is told that nobody listens
	}
}

// ConnectAdmin connects to a running grout as its operator, with what TLSFiles.Beside
// gives when the server has a certificate.
func ConnectAdmin(url, password, name string, more ...nats.Option) (*nats.Conn, error) {
	more = append(more, nats.Name(name), nats.UserInfo(userAdmin, password), nats.MaxReconnects(20), nats.Timeout(apiTimeout))
	nc, err := nats.Connect(url, more...)
	if errors.Is(err, nats.ErrAuthorization) {
		return nil, fmt.Errorf("connect to %s: the password of the user %s is not the server's: %w", url, userAdmin, err)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", url, err)
	}
	return nc, nil
}

// Attach uses the streams of a running grout as they are: for tools that look.
func Attach(nc *nats.Conn, cfg Config) (*Bus, error) {
	cfg.defaults()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	return &Bus{nc: nc, js: js, cfg: cfg}, nil
}

// AskSnapshot has a running grout take a snapshot of a partition, and waits for it.
func (b *Bus) AskSnapshot(ctx context.Context, partition int) (SnapshotAnswer, error) {
	var a SnapshotAnswer
	m, err := b.nc.RequestWithContext(ctx, subjectSnapshot+strconv.Itoa(partition), nil)
	if errors.Is(err, nats.ErrNoResponders) {
		return a, errors.New("the server takes no requests for snapshots: it is starting, or of another release")
	}
	if err != nil {
		return a, fmt.Errorf("ask for a snapshot: %w", err)
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return a, fmt.Errorf("ask for a snapshot: %w", err)
	}
	if a.Error != "" {
		return a, &schemas.Error{Code: a.Code, Detail: a.Error}
	}
	return a, nil
}

// GuardCommands compares the command stream with where a partition stands; a
// *GuardError says in what they differ.
func (b *Bus) GuardCommands(ctx context.Context, partition int, at schemas.Checkpoint) error {
	_, err := b.guardCommands(ctx, partition, at)
	return err
}

// LastCommand gives the sequence of a partition's last message; 0 when it has none.
func (b *Bus) LastCommand(ctx context.Context, partition int) (uint64, error) {
	m, err := b.getMessage(ctx, schemas.StreamCommands, 0, schemas.GroupSubject(partition))
	if err != nil || m == nil {
		return 0, err
	}
	return m.Seq, nil
}

// CommandStored tells when the command stream stored a message; the zero time when
// it has none of this sequence.
func (b *Bus) CommandStored(ctx context.Context, seq uint64) (time.Time, error) {
	m, err := b.getMessage(ctx, schemas.StreamCommands, seq, "")
	if err != nil || m == nil {
		return time.Time{}, err
	}
	return m.Time, nil
}
