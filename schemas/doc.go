// Package schemas is the leaf of grout: the kinds of commands and facts, their
// payloads and stored forms, validation, subjects, positions and error codes.
//
// It imports no other package of the project and does no I/O: no clock, no
// randomness, no files. The same input gives the same bytes on every machine,
// which is what lets a replay of the command stream reproduce a store exactly.
package schemas
