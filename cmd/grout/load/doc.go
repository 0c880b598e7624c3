// Package load puts load on a running grout and measures what it answers.
//
// It imports no other package of the project, so that both the benchmark of app
// and the command bench can use it. Its invariant: an answer counts only when it
// says that every event of its request was accepted, and no latency is left out.
package load
