package app

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"grout/handlers"
	"grout/handlers/entitlements"
	"grout/handlers/httpapi"
	"grout/schemas"
	"grout/store"
)

// entitled judges for httpapi by what is committed in the partition of an app.
type entitled supervisor

// partition gives the partition of an app once it shows everything that was answered,
// under the configuration of this start.
func (e *entitled) partition(app string) (*partition, error) {
	if n := e.current.Load(); n == nil || !n.settled.Load() {
		return nil, errNotWorking
	}
	return (*reads)(e).partitionOf(app)
}

// now is the instant that a command would be judged at. A clock that is wrong says
// nothing: then it is handler time.
func (e *entitled) now(p *partition) (now int64, believed bool) {
	now = e.clock.now().UnixNano()
	if e.clock.refuses(now, p.store.Now()) != "" {
		return p.store.Now(), false
	}
	return now, true
}

func (e *entitled) SyncedApps(ctx context.Context) ([]string, error) {
	n := e.current.Load()
	if n == nil {
		return nil, errNotWorking
	}
	all := []string{}
	for number := range n.cfg.Partitions {
		p, err := n.partition(number)
		if err != nil {
			return nil, err
		}
		apps, err := p.store.ManifestApps(ctx)
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", number, err)
		}
		all = append(all, apps...)
	}
	slices.Sort(all)
	return all, nil
}

func (e *entitled) Entitled(_ context.Context, who httpapi.Subject, asOf int64) ([]byte, error) {
	p, err := e.partition(who.App)
	if err != nil {
		return nil, err
	}
	now, _ := e.now(p)
	v, err := p.standing.View(&handlers.Question{AppID: who.App, UserID: who.User, TenantID: who.Tenant, AsOf: asOf}, now)
	if err != nil {
		return nil, err
	}
	effective := entitlements.Effective(v)
	return effective.AppendJSON(nil), nil
}

func (e *entitled) Versions(_ context.Context, q httpapi.VersionQuery) (page httpapi.VersionPage, err error) {
	p, err := e.partition(q.App)
	if err != nil {
		return page, err
	}
	err = p.store.Look(func(l *store.Look) error {
		list, err := l.ManifestHistory(q.App, q.Scope, store.Place(q.Before), q.Limit+1)
		if len(list) > q.Limit {
			page.More, list = true, list[:q.Limit]
		}
		for _, v := range list {
			page.Versions = append(page.Versions, httpapi.Version{
				Place: httpapi.VersionPlace(v.Place), Revision: v.Revision, At: v.At, Legacy: v.Legacy,
				CorrelationID: v.CorrelationID, Manifest: v.Content,
			})
		}
		return err
	})
	return page, err
}

func (e *entitled) Check(_ context.Context, app string, r *schemas.EntitlementCheck, asOf int64) (d schemas.Decision, final bool, err error) {
	p, err := e.partition(app)
	if err != nil {
		return d, false, err
	}
	now, believed := e.now(p)
	v, err := p.standing.View(&handlers.Question{AppID: app, UserID: r.UserID, TenantID: r.TenantID, Check: r, AsOf: asOf}, now)
	if err != nil {
		return d, false, err
	}
	d = entitlements.Check(v, r)
	if !r.Count || d.Allowed || !believed {
		return d, false, nil
	}
	final, err = p.standing.Quiet(app, &d)
	return d, final, err
}

func (e *entitled) JudgeSync(_ context.Context, m *schemas.Manifest) error {
	p, err := e.partition(m.AppID)
	if err != nil {
		return err
	}
	v, have, err := p.standing.Stored(m.AppID, m.Scope())
	if err != nil || v == nil {
		return err
	}
	_, _, refused := entitlements.DecideSync(&entitlements.Stored{Revision: v.Revision, Digest: have.Digest}, m)
	return refusalOf(refused)
}

func (e *entitled) JudgeReserve(_ context.Context, app string, r *schemas.BudgetReserve, newID bool) error {
	p, err := e.partition(app)
	if err != nil {
		return err
	}
	now, believed := e.now(p)
	if !believed {
		return nil // commands are refused for that
	}
	v, err := p.standing.View(&handlers.Question{AppID: app, UserID: r.UserID, TenantID: r.TenantID}, now)
	if err != nil {
		return err
	}
	// Looked up after the budgets: a hold that is not there now did not fill them.
	if !newID {
		if h, err := p.standing.Hold(app, r.ReservationID); err != nil || h != nil {
			return errors.Join(err, repeatedReservation(h, now))
		}
	}
	d := entitlements.Reserve(v, r)
	if d.Allowed {
		return nil
	}
	if quiet, err := p.standing.Quiet(app, &d); err != nil || !quiet {
		return err
	}
	return schemas.Errorf(d.Code, "%s", d.Detail)
}

func repeatedReservation(h *schemas.Hold, now int64) error {
	if h == nil {
		return nil
	}
	return refusalOf(entitlements.Repeated(h, now))
}

// JudgeHold refuses what a reservation is sure not to take. Before that command is
// applied others may close it, and nothing opens it again. What is in the log and not
// applied yet may make the reservation, or extend one that is over.
func (e *entitled) JudgeHold(_ context.Context, app string, change httpapi.HoldChange) error {
	p, err := e.partition(app)
	if err != nil {
		return err
	}
	now, believed := e.now(p)
	if !believed {
		return nil
	}
	waiting := p.publisher.Confirmed() > p.store.Checkpoint().Seq // before the look: what is applied by then shows
	h, err := p.standing.Hold(app, change.ID)
	if err != nil {
		return err
	}
	if waiting && (h == nil || h.State == schemas.HoldOpen) {
		return nil
	}
	if h == nil {
		return schemas.Errorf(schemas.CodeNotFound, "The app has no reservation with this id")
	}
	var refused *schemas.Error
	switch {
	case change.Settle != nil:
		_, _, refused = entitlements.Settle(*h, change.Settle, now)
	case change.Extend:
		_, refused = entitlements.Extend(*h, 1, now)
	case change.Release:
		_, _, refused = entitlements.Release(*h, now)
	}
	return refusalOf(refused)
}

func (e *entitled) Holds(_ context.Context, app string, from httpapi.HoldPlace, limit int) (page httpapi.HoldPage, err error) {
	p, err := e.partition(app)
	if err != nil {
		return page, err
	}
	now, _ := e.now(p)
	err = p.store.Look(func(l *store.Look) error {
		mark := store.HoldMark{ExpiresAt: from.ExpiresAt, Place: store.Place{Seq: from.Seq, Index: from.Index}}
		list, err := l.HoldPage(app, max(now, l.Now()), mark, limit+1)
		if len(list) > limit {
			page.More, list = true, list[:limit]
		}
		for _, h := range list {
			page.Holds = append(page.Holds, h.Hold)
			page.Next = httpapi.HoldPlace{ExpiresAt: h.ExpiresAt, Seq: h.Place.Seq, Index: h.Place.Index}
		}
		return err
	})
	return page, err
}

// refusalOf makes an error of a refusal, and none of none.
func refusalOf(refused *schemas.Error) error {
	if refused == nil {
		return nil
	}
	return refused
}
