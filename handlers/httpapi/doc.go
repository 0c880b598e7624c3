// Package httpapi is the HTTP face of grout (contract §1–§3, §7): routes,
// identity, limits, and the shapes of answers and errors. It decides nothing
// about usage: it reads a request, hands it to Commands or Reads, and renders
// what comes back.
//
// It imports schemas and no other package of the project. Its invariant: a 2xx
// answer to a write is only ever given for what Commands said is durably stored,
// and every answer, errors included, carries the headers of contract §1.
package httpapi
