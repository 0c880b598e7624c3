// Package identity tells who a user token speaks for (contract §3): tokens signed with
// a shared secret (local), or with a private key whose public half is at a URL
// (external). It may import schemas. A token never leaves it, neither in an error nor
// in a log nor in a metric, and whatever is wrong with one, the answer is the same.
package identity
