package handlers

import (
	"slices"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

// engine holds what the handlers of entitlements share: nothing that state depends on.
type engine struct{ *library }

// books keeps the budgets that one command moves. They are brought to the period of
// handler time before anything is counted or decided, and at the end what follows from
// where they stand is told.
type books struct {
	*engine
	tx      *store.Tx
	command Command
	touched []*store.Budget // in the order in which they were
	is      map[*store.Budget]bool

	app      string // the last one asked about
	budgeted bool
	user     scoped
	tenant   scoped
	whole    *store.Budget // of the app
}

// scoped is the budget of the last user, or tenant, that was asked about.
type scoped struct {
	id     string
	known  bool
	budget *store.Budget
}

func (e *engine) open(tx *store.Tx, c Command) *books {
	return &books{engine: e, tx: tx, command: c}
}

// budget gives the budget of a scope in the period of handler time; nil when it has none.
func (b *books) budget(app string, scope schemas.Scope) (*store.Budget, error) {
	have, err := b.tx.Budget(app, scope)
	if err != nil || have == nil || current(have, b.command.Now) {
		return have, err
	}
	rules, err := b.rules(have)
	if err != nil {
		return nil, err
	}
	if rules.TokenBudget == nil { // nothing names it any more
		return nil, b.tx.DropBudget(app, scope)
	}
	return have, b.reset(have, rules)
}

// rules reads what the manifests say of a budget; the zero value when they say nothing.
func (b *books) rules(have *store.Budget) (entitlements.Budget, error) {
	if r, ok := have.Rules.(entitlements.Budget); ok {
		return r, nil
	}
	r, err := b.budgetOf(have.AppID, have.Scope)
	if err == nil {
		have.Rules = r
	}
	return r, err
}

// budgetOf gives the budget that the manifests of a scope name; the zero value when they
// name none.
func (b *books) budgetOf(app string, scope schemas.Scope) (entitlements.Budget, error) {
	layers, err := b.layers(txState{b.tx}, app, []schemas.Scope{scope}, store.Newest)
	if err != nil {
		return entitlements.Budget{}, err
	}
	for _, r := range entitlements.Budgets(layers) {
		if len(r.Allocations()) > 0 {
			return r, nil
		}
	}
	return entitlements.Budget{}, nil
}

// reset begins the period of handler time. Only what is named goes on in it.
func (b *books) reset(have *store.Budget, rules entitlements.Budget) error {
	next, err := periodOf(txState{b.tx}, have.AppID, rules, have, b.command.Now)
	if err != nil || next == nil {
		return err
	}
	tell := b.command.Now >= have.End
	before := *have
	have.Become(next)
	b.touch(have)
	if d := resetFact(&before, have); tell && d != nil {
		b.emit(schemas.EntitlementReset.Name, have.AppID, budgetSubject(have.Scope, have.AppID), d.AppendJSON)
	}
	return b.tx.Keep(have)
}

// resetFact tells of a new period; nil when there was nothing to reset.
func resetFact(before, after *store.Budget) *schemas.PeriodResetData {
	var old []schemas.Counter
	for _, c := range after.Counters {
		if was := before.Counter(c.Allocation); was != nil {
			old = append(old, *was)
		}
	}
	if len(old) != len(after.Counters) || !(&store.Budget{Counters: old}).Worth() {
		return nil
	}
	return schemas.ResetFact(after.AppID, after.Scope, old, slices.Clone(after.Counters))
}

// forget lets the budgets be asked for again.
func (b *books) forget() { b.app, b.whole, b.user, b.tenant = "", nil, scoped{}, scoped{} }

func (b *books) touch(x *store.Budget) {
	if !b.is[x] {
		if b.is == nil {
			b.is = map[*store.Budget]bool{}
		}
		b.is[x] = true
		b.touched = append(b.touched, x)
	}
}

// each calls do with the budgets of those that somebody stands in.
func (b *books) each(app, tenant, user string, do func(*store.Budget)) error {
	if !b.tx.Budgeted(app) {
		return nil
	}
	for _, scope := range schemas.ScopesOf(tenant, user) {
		x, err := b.budget(app, scope)
		if err != nil {
			return err
		}
		if x != nil {
			do(x)
		}
	}
	return nil
}

// prepare brings the budgets that usage is going to move to the period of now. It comes
// before the usage is recorded: sums that are made anew know nothing of it.
func (b *books) prepare(app, tenant, user string) (err error) {
	if b.app != app || app == "" {
		b.forget()
		b.app, b.budgeted = app, b.tx.Budgeted(app)
		if !b.budgeted {
			return nil
		}
		whole, err := b.budget(app, schemas.Scope{Kind: schemas.ScopeApp})
		if err != nil {
			return err
		}
		b.whole = whole
	}
	if !b.budgeted {
		return nil
	}
	for _, s := range [...]struct {
		of   *scoped
		kind schemas.ScopeKind
		id   string
	}{{&b.tenant, schemas.ScopeTenant, tenant}, {&b.user, schemas.ScopeUser, user}} {
		if s.of.known && s.of.id == s.id {
			continue
		}
		var x *store.Budget
		if s.id != "" {
			if x, err = b.budget(app, schemas.Scope{Kind: s.kind, ID: s.id}); err != nil {
				return err
			}
		}
		*s.of = scoped{s.id, true, x}
	}
	return nil
}

// count adds usage to the budgets that prepare has found.
func (b *books) count(hour uint32, model string, sums *schemas.UsageSums) {
	if !b.budgeted {
		return
	}
	t := schemas.Tokens{Total: sums.TotalTokens, Input: sums.InputTokens, Output: sums.OutputTokens}
	for _, x := range [...]*store.Budget{b.user.budget, b.tenant.budget, b.whole} {
		if x != nil && x.Count(hour, model, t) {
			b.touch(x)
		}
	}
}

// recorded counts an event that was recorded behind prepare.
func (b *books) recorded(e *schemas.UsageEvent) {
	if b.budgeted {
		counted := schemas.CountedOf(e)
		b.count(uint32(max(e.Timestamp, 0)/hourNanos), e.Model, &counted)
	}
}

// close tells what follows from where the budgets stand that were touched, and keeps them.
func (b *books) close() error {
	for _, x := range b.touched {
		if len(x.Counters) == 0 { // dropped since
			continue
		}
		rules, err := b.rules(x)
		if err != nil {
			return err
		}
		for i := range x.Counters {
			b.cross(x, &x.Counters[i], rules)
		}
		if err := b.tx.Keep(x); err != nil {
			return err
		}
	}
	return nil
}

// cross tells thresholds that a counter has reached or left (contract §5.2.13).
func (b *books) cross(x *store.Budget, c *schemas.Counter, rules entitlements.Budget) {
	if rules.TokenBudget == nil {
		return
	}
	t, ok := rules.Terms(c.Allocation)
	if !ok {
		return
	}
	next, list := t.Crossings(*c)
	*c = next
	for _, crossing := range list {
		kind := schemas.BudgetReached.Name
		switch {
		case crossing.Exceeded:
			kind = schemas.BudgetExceeded.Name
		case crossing.Cleared:
			kind = schemas.BudgetCleared.Name
		}
		d := schemas.BudgetFact(x.AppID, x.Scope, &next, crossing.Percent, t.Limit, t.Effective(next.Carry), t.Enforcement)
		b.emit(kind, x.AppID, budgetSubject(x.Scope, x.AppID), d.AppendJSON)
	}
}

func (b *books) emit(kind, app, subject string, data func([]byte) []byte) {
	b.tx.Emit(b.command.Index, kind, app, subject, data)
}

func budgetSubject(s schemas.Scope, app string) string { return s.Kind.String() + "/" + s.IDIn(app) }
