// Package live shows the facts of MOZAIKS_EVT to people as they happen: the hub,
// and on top of it WebSocket, SSE and the AG-UI mirror.
//
// It may import schemas and coder/websocket, and nothing else of the project.
//
// Its invariant: a Reader gives every item of its filter once and in order, across
// lost connections, new nodes and facts that are published again, or says with a
// frame of type stream.reset from where on it does. Nothing is kept for a client but
// a cursor: whoever does not read costs others nothing.
//
// # How a reader finds its way
//
// A reader follows one series: the items of a chat, which the store numbers from 1
// without gaps (chatsequence), or the facts of an app (sequence). Near the end of the
// stream it reads the ring of a feed, which holds what the one tail of the process has
// brought; further back it reads the stream by batched direct gets. The numbers of the
// series say what was seen already, and what is missing.
package live
