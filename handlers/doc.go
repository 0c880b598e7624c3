// Package handlers is the rulebook and the loop that applies it: one function for
// each kind of command, and the goroutine of a partition that takes groups of
// commands in their order and applies them in transactions.
//
// It imports schemas and store. Invariant: a handler is deterministic. It sees the
// transaction, the command and handler time, and no clock, no randomness, no
// configuration and no order of a map, so a replay of the stream gives the same
// bytes.
package handlers
