package app

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"grout/bus"
	"grout/store"
)

// snapshotWait bounds how long a snapshot of a running server is waited for.
const snapshotWait = askedLimit + time.Minute

// running verifies beside the server that holds the data directory: it asks that
// server for a snapshot of now, and reads the command stream over NATS.
func (r *verifier) running(ctx context.Context, used *inUseError) ([]Verification, error) {
	if used.natsURL == "" {
		return nil, fmt.Errorf("%w; it can be verified while it runs only when it has started and listens on NATS (MOZAIKS_NATS_LISTEN)", used)
	}
	if r.cfg.External() {
		return r.runningExternal(ctx)
	}
	password, err := adminPassword(r.cfg)
	if err != nil {
		return nil, fmt.Errorf("the running server is asked as the operator: %w", err)
	}
	files := r.cfg.tlsFiles()
	secure, err := files.Beside()
	if err != nil {
		return nil, err
	}
	nc, err := bus.ConnectAdmin(used.natsURL, password, "grout-verify", secure...)
	if err != nil && files == (bus.TLSFiles{}) && strings.HasPrefix(used.natsURL, "tls://") {
		return nil, fmt.Errorf("%w; set MOZAIKS_NATS_TLS_CERT as the server has it", err)
	}
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	return r.attached(ctx, nc)
}

// attached verifies every partition over a connection to the running server.
func (r *verifier) attached(ctx context.Context, nc *nats.Conn) (list []Verification, err error) {
	if r.bus, err = bus.Attach(nc, busConfig(r.cfg, nil)); err != nil {
		return nil, err
	}
	for p := range r.cfg.Partitions {
		v := Verification{Partition: p}
		r.beside(ctx, &v)
		list = append(list, v)
		if ctx.Err() != nil {
			return list, ctx.Err()
		}
	}
	return list, nil
}

// adminPassword is the one that is set, or that an earlier start of the server has made.
func adminPassword(cfg Config) (string, error) {
	if len(cfg.AdminPasswords.Values) > 0 {
		return cfg.AdminPasswords.Values[0], nil
	}
	text, err := ReadSecret(SecretPath(cfg.DataDir, adminPasswordFile))
	if err != nil {
		return "", fmt.Errorf("set MOZAIKS_NATS_ADMIN_PASSWORD as the server has it: %w", err)
	}
	return parseSecret(text).Values[0], nil // ReadSecret has looked: there is one
}

// beside verifies a partition of the running server: what is compared is the snapshot
// that it has just taken. Once it is open it may be removed.
func (r *verifier) beside(ctx context.Context, v *Verification) {
	newest, older, err := r.ask(ctx, v)
	if err != nil {
		v.judge(err)
		return
	}
	v.Compared, v.SHA256 = newest.Path, newest.SHA256
	if err := newest.Check(ctx); err != nil {
		v.judge(err)
		return
	}
	r.compare(ctx, v, older)
}

// ask has the server take a snapshot and gives it, and those that are older.
func (r *verifier) ask(ctx context.Context, v *Verification) (newest store.Snapshot, older []store.Snapshot, err error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotWait)
	defer cancel()
	a, err := r.bus.AskSnapshot(ctx, v.Partition)
	if err != nil {
		return newest, nil, err
	}
	if a.Partitions != r.cfg.Partitions {
		return newest, nil, fmt.Errorf("the running server has %d partitions: say so with --partitions %d", a.Partitions, a.Partitions)
	}
	list, err := store.Snapshots(snapshotDir(r.cfg.DataDir, v.Partition))
	if err != nil {
		v.note("snapshots cannot all be read: %v", err)
	}
	for _, snap := range list {
		switch {
		case filepath.Base(snap.Path) == filepath.Base(a.File):
			newest = snap
		case snap.Epoch == a.Epoch && snap.Position.Seq < a.Position.Seq:
			older = append(older, snap)
		}
	}
	if newest.SHA256 != a.SHA256 || newest.Position != a.Position {
		return newest, nil, fmt.Errorf("the snapshot %s that the running server has taken is not in %s: is this its data directory?", a.File, snapshotDir(r.cfg.DataDir, v.Partition))
	}
	return newest, older, nil
}
