package handlers

import (
	"grout/schemas"
	"grout/store"
)

// startEpoch begins an epoch of the command stream. A store that is not the one that
// the epoch goes on from ends its partition by name, before anything is changed.
func startEpoch(tx *store.Tx, _ Command, e *schemas.EpochBegin) (Result, error) {
	if err := tx.StartEpoch(e); err != nil {
		return Result{}, err
	}
	return Result{Outcome: (&schemas.CommandOutcome{}).Append(nil)}, nil
}
