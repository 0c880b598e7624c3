package store

import (
	"encoding/binary"
	"strconv"

	"grout/schemas"
)

// What others publish is known by app, source and id: an entry of the id log leads to the
// place of the command, where a row keeps what it said, as a digest, and what became of
// it. Rows go with their segments, like the ids. Commands of grout's own are not entered,
// but for those about messages that are read again after a crash.
// Form 1 of a row: form, digest 16, handler time, outcome to the end.

// KnownCommand is a command of somebody else that was carried out or refused.
type KnownCommand struct {
	Digest  [16]byte
	At      int64 // handler time: nanoseconds since 1970 UTC
	Outcome []byte
}

// maxKeptOutcome bounds the outcome that a row keeps; a list of errors may be longer,
// and facts and batches tell of them.
const maxKeptOutcome = 64 << 10

// commandPrint identifies a command. A repeat that says something else is known by that
// too, so that it is refused once.
func commandPrint(c *schemas.CommandFrame, other []byte) schemas.Fingerprint {
	text := appendText(appendText(nil, c.Source), c.ID)
	fp, _ := schemas.FingerprintOf(schemas.IDCommand, c.AppID, string(append(text, other...)), nil)
	return fp
}

// KnownCommand gives what is known of a command by its app, source and id; nil when there
// was none. With other it is what is known of a repeat that said something else.
func (tx *Tx) KnownCommand(c *schemas.CommandFrame, other []byte) (*KnownCommand, error) {
	fp := commandPrint(c, other)
	ordinal, e, err := tx.find(&fp)
	if err != nil || ordinal == 0 {
		return nil, faultOf("read id log", err)
	}
	at := placeOf(e.ref)
	v, err := tx.bucket(bucketCommands).get(keyCommand(at.Seq, at.Index))
	if err == nil && v == nil {
		err = errDamaged
	}
	if err != nil {
		return nil, faultOf("read command", err)
	}
	k, err := parseCommand(v)
	return k, faultOf("read command", err)
}

// EnterCommand notes what became of the command with the given index of the message.
func (tx *Tx) EnterCommand(index uint32, c *schemas.CommandFrame, other []byte, k *KnownCommand) error {
	k.At = tx.applied.Now
	at := tx.Place(index)
	if err := tx.add(bucketCommands, keyCommand(at.Seq, at.Index), k.append(nil)); err != nil {
		return &Fault{"write command", err}
	}
	fp := commandPrint(c, other)
	return faultOf("read id log", tx.enterPlace(schemas.IDCommand, &fp, at))
}

func (k *KnownCommand) append(b []byte) []byte {
	b = append(append(b, 1), k.Digest[:]...)
	b = binary.AppendVarint(b, k.At)
	if len(k.Outcome) > maxKeptOutcome {
		return b
	}
	return append(b, k.Outcome...)
}

func parseCommand(v []byte) (*KnownCommand, error) {
	r := newReader(v)
	r.Form(1)
	k := &KnownCommand{Digest: r.digest(), At: r.Varint()}
	k.Outcome = append([]byte(nil), r.B...)
	return k, r.Err
}

// EmitApart files a fact like Emit, of a command whose id and source stand for another
// one already: its own id follows from where it stands, too, so that it is no fact of that
// one.
func (tx *Tx) EmitApart(command uint32, kind, app, subject string, data func([]byte) []byte) {
	tx.Emit(command, kind, app, subject, data)
	tx.facts[len(tx.facts)-1].apart = " at " + strconv.FormatUint(tx.log(), 10) + "." + strconv.FormatUint(uint64(command), 10)
}
