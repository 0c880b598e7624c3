// Package store keeps the state of one partition in one bbolt file and is the
// only user of bbolt. It imports schemas.
//
// Invariant: everything that a command changes, the facts it yields and the
// position it stood at are written in one transaction, and what is kept in
// memory beside the file (the id table and the newest aggregates) can be built
// again from the file alone. Contents depend on messages and their order, never
// on how many of them shared a transaction.
package store
