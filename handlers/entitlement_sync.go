package handlers

import (
	"errors"
	"fmt"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

// syncManifest gives a scope of the app a manifest (contract §5.2.2).
func (e *engine) syncManifest(tx *store.Tx, c Command, s *schemas.ManifestSync) (Result, error) {
	m := s.Manifest
	if c.AppID == "" || m.AppID != c.AppID {
		return Result{}, fmt.Errorf("the manifest is of app %q", m.AppID)
	}
	v, err := e.store(tx, c, m, false)
	if refused := new(schemas.Error); errors.As(err, &refused) {
		return refuseAt(tx, c, budgetSubject(m.Scope(), m.AppID), refused), nil
	}
	if err != nil {
		return Result{}, err
	}
	return answered(schemas.AppendSynced(nil, m, v.previous, v.revision, v.at)), nil
}

// syncSubscription gives a user the manifest that a subscription stands for (contract §5.1).
func (e *engine) syncSubscription(tx *store.Tx, c Command, s *schemas.SubscriptionSync) (Result, error) {
	sub := s.Subscription
	if c.AppID == "" || sub.AppID != "" && sub.AppID != c.AppID {
		return Result{}, fmt.Errorf("the subscription is of app %q", sub.AppID)
	}
	catalogue, err := e.catalogue(txState{tx}, store.Newest)
	if u := new(unreadable); errors.As(err, &u) {
		return refuseAt(tx, c, "user/"+sub.UserID, schemas.Errorf(schemas.CodeUnavailable, "%v", u)), nil
	}
	if err != nil {
		return Result{}, err
	}
	m, fault := sub.ManifestOf(c.AppID, catalogue)
	if fault != nil {
		return refuseAt(tx, c, "user/"+sub.UserID, fault), nil
	}
	_, err = e.store(tx, c, m, true)
	if refused := new(schemas.Error); errors.As(err, &refused) {
		return refuseAt(tx, c, "user/"+sub.UserID, refused), nil
	}
	if err != nil {
		return Result{}, err
	}
	return answered(schemas.AppendSubscriptionSynced(nil, sub)), nil
}

// synced is a version that a manifest has in the store.
type synced struct {
	revision int64
	at       int64
	previous schemas.Tier // of the version before it; empty for the first
}

// store enters a manifest as the newest of its scope, unless it is the one that stands
// there. A *schemas.Error refuses it.
func (e *engine) store(tx *store.Tx, c Command, m *schemas.Manifest, legacy bool) (synced, error) {
	scope := m.Scope()
	have, err := tx.Manifest(c.AppID, scope)
	if err != nil {
		return synced{}, err
	}
	var stored *entitlements.Stored
	var before *schemas.Manifest
	if have != nil {
		if before, err = e.manifest(have); err != nil {
			return synced{}, err
		}
		stored = &entitlements.Stored{Revision: have.Revision, Digest: before.Digest}
	}
	revision, again, refused := entitlements.DecideSync(stored, m)
	if refused != nil {
		return synced{}, refused
	}
	if again {
		previous, err := e.tierBefore(tx, have)
		return synced{have.Revision, have.At, previous}, err
	}
	books := e.open(tx, c)
	if _, err := books.budget(c.AppID, scope); err != nil { // what is carried over follows from the old one
		return synced{}, err
	}
	v := &store.ManifestVersion{
		AppID: c.AppID, Scope: scope, Revision: revision, Legacy: legacy, Source: m.Source,
		CorrelationID: c.CorrelationID, Content: m.Content,
	}
	if m.CorrelationID != "" {
		v.CorrelationID = m.CorrelationID
	}
	if err := tx.PutManifest(c.Index, v); err != nil {
		return synced{}, err
	}
	books.synced(m, before, v)
	if err := books.reconcile(c.AppID, scope, false); err != nil {
		return synced{}, err
	}
	out := synced{revision: revision, at: v.At}
	if before != nil {
		out.previous = before.Plan.Tier
	}
	return out, books.close()
}

// tierBefore is the tier of the version before one.
func (e *engine) tierBefore(tx *store.Tx, v *store.ManifestVersion) (schemas.Tier, error) {
	older, err := tx.ManifestBefore(v)
	if err != nil || older == nil {
		return "", err
	}
	m, err := e.manifest(older)
	if err != nil {
		return "", err
	}
	return m.Plan.Tier, nil
}

// synced tells of a new version.
func (b *books) synced(m, before *schemas.Manifest, v *store.ManifestVersion) {
	var tier schemas.Tier
	var plan *schemas.Plan
	if before != nil {
		tier, plan = before.Plan.Tier, &before.Plan
	}
	subject := budgetSubject(v.Scope, v.AppID)
	b.emit(schemas.EntitlementSynced.Name, v.AppID, subject, schemas.SyncedFact(m, tier, v.Revision, v.At).AppendJSON)
	if d := schemas.SubscriptionFact(m, plan); d != nil {
		b.emit(schemas.SubscriptionChanged.Name, v.AppID, subject, d.AppendJSON)
	}
}

// reconcile gives a scope the counters that its manifests name now. What is counted
// stays, to the end of the period also when it is not named any more; what is new is counted from the usage that there is, and holds what open holds
// hold of it. What is pushed is taken in when the manifest that names the budget is the
// one that has come: the app's own, or the one below it (contract §5.2.6).
func (b *books) reconcile(app string, scope schemas.Scope, below bool) error {
	rules, err := b.budgetOf(app, scope)
	if err != nil {
		return err
	}
	b.forget()
	have, err := b.tx.Budget(app, scope)
	if err != nil {
		return err
	}
	if have != nil {
		have.Rules = rules
	}
	if rules.TokenBudget == nil {
		return nil
	}
	next, err := periodOf(txState{b.tx}, app, rules, have, b.command.Now)
	switch {
	case err != nil:
		return err
	case have == nil:
		have = next
	case next != nil:
		have.Become(next)
	}
	for i, c := range have.Counters {
		if t, ok := rules.Terms(c.Allocation); ok && rules.Below == below {
			have.Counters[i] = entitlements.Import(c, t.Pushed)
		}
	}
	have.Rules = rules
	if err := b.tx.PutBudget(have); err != nil {
		return err
	}
	b.touch(have)
	return b.tx.Reserve(have)
}

// answered is the outcome of a command that is answered with JSON.
func answered(body []byte) Result {
	return Result{Outcome: (&schemas.CommandOutcome{Body: body}).Append(nil)}
}

// refuseAt gives a command that a rule refuses its one outcome (contract §8). The
// subject is what it was about.
func refuseAt(tx *store.Tx, c Command, subject string, why *schemas.Error) Result {
	data := schemas.CommandRefusedData{Code: why.Code, Detail: why.Detail}
	tx.Emit(c.Index, schemas.CommandRefused.Name, c.AppID, subject, data.AppendJSON)
	return Result{Outcome: (&schemas.CommandOutcome{Code: why.Code, Detail: why.Detail}).Append(nil)}
}
