package handlers

import (
	"maps"
	"slices"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

// action is what somebody does with a plugin, which takes of its consumables
// (contract §5.4).
type action struct {
	AppID    string
	UserID   string
	TenantID string
	Plugin   string
	Name     string
	Consumes map[string]int64 // by consumable
}

// setAside reserves what an action is going to take, so that no other can; the decision
// that let it pass must have been made in this command.
func (b *books) setAside(a *action) error {
	return b.move(a, entitlements.ReserveConsumable)
}

// take uses up what was set aside: the action has succeeded.
func (b *books) take(a *action) error {
	if err := b.move(a, entitlements.TakeConsumable); err != nil {
		return err
	}
	b.consumed(a.AppID, a.TenantID, a.UserID, a.Plugin, a.Name, a.Consumes)
	return nil
}

// giveBack frees what was set aside: the action has failed.
func (b *books) giveBack(a *action) error {
	return b.move(a, entitlements.GiveBackConsumable)
}

// move changes what an action takes of every consumable, in the period of handler time.
// One that the rules name no more, or that is a cap by now, stays in its period: the rules
// may be away for a moment only.
func (b *books) move(a *action, to func(schemas.Consumption, int64) schemas.Consumption) error {
	rules, err := b.plugin(txState{b.tx}, a.Plugin, store.Newest)
	if err != nil {
		return err
	}
	scope := schemas.ScopesOf(a.TenantID, a.UserID)[0]
	for _, name := range slices.Sorted(maps.Keys(a.Consumes)) {
		c, err := b.tx.Consumed(a.AppID, scope, a.Plugin, name)
		if err != nil {
			return err
		}
		if rules != nil {
			if l, ok := rules.Limits[name]; ok && !l.Cap {
				c = entitlements.RollConsumption(c, l.Reset, b.command.Now)
			}
		}
		if err := b.tx.PutConsumed(a.AppID, scope, a.Plugin, name, to(c, a.Consumes[name])); err != nil {
			return err
		}
	}
	return nil
}
