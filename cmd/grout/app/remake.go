package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"grout/bus"
	"grout/schemas"
	"grout/store"
)

// remakeFacts looks whether the destination streams of a partition hold what was
// published to them. What is lost is put back into the outbox as far as it can be
// made again, and the relay goes on behind what the stream still shows: the same
// commands give the same facts, with the same ids (architecture §2.6).
func (n *node) remakeFacts(ctx context.Context, p *partition, v bus.Survey) error {
	var losses []bus.RelayLoss
	for _, dest := range []string{schemas.DestFacts, schemas.DestDeadLetters} {
		noted, err := p.store.Relayed(dest)
		if err != nil {
			return err
		}
		l, err := n.bus.SurveyRelay(ctx, dest, p.number, noted, p.store.Origin())
		if err != nil {
			return err
		}
		if l != nil {
			losses = append(losses, *l)
		}
	}
	if len(losses) == 0 {
		return nil
	}
	r := &remaker{cfg: n.cfg, bus: n.bus, own: p.store, number: p.number, survey: v, losses: losses, logger: n.logger.With("partition", p.number)}
	rows, err := r.run(ctx)
	if err != nil {
		return err
	}
	for i, l := range losses {
		detail := fmt.Sprintf("%s; what the relay had published behind %s is published again as far as it can be made again (%d rows, besides those that still waited)", l.Detail, l.Found.After, rows[i].made)
		if len(rows[i].gaps) > 0 {
			detail += "; cannot be made again: " + strings.Join(rows[i].gaps, ", ")
		}
		n.alarms.raise(n.logger, schemas.Alarm{Name: bus.RelayTailLost, Partition: p.number, Detail: detail})
		if err := p.store.Rewind(l.Dest, l.Found); err != nil {
			return err
		}
		p.remade += rows[i].made
	}
	return nil
}

// remaker makes outbox rows again: a scratch store applies the command stream and
// relays nothing, and what it then holds in its outbox is what was published.
type remaker struct {
	cfg    Config
	bus    *bus.Bus
	own    *store.Store
	number int
	survey bus.Survey
	losses []bus.RelayLoss
	logger *slog.Logger
}

// remade is what became of one loss.
type remade struct {
	made int64
	gaps []string
}

// stretch is a run of positions: behind from, up to to.
type stretch struct{ from, to schemas.Position }

const scratchPrefix = "scratch-"

