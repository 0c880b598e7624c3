// Package bustest holds a NATS server against what each account of grout's may do
// (contract §8), with stock clients that keep their defaults: the server inside grout,
// and a cluster whose operator has written the accounts.
//
// It may import schemas, nats.go and testing, so that it judges what a server does and
// not how bus has set it up.
package bustest
