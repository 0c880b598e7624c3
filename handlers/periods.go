package handlers

import (
	"slices"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

const hourNanos = int64(3600e9)

// periodOf gives how a budget stands in the period of an instant, when what is stored
// of it stands in another one, or lacks allocations; nil when nothing has to be changed. What open holds hold of allocations that are new is for the caller to add.
func periodOf(s state, app string, b entitlements.Budget, have *store.Budget, now int64) (*store.Budget, error) {
	if have != nil && have.Period == b.Period && current(have, now) && covers(have, b) {
		return nil, nil
	}
	sums := sums{state: s, app: app, budget: b, now: now}
	sums.start, sums.end = entitlements.PeriodAt(b.Period, now)
	if have != nil && have.Period == b.Period {
		sums.have = have
	}
	next := &store.Budget{AppID: app, Scope: b.Scope, Period: b.Period, Start: sums.start, End: sums.end}
	for _, name := range b.Allocations() {
		t, _ := b.Terms(name)
		t.Pushed = 0 // it is taken in when it comes, and never again
		c, err := sums.counter(t)
		if err != nil {
			return nil, err
		}
		next.Counters = append(next.Counters, c)
	}
	if sums.have != nil && current(have, now) {
		next.Counters = append(next.Counters, unnamed(have, b)...)
	}
	next.Latest = sums.latest()
	next.Settle()
	return next, nil
}

// current reports whether an instant lies in the period of a budget.
func current(b *store.Budget, now int64) bool {
	return entitlements.Contains(b.Counters[0], now)
}

// covers reports whether a budget has counters for what a manifest names.
func covers(have *store.Budget, b entitlements.Budget) bool {
	return !slices.ContainsFunc(b.Allocations(), func(name string) bool { return have.Counter(name) == nil })
}

// unnamed gives the counters of what a manifest does not name.
func unnamed(have *store.Budget, b entitlements.Budget) []schemas.Counter {
	return slices.DeleteFunc(slices.Clone(have.Counters), func(c schemas.Counter) bool {
		_, named := b.Terms(c.Allocation)
		return named
	})
}

// sums reads usage as far as the counters of a period need it: not at all when nothing
// of the scope lies in it.
type sums struct {
	state      state
	app        string
	budget     entitlements.Budget
	have       *store.Budget // nil: nothing is known of the scope
	now        int64
	start, end int64

	own, before *store.ScopeUsage
}

// counter gives the counter of one allocation in the period of now.
func (s *sums) counter(t entitlements.Terms) (schemas.Counter, error) {
	var old *schemas.Counter
	if s.have != nil {
		old = s.have.Counter(t.Allocation)
	}
	if old != nil && entitlements.Contains(*old, s.now) {
		return *old, nil
	}
	own, err := s.used(&s.own, s.start, s.end, t.Allocation)
	if err != nil {
		return schemas.Counter{}, err
	}
	if old == nil {
		return t.NewCounter(s.now, own, 0), nil
	}
	before := old.Used
	if !entitlements.Precedes(*old, s.now) {
		from, to := entitlements.PeriodBefore(t.Period, s.start)
		if before, err = s.used(&s.before, from, to, t.Allocation); err != nil {
			return schemas.Counter{}, err
		}
	}
	return t.Roll(*old, s.now, own, before), nil
}

// used sums an allocation's usage in a period, once for all allocations.
func (s *sums) used(kept **store.ScopeUsage, from, to int64, allocation string) (int64, error) {
	if *kept == nil {
		u := store.ScopeUsage{}
		if !s.silent(from) {
			var err error
			u, err = s.state.Usage(&store.UsageQuestion{
				AppID: s.app, Scope: s.budget.Scope, Allocations: s.budget.Allocations(), From: from, To: to, Latest: kept == &s.own,
			})
			if err != nil {
				return 0, err
			}
		}
		*kept = &u
	}
	return (*kept).Of(allocation), nil
}

// silent reports whether the scope is known to have no usage from an instant on.
func (s *sums) silent(from int64) bool {
	return s.have != nil && from >= s.have.Start && from/hourNanos > int64(s.have.Latest)
}

// latest is the last hour that is known to have usage of the scope.
func (s *sums) latest() (hour uint32) {
	if s.own != nil {
		hour = s.own.Latest
	}
	if s.have != nil && s.start >= s.have.Start {
		hour = max(hour, s.have.Latest)
	}
	return hour
}
