package store

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// Budget is how the allocations of a scope's token budget stand in one period. They
// are counted in the transaction that records the usage (contract §5.2.6). Form 1
// (`counters`: app, scope): form, period, start, end, latest, counters × (allocation,
// used, imported, reserved, carry, told).
type Budget struct {
	AppID      string
	Scope      schemas.Scope
	Period     schemas.Period
	Start, End int64  // nanoseconds since 1970 UTC; End 0: has none
	Latest     uint32 // no usage of the scope at or after Start lies in a later hour
	// Counters are those of this period, by allocation; there is at least one. What no
	// manifest names any more stays until the period is over, and is counted, too: what
	// was pushed, carried and told holds for all of it.
	Counters []schemas.Counter

	// Rules are what whoever counts has read for it; they are kept as long as the budget
	// is looked at in one transaction.
	Rules any

	changed bool
	due     int64 // instant of its row among what is due; 0: none
	total   int   // place of these allocations; -1: not there
	input   int
	output  int
	models  bool // has allocations of models
}

// Counter gives the counter of an allocation; nil when there is none.
func (b *Budget) Counter(allocation string) *schemas.Counter {
	if i := b.find(allocation); i >= 0 {
		return &b.Counters[i]
	}
	return nil
}

func (b *Budget) find(allocation string) int {
	i, ok := slices.BinarySearchFunc(b.Counters, allocation, func(c schemas.Counter, a string) int { return strings.Compare(c.Allocation, a) })
	if !ok {
		return -1
	}
	return i
}

// Settle puts the counters in order and finds those that every usage moves.
func (b *Budget) Settle() {
	slices.SortFunc(b.Counters, func(x, y schemas.Counter) int { return strings.Compare(x.Allocation, y.Allocation) })
	for i := range b.Counters {
		c := &b.Counters[i]
		c.Period, c.Start, c.End = b.Period, b.Start, b.End
	}
	b.models = slices.ContainsFunc(b.Counters, func(c schemas.Counter) bool {
		_, ok := schemas.ModelOf(c.Allocation)
		return ok
	})
	b.total, b.input, b.output = b.find(schemas.AllocationTotal), b.find(schemas.AllocationInput), b.find(schemas.AllocationOutput)
}

// touches calls do with the counters that usage of a model moves.
func (b *Budget) touches(model string, t schemas.Tokens, do func(c *schemas.Counter, tokens int64)) {
	for _, f := range [...]struct {
		place  int
		tokens int64
	}{{b.total, t.Total}, {b.input, t.Input}, {b.output, t.Output}} {
		if f.place >= 0 {
			do(&b.Counters[f.place], f.tokens)
		}
	}
	if !b.models {
		return
	}
	if c := b.Counter(schemas.ModelAllocation(model)); c != nil {
		do(c, t.Total)
	}
}

// inside reports whether an hour lies in the period.
func (b *Budget) inside(hour uint32) bool {
	at := int64(hour) * hourSpan
	return at >= b.Start && (b.End == 0 || at < b.End)
}

// Become begins another period, or the same one with other counters.
func (b *Budget) Become(next *Budget) {
	b.Period, b.Start, b.End, b.Latest, b.Counters = next.Period, next.Start, next.End, next.Latest, next.Counters
	b.Settle()
	b.changed = true
}

// Names lists the allocations.
func (b *Budget) Names() []string {
	names := make([]string, len(b.Counters))
	for i := range b.Counters {
		names[i] = b.Counters[i].Allocation
	}
	return names
}

// Worth reports whether a new period takes anything away: the end of this one is then
// told.
func (b *Budget) Worth() bool {
	return slices.ContainsFunc(b.Counters, func(c schemas.Counter) bool { return c.Used != 0 || c.Told != 0 })
}

func (b *Budget) wantDue() int64 {
	if b.End != 0 && b.Worth() {
		return b.End
	}
	return 0
}

