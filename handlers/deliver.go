package handlers

import (
	"grout/schemas"
	"grout/store"
)

// markDelivery keeps where a delivery out of the house stands.
func markDelivery(tx *store.Tx, _ Command, m *schemas.DeliveryMark) (Result, error) {
	if err := tx.MarkDelivery(m); err != nil {
		return Result{}, err
	}
	return done(), nil
}