func (r *remaker) run(ctx context.Context) (out []remade, err error) {
	left, _ := filepath.Glob(filepath.Join(r.cfg.DataDir, scratchPrefix+"*"))
	for _, dir := range left { // of a start that was killed
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp(r.cfg.DataDir, scratchPrefix)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	bases, err := r.bases(ctx)
	if err != nil {
		return nil, err
	}
	out = make([]remade, len(r.losses))
	have := make([][]stretch, len(r.losses))
	for i := range r.losses {
		part, err := r.waiting(&r.losses[i])
		if err != nil {
			return nil, err
		}
		have[i] = append(have[i], part)
	}
	for i, snap := range bases {
		done, err := r.replay(ctx, filepath.Join(dir, fmt.Sprintf("%d.db", i)), snap, func(s *store.Store) error {
			for i := range r.losses {
				part, err := r.remake(&r.losses[i], s, &out[i])
				if err != nil {
					return err
				}
				have[i] = append(have[i], part)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if done {
			break
		}
	}
	for i := range r.losses {
		if err := r.missing(&r.losses[i], have[i], &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// bases lists what a replay may begin with: the newest snapshot whose outbox still
// held all that is lost, or else an empty store (nil), and the snapshots from the
// oldest on.
func (r *remaker) bases(ctx context.Context) (list []*store.Snapshot, err error) {
	snapshots, err := store.Snapshots(snapshotDir(r.cfg.DataDir, r.number))
	if err != nil {
		r.logger.Warn("snapshots cannot all be read", "error", err)
	}
	list = append(list, nil)
	own := r.survey.Applied
	for _, snap := range slices.Backward(snapshots) {
		if snap.Epoch < own.Epoch || snap.Epoch == own.Epoch && snap.Position.Seq <= own.Seq { // not of another history
			list = append(list, &snap)
		}
	}
	for i := len(list) - 1; i > 0; i-- {
		covers, err := r.covers(ctx, list[i])
		if err != nil {
			r.logger.Warn("a snapshot cannot be used to make facts again", "snapshot", list[i].Path, "error", err)
			list = slices.Delete(list, i, i+1)
			continue
		}
		if covers {
			return list[i : i+1], nil
		}
	}
	return list, nil
}

// covers reports whether the relays of a snapshot had published nothing of what is
// lost.
func (r *remaker) covers(ctx context.Context, snap *store.Snapshot) (_ bool, err error) {
	if err := snap.Check(ctx); err != nil {
		return false, errors.Join(err, ctx.Err())
	}
	s, err := store.Open(snap.Path, store.Options{Partition: r.number, Partitions: r.cfg.Partitions, ReadOnly: true})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for i := range r.losses {
		st, err := s.Relayed(r.losses[i].Dest)
		if err != nil || st.After.Compare(r.losses[i].Found.After) > 0 {
			return false, err
		}
	}
	return true, nil
}

// replay makes a store of a snapshot, or an empty one, has it apply what the stream
// holds of what was applied, and hands it over. done says that it came to the end.
func (r *remaker) replay(ctx context.Context, path string, snap *store.Snapshot, use func(*store.Store) error) (done bool, err error) {
	from := "an empty store"
	if snap != nil {
		from = snap.Path
		if err := store.RestoreSnapshot(ctx, *snap, path); err != nil {
			return false, err
		}
	}
	s, err := store.Open(path, store.Options{Partition: r.number, Partitions: r.cfg.Partitions, FoldEvery: r.own.FoldEvery()})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, s.Close(), os.Remove(path)) }()
	to := r.survey.Applied
	if r.survey.Lost != "" {
		to = r.survey.Common // the rest is not in the stream
	}
	at := s.Applied()
	if to.Seq != 0 && (at.Epoch < to.Epoch || at.Epoch == to.Epoch && at.Seq < to.Seq) {
		_, err = replayTo(ctx, r.bus, s, r.number, to.Epoch, to.Seq, 0, r.logger)
	}
	var guard *bus.GuardError
	if err != nil && !errors.As(err, &guard) {
		return false, err
	}
	r.logger.Warn("facts that were lost are made again from the command stream", "from", from, "up_to_sequence", s.Applied().Seq, "stopped_by", err)
	return err == nil, use(s)
}

// remake puts back what one destination has lost and a store holds, and says which
// stretch that is.
func (r *remaker) remake(l *bus.RelayLoss, s *store.Store, out *remade) (part stretch, err error) {
	st, err := s.Relayed(l.Dest)
	if err != nil {
		return part, err
	}
	at := s.Applied()
	part = stretch{st.After, schemas.Position{Epoch: at.Epoch, Seq: at.Seq, Index: ^uint32(0), N: ^uint32(0)}}
	if at.Seq == 0 {
		part.to = part.from
	}
	made, unmade, err := r.own.PutBack(l.Dest, s, l.Found.After, l.Noted.After)
	out.made += made
	if unmade > 0 {
		out.gaps = append(out.gaps, fmt.Sprintf("%d rows whose events have expired", unmade))
	}
	return part, err
}

// waiting is the stretch of a loss whose rows were never deleted.
func (r *remaker) waiting(l *bus.RelayLoss) (stretch, error) {
	first, waits, err := r.own.FirstRow(l.Dest)
	if err != nil || !waits || first.Compare(l.Noted.After) > 0 {
		return stretch{l.Noted.After, l.Noted.After}, err
	}
	return stretch{first, l.Noted.After}, nil
}

// missing names what of a loss neither waited in the outbox nor was made.
func (r *remaker) missing(l *bus.RelayLoss, have []stretch, out *remade) error {
	slices.SortFunc(have, func(a, b stretch) int { return a.from.Compare(b.from) })
	at := l.Found.After
	for _, s := range have {
		end := s.from
		if end.Compare(l.Noted.After) > 0 {
			end = l.Noted.After
		}
		if at.Compare(end) < 0 {
			some, err := r.applied(at, end)
			if err != nil {
				return err
			}
			if some {
				out.gaps = append(out.gaps, fmt.Sprintf("facts between %s and %s", at, end))
			}
		}
		if s.to.Compare(at) > 0 {
			at = s.to
		}
	}
	return nil
}

// applied reports whether messages may have been applied between two positions, as far
// as the store remembers them.
func (r *remaker) applied(from, to schemas.Position) (bool, error) {
	if from.Index != ^uint32(0) {
		return true, nil
	}
	kept, err := r.own.Positions()
	if err != nil || len(kept) == 0 || kept[0].Epoch > from.Epoch || kept[0].Epoch == from.Epoch && kept[0].Seq > from.Seq {
		return true, err
	}
	return slices.ContainsFunc(kept, func(m schemas.AppliedMessage) bool {
		p := schemas.Position{Epoch: m.Epoch, Seq: m.Seq}
		return p.Epoch == from.Epoch && p.Seq > from.Seq && p.Compare(to) < 0 || p.Epoch > from.Epoch && p.Compare(to) < 0
	}), nil
}