func (b *Budget) append(dst []byte) []byte {
	dst = append(dst, 1, byte(b.Period))
	dst = binary.AppendVarint(dst, b.Start)
	dst = binary.AppendVarint(dst, b.End)
	dst = binary.AppendUvarint(dst, uint64(b.Latest))
	dst = binary.AppendUvarint(dst, uint64(len(b.Counters)))
	for i := range b.Counters {
		c := &b.Counters[i]
		dst = appendText(dst, c.Allocation)
		for _, n := range [...]int64{c.Used, c.Imported, c.Reserved, c.Carry} {
			dst = binary.AppendVarint(dst, n)
		}
		dst = append(dst, c.Told)
	}
	return dst
}

func parseBudget(key, value []byte) (*Budget, error) {
	k, r := newReader(key), newReader(value)
	b := &Budget{}
	b.AppID, b.Scope = k.scope()
	r.Form(1)
	b.Period = schemas.Period(r.Byte())
	b.Start, b.End = r.Varint(), r.Varint()
	b.Latest = r.Uint32()
	for range r.Count(6) {
		b.Counters = append(b.Counters, schemas.Counter{
			Allocation: r.text(), Used: r.Varint(), Imported: r.Varint(), Reserved: r.Varint(), Carry: r.Varint(), Told: r.Byte(),
		})
	}
	if k.Err != nil || r.Err != nil || len(k.B)+len(r.B) > 0 || len(b.Counters) == 0 {
		return nil, fmt.Errorf("counters at %x: %w", key, errDamaged)
	}
	b.Settle()
	b.due = b.wantDue()
	return b, nil
}

func readBudget(t reading, app string, scope schemas.Scope) (*Budget, error) {
	key := keyScope(app, scope)
	v, err := t.bucket(bucketCounters).get(key)
	if err != nil || v == nil {
		return nil, err
	}
	return parseBudget(key, v)
}

// Budget gives how the budget of a scope stands; nil when it has none. Its period may
// be over.
func (l *Look) Budget(app string, scope schemas.Scope) (*Budget, error) {
	return readBudget(l, app, scope)
}

// loadBudgeted finds the apps that have counters: nothing is read for the usage of others.
func (s *Store) loadBudgeted(bolt *bbolt.Tx) error {
	s.budgeted = map[string]bool{}
	c := bucketOf(bolt, bucketCounters).cursor()
	for k, _ := c.first(); k != nil; {
		r := newReader(k)
		app := r.text()
		if r.Err != nil {
			return fmt.Errorf("counters at %x: %w", k, errDamaged)
		}
		s.budgeted[app] = true
		k, _ = c.seek(after(appendText(nil, app)))
	}
	return c.err
}

// budgetStage holds the budgets that the running transaction has looked at. What it
// changed of them is written before the commit.
type budgetStage struct {
	apps     map[string]*appBudgets
	budgeted map[string]bool // apps that have counters since, or none any more
}

type appBudgets struct {
	scopes map[schemas.Scope]*Budget // nil: has none
}

func (g *budgetStage) reset() {
	clear(g.apps)
	clear(g.budgeted)
}

// Budgeted reports whether an app has any counters, up to the running command.
func (tx *Tx) Budgeted(app string) bool {
	if has, ok := tx.stage.budgets.budgeted[app]; ok {
		return has
	}
	return tx.store.budgeted[app]
}

// Budget gives how the budget of a scope stands, up to the running command; nil when
// it has none. What is changed of it counts from then on; Keep must be told.
func (tx *Tx) Budget(app string, scope schemas.Scope) (*Budget, error) {
	a := tx.budgetsOf(app)
	b, known := a.scopes[scope]
	if known {
		return b, nil
	}
	b, err := readBudget(tx, app, scope)
	if err != nil {
		return nil, &Fault{"read counters", err}
	}
	a.scopes[scope] = b
	return b, nil
}

func (tx *Tx) budgetsOf(app string) *appBudgets {
	g := &tx.stage.budgets
	a := g.apps[app]
	if a == nil {
		if g.apps == nil {
			g.apps = map[string]*appBudgets{}
		}
		a = &appBudgets{scopes: map[schemas.Scope]*Budget{}}
		g.apps[strings.Clone(app)] = a
	}
	return a
}

