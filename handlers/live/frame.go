package live

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Types of frames that no fact has given its name to.
const (
	// TypeReset says that what lies between the last frame and the next one is gone.
	TypeReset = "stream.reset"
	// typePrefix stands before the kind of an orchestration fact (contract §6).
	typePrefix = "chat."
)

// Frame is one item of the live streams. Data are shared with other readers and must
// not be changed.
type Frame struct {
	Type      string
	Kind      string          // of the fact, as in its CloudEvent's type
	Data      json.RawMessage // of the fact; of one delta; of stream.reset {"first_sequence":n}
	AppID     string
	ChatID    string // empty: the fact is about no chat
	RunID     string // empty: the fact is about no run
	Sequence  uint64 // number in the chat; 0: it has none
	Sub       int    // delta i of its fact, from 0; -1: the frame is the whole fact
	Timestamp string // instant of the fact, RFC 3339
	StreamSeq uint64 // stream sequence of its fact
	FactSeq   uint64 // number of its fact in its app
}

// Position is where behind this frame a reader goes on.
func (f *Frame) Position() Position {
	return Position{StreamSeq: f.StreamSeq, Sub: f.Sub, FactSeq: f.FactSeq}
}

// Filter says what a reader sees. AppID is always given.
type Filter struct {
	AppID  string
	ChatID string   // one chat only
	RunID  string   // one run only; ChatID beside it is the run's chat and makes reading cheap
	Kinds  []string // kinds, types or what they begin with up to a dot ("usage"); empty: all
	UserID string   // chats that belong to this user only
}

// From says where a reader begins. The zero value is now: nothing that was answered
// before Open is shown, nothing after it is missed.
type From struct {
	Number   *uint64   // behind this number of the chat; needs Filter.ChatID
	Position *Position // behind this place of the stream (SSE's Last-Event-ID)
}

// Position is a place in the stream, as clients keep it.
type Position struct {
	StreamSeq uint64
	Sub       int    // the last delta of that fact that was seen; -1: all of the fact
	FactSeq   uint64 // number of the fact in its app: tells a stream that was made anew; 0: unknown
}

// String is the id of an SSE event: "<stream sequence>[.<delta>][-<number in the app>]".
func (p Position) String() string {
	b := strconv.AppendUint(nil, p.StreamSeq, 10)
	if p.Sub >= 0 {
		b = strconv.AppendInt(append(b, '.'), int64(p.Sub), 10)
	}
	if p.FactSeq > 0 {
		b = strconv.AppendUint(append(b, '-'), p.FactSeq, 10)
	}
	return string(b)
}

var errPosition = errors.New("the position is not one that was given")

// ParsePosition reads what String wrote, or a stream sequence alone.
func ParsePosition(s string) (p Position, err error) {
	place, fact, named := strings.Cut(s, "-")
	seq, sub, within := strings.Cut(place, ".")
	p.Sub = -1
	if p.StreamSeq, err = number(seq); err != nil {
		return Position{}, err
	}
	if within {
		n, err := number(sub)
		if err != nil || n > 1<<20 {
			return Position{}, errPosition
		}
		p.Sub = int(n)
	}
	if named {
		if p.FactSeq, err = number(fact); err != nil {
			return Position{}, err
		}
	}
	return p, nil
}

// number reads what AppendUint writes: no sign, no leading zero.
func number(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%w: %.40q", errPosition, s)
	}
	return n, nil
}
