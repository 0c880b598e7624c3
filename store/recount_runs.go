package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"grout/schemas"
)

// ReservedDifference is a consumable of which another amount is set aside than a recount
// gives.
type ReservedDifference struct {
	AppID     string `json:"app_id"`
	Scope     string `json:"scope"`
	ScopeID   string `json:"scope_id"`
	Plugin    string `json:"plugin"`
	Limit     string `json:"limit"`
	Reserved  int64  `json:"reserved"`
	Recounted int64  `json:"recounted"`
}

// consumableKey names a consumable of a scope.
type consumableKey struct {
	app, plugin, limit string
	scope              schemas.Scope
}

// RecountReserved compares what is reserved of each consumable with what the executions
// that have not ended have set aside.
func (s *Store) RecountReserved(ctx context.Context) (list []ReservedDifference, err error) {
	err = s.Look(func(l *Look) error {
		again := map[consumableKey]int64{}
		if err := l.eachOpenRun(Place{}, func(r *Run) error {
			for limit, n := range r.Execution.Consumes {
				again[consumableKey{r.AppID, r.Plugin, limit, schemas.ScopesOf(r.TenantID, r.UserID)[0]}] += n
			}
			return ctx.Err()
		}); err != nil {
			return err
		}
		list, err = l.reservedDifferences(ctx, again)
		return err
	})
	return list, err
}

func (l *Look) reservedDifferences(ctx context.Context, again map[consumableKey]int64) (list []ReservedDifference, err error) {
	c := l.bucket(bucketConsumed).cursor()
	for k, v := c.first(); k != nil; k, v = c.next() {
		r, key := newReader(k), consumableKey{}
		key.app, key.scope = r.scope()
		if key.plugin = r.text(); len(r.B) == 0 && r.Err == nil { // the calls of the plugin
			continue
		}
		key.limit = r.text()
		kept, err := parseConsumed(v)
		if err == nil {
			err = r.Err
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("consumed at %x: %w", k, err)
		}
		if counted := again[key]; kept.Reserved != counted {
			list = append(list, key.differs(kept.Reserved, counted))
		}
		delete(again, key)
	}
	rest := len(list)
	for key, counted := range again { // these have no row
		if counted != 0 {
			list = append(list, key.differs(0, counted))
		}
	}
	slices.SortFunc(list[rest:], func(a, b ReservedDifference) int {
		return cmp.Or(cmp.Compare(a.AppID, b.AppID), cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.ScopeID, b.ScopeID),
			cmp.Compare(a.Plugin, b.Plugin), cmp.Compare(a.Limit, b.Limit))
	})
	return list, c.err
}

func (key *consumableKey) differs(kept, counted int64) ReservedDifference {
	return ReservedDifference{key.app, key.scope.Kind.String(), key.scope.IDIn(key.app), key.plugin, key.limit, kept, counted}
}