// Keep notes that a budget was changed, and sees to it that the end of its period is due.
func (tx *Tx) Keep(b *Budget) error {
	b.changed = true
	want := b.wantDue()
	if want == b.due {
		return nil
	}
	key := func(at int64) []byte { return keyDue(dueSoon, at, duePeriod, keyScope(b.AppID, b.Scope)) }
	if b.due != 0 {
		if err := tx.notDue(key(b.due)); err != nil {
			return err
		}
	}
	if b.due = want; want == 0 {
		return nil
	}
	return tx.putDue(key(want))
}

// PutBudget gives a scope counters, or others than it had.
func (tx *Tx) PutBudget(b *Budget) error {
	have, err := tx.Budget(b.AppID, b.Scope)
	if err != nil {
		return err
	}
	b.due = 0
	if have != nil {
		b.due = have.due
	}
	b.Settle()
	b.AppID, b.Scope.ID = strings.Clone(b.AppID), strings.Clone(b.Scope.ID)
	tx.budgetsOf(b.AppID).scopes[b.Scope] = b
	if err := tx.setBudgeted(b.AppID, true); err != nil {
		return err
	}
	if err := tx.put(bucketCounters, keyScope(b.AppID, b.Scope), b.append(nil)); err != nil {
		return &Fault{"write counters", err}
	}
	return tx.Keep(b)
}

// DropBudget takes a scope's counters away.
func (tx *Tx) DropBudget(app string, scope schemas.Scope) error {
	have, err := tx.Budget(app, scope)
	if err != nil || have == nil {
		return err
	}
	have.Counters = nil
	if err := tx.Keep(have); err != nil { // nothing is due
		return err
	}
	have.changed = false
	tx.budgetsOf(app).scopes[have.Scope] = nil
	if _, err := tx.delete(bucketCounters, keyScope(app, scope)); err != nil {
		return &Fault{"remove counters", err}
	}
	prefix := appendText(nil, app)
	c := tx.bucket(bucketCounters).cursor()
	k, _ := c.seek(prefix)
	if c.err != nil {
		return &Fault{"read counters", c.err}
	}
	return tx.setBudgeted(app, len(k) >= len(prefix) && string(k[:len(prefix)]) == string(prefix))
}

func (tx *Tx) setBudgeted(app string, has bool) error {
	if tx.Budgeted(app) == has {
		return nil
	}
	g := &tx.stage.budgets
	if g.budgeted == nil {
		g.budgeted = map[string]bool{}
	}
	g.budgeted[strings.Clone(app)] = has
	return nil
}

// Count adds tokens that were used in an hour with a model, and reports whether they
// move any counter of the period. Its usage must be recorded in the same message.
func (b *Budget) Count(hour uint32, model string, t schemas.Tokens) bool {
	if int64(hour)*hourSpan >= b.Start && hour > b.Latest {
		b.Latest, b.changed = hour, true
	}
	if !b.inside(hour) {
		return false
	}
	b.touches(model, t, func(c *schemas.Counter, tokens int64) { c.Used = addSaturating(c.Used, tokens) })
	b.changed = true
	return true
}

// Hold adds to what is reserved; fewer than none take away. It is false when a counter
// has been too full to know what is left: then Reserve must be called.
func (b *Budget) Hold(model string, t schemas.Tokens) bool {
	exact := true
	b.touches(model, t, func(c *schemas.Counter, tokens int64) {
		exact = exact && (tokens >= 0 || c.Reserved < math.MaxInt64)
		c.Reserved = addSaturating(c.Reserved, tokens)
	})
	b.changed = true
	return exact
}

// mergeBudgeted remembers which apps have counters. The caller holds mu.
func (s *Store) mergeBudgeted() {
	for app, has := range s.stage.budgets.budgeted {
		if has {
			s.budgeted[app] = true
		} else {
			delete(s.budgeted, app)
		}
	}
}

// putBudgets writes the counters that the transaction has changed.
func (tx *Tx) putBudgets() error {
	for _, a := range tx.stage.budgets.apps {
		for _, b := range a.scopes {
			if b == nil || !b.changed {
				continue
			}
			b.changed = false
			if err := tx.put(bucketCounters, keyScope(b.AppID, b.Scope), b.append(nil)); err != nil {
				return &Fault{"write counters", err}
			}
		}
	}
	return nil
}
