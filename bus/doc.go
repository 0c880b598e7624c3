// Package bus is the only user of NATS: the embedded server and its accounts,
// the streams, the CloudEvents codec, grouped publishing, reading with a guard,
// the relay, and the replies to whoever waits.
//
// It may import schemas, nats.go, nats-server, orbit.go/jetstreamext and the
// CloudEvents SDK's event package, and nothing else of the project.
//
// Its invariant: what a Receipt reports is in the command stream, what a Relay
// has published is in its destination stream exactly once, and when a stream is
// not the one a partition has applied before, a named error says so; nothing is
// skipped or repeated in silence.
//
// # Relay marker
//
// The last message of each batch that a relay publishes is its marker, on
// schemas.MarkerSubject(dest, partition), with Nats-Rollup: sub (so the stream
// keeps one per partition) and Nats-Expected-Last-Subject-Sequence (the stream
// sequence of the marker before, 0 for none), which is the fence: of two
// publishers that start from the same marker one commits. Its header Grout-Relay
// names the relay that wrote it, its data is the position of the last fact that
// is in the stream:
//
//	{"epoch":1,"seq":17,"index":2,"n":1,"origin":1774000000000000000}
//
// The origin tells the store's history from others: a marker of another store's
// relay is never gone on from.
//
// # Who may do what
//
// GROUT holds the streams; its users are grout itself, with a password made at start
// that is never written anywhere, and admin. CONSUMER has no JetStream of its own and
// imports from GROUT, by name, what pull consumers on MOZAIKS_EVT need. PLATFORM does
// so, too, and imports grout's services and the subjects of commands. Each publisher that
// the operator names has an account of its own, which imports the subjects of commands,
// and permissions that leave it those of its apps. PLUGIN is where services live that are
// plugins: GROUT calls them through an import, and they reach nothing of GROUT but the
// answer to a call. Because a reply subject is rewritten at the border of an account,
// nothing that others ask for can be answered into GROUT's subjects.
//
// A command crosses under the name of the account that it comes from, which the import
// puts into its subject, and lies in MOZAIKS_IN until a pump has put it into the log.
// What its headers could do to a stream is off there (see inStream).
//
// Push consumers would be the hole in that wall: a deliver subject lies in the
// account that owns the stream, and it is in the body of the request, which no
// permission can see. So nobody outside reaches the server's own call that
// creates consumers. The import leads to the gate, a service of grout that reads
// the request as the server would, refuses whatever makes the server write
// somewhere, bounds the rest, and sends on what it has written anew.
package bus
