package schemas

import (
	"encoding/binary"
	"errors"
)

// CommandFrame is one command inside a group: its CloudEvents attributes and its
// payload in stored form.
type CommandFrame struct {
	Kind          string
	AppID         string // empty for usage.ingest, which may hold several apps
	ID            string
	Source        string
	Time          int64 // nanoseconds since 1970 UTC, as its sender stated it
	Accepted      int64 // the same clock, when grout took it
	CorrelationID string
	TraceParent   string
	Payload       []byte
}

// Group is a message of MOZAIKS_CMD: commands that were accepted together.
type Group struct {
	ID       string
	Source   string
	ReplyTo  string // subject that wants the outcomes; empty for nobody
	Commands []CommandFrame
}

// Limits of a group.
const (
	MaxGroupBytes    = 8 << 20
	MaxGroupCommands = 1000
	// MaxCommandBytes leaves room for the frame of one command in one group.
	MaxCommandBytes = MaxGroupBytes - 16<<10
)

// GroupForm is the version byte that opens the data of a group.
const GroupForm = 1

// ErrGroupForm says that the data of a group is of a form this release cannot read.
var ErrGroupForm = errors.New("unknown form of command group")

// AppendGroup adds the data of a group: form, number of commands, then each
// command as a length and its frame. docs/architecture.md shows the layout.
func AppendGroup(dst []byte, commands []CommandFrame) []byte {
	dst = append(dst, GroupForm)
	dst = binary.AppendUvarint(dst, uint64(len(commands)))
	var head []byte
	for i := range commands {
		c := &commands[i]
		head = c.appendHead(head[:0])
		dst = binary.AppendUvarint(dst, uint64(len(head)+len(c.Payload)))
		dst = append(dst, head...)
		dst = append(dst, c.Payload...)
	}
	return dst
}

func (c *CommandFrame) appendHead(b []byte) []byte {
	b = appendText(b, c.Kind)
	b = appendText(b, c.AppID)
	b = appendText(b, c.ID)
	b = appendText(b, c.Source)
	b = binary.AppendVarint(b, c.Time)
	b = binary.AppendVarint(b, c.Accepted)
	b = appendText(b, c.CorrelationID)
	return appendText(b, c.TraceParent)
}

// FrameSize bounds what a command adds to its group.
func (c *CommandFrame) FrameSize() int {
	return len(c.Kind) + len(c.AppID) + len(c.ID) + len(c.Source) + len(c.CorrelationID) + len(c.TraceParent) + len(c.Payload) + 64
}

// DecodeGroup reads the data of a group. Texts and payloads point into data.
// A frame that cannot be read gives a command with no kind, so that its
// neighbours can still be applied; only a broken list is an error.
func DecodeGroup(data []byte) ([]CommandFrame, error) {
	r := Wire{B: data}
	if form := r.Byte(); r.Err == nil && form != GroupForm {
		return nil, ErrGroupForm
	}
	n := r.Count(1)
	if n > MaxGroupCommands { // a frame may be one byte, a command is many
		r.Fail()
		return nil, r.Err
	}
	commands := make([]CommandFrame, n)
	for i := range commands {
		frame := r.Bytes(r.Uvarint())
		if r.Err != nil {
			return nil, r.Err
		}
		commands[i].decode(frame)
	}
	if r.Err == nil && len(r.B) > 0 {
		r.Fail()
	}
	return commands, r.Err
}

func (c *CommandFrame) decode(frame []byte) {
	f := Wire{B: frame}
	*c = CommandFrame{
		Kind: f.Text(), AppID: f.Text(), ID: f.Text(), Source: f.Text(),
		Time: f.Varint(), Accepted: f.Varint(),
		CorrelationID: f.Text(), TraceParent: f.Text(),
	}
	c.Payload = f.B
	if f.Err != nil {
		*c = CommandFrame{Payload: frame}
	}
}
