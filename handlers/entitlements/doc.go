// Package entitlements holds the rules of contract §5.2 as functions of values: which
// manifests apply, what is left of a budget, a rate limit or a consumable, and what
// follows from a sync, a usage or a hold.
//
// It imports schemas only. Its invariant: no function reads a clock, a store or the
// order of a map, so the same function answers a read, judges before a command and
// judges finally where the command is applied.
package entitlements
