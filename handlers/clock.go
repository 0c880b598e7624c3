package handlers

import (
	"grout/schemas"
	"grout/store"
)

// setClock moves handler time, also back: a command with a stamp from the future
// had moved it ahead of what is true.
func setClock(tx *store.Tx, _ Command, c *schemas.ClockChange) (Result, error) {
	tx.SetNow(c.To)
	return Result{Outcome: (&schemas.CommandOutcome{}).Append(nil)}, nil
}
