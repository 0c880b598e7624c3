package store

import (
	"encoding/binary"
	"fmt"
	"strings"

	"grout/schemas"
)

// A dead letter lies whole in its outbox and then in the stream of dead letters; what is
// known of it beside the original stands here, at the place of the command that filed it,
// and in `open_letters` while it waits. An id leads to it. It goes with its segment.

// maxLetterText bounds each text that a row keeps of a letter.
const maxLetterText = 1 << 10

// Letter is a dead letter in the store.
type Letter struct {
	schemas.Letter
	Place Place
}

// DeadLetter files a command that cannot be applied. One that has died before, and not
// long ago, has its letter already, which says so and waits again.
func (tx *Tx) DeadLetter(index uint32, l *schemas.DeadLetter) error {
	known, err := tx.Letter(l.ID)
	if err != nil {
		return err
	}
	if known != nil && tx.applied.Now-known.FiledAt < schemas.LetterRefiled {
		known.Code, known.Reason = l.Code, l.Reason
		return tx.DiedAgain(known)
	}
	l.Attempts = max(l.Attempts, 1)
	if known != nil {
		l.Attempts = int(known.Attempts) + 1
		if err := tx.forgetLetter(known); err != nil {
			return err
		}
	}
	at := tx.Place(index)
	row := appendLiteral(schemas.DeadLetterSubject(l.AppID, l.Kind), l.AppendJSON(nil, tx.applied.Now))
	if err := tx.putRow(schemas.DestDeadLetters, index, row, 1); err != nil {
		return &Fault{"write dead letter", err}
	}
	next := &Letter{Place: at, Letter: schemas.Letter{
		Status: schemas.LetterWaiting, ID: l.ID, AppID: l.AppID, Kind: l.Kind, Code: l.Code, Reason: l.Reason, Attempts: int64(l.Attempts),
		FiledAt: tx.applied.Now, DiedAt: tx.applied.Now, Cause: l.Cause, CorrelationID: l.CorrelationID,
		Subject: l.Original.Subject, Sequence: l.Original.Sequence, Bytes: int64(len(l.Original.Data)),
	}}
	if err := tx.add(bucketLetters, next.key(), next.append(nil)); err != nil {
		return &Fault{"write dead letter", err}
	}
	if err := tx.add(bucketOpenLetters, next.key(), []byte{}); err != nil {
		return &Fault{"write dead letter", err}
	}
	tx.filed++
	fp := letterPrint(l.ID)
	return faultOf("read id log", tx.enterPlace(schemas.IDLetter, &fp, at))
}

func letterPrint(id string) schemas.Fingerprint {
	fp, _ := schemas.FingerprintOf(schemas.IDLetter, "", id, nil)
	return fp
}

// Letter gives a dead letter by its id, up to the running command; nil when there is
// none, or none any more.
func (tx *Tx) Letter(id string) (*Letter, error) {
	fp := letterPrint(id)
	ordinal, e, err := tx.find(&fp)
	if err != nil || ordinal == 0 {
		return nil, faultOf("read id log", err)
	}
	l, err := readLetter(tx, placeOf(e.ref))
	if err == nil && l == nil {
		err = errDamaged
	}
	return l, faultOf("read dead letter", err)
}

// DiedAgain lets a letter wait once more: its command was tried again and cannot be
// applied, for what the letter says by now.
func (tx *Tx) DiedAgain(l *Letter) error {
	l.Attempts++
	l.Status, l.DiedAt, l.ClosedAt, l.Outcome = schemas.LetterWaiting, tx.applied.Now, 0, schemas.CommandOutcome{}
	if err := tx.put(bucketOpenLetters, l.key(), []byte{}); err != nil {
		return &Fault{"write dead letter", err}
	}
	return faultOf("write dead letter", tx.put(bucketLetters, l.key(), l.append(nil)))
}

// CloseLetter ends the wait of a letter, as its status says by now.
func (tx *Tx) CloseLetter(l *Letter) error {
	l.ClosedAt = tx.applied.Now
	was, err := tx.delete(bucketOpenLetters, l.key())
	if err == nil && !was {
		err = errDamaged
	}
	if err == nil {
		err = tx.put(bucketLetters, l.key(), l.append(nil))
	}
	return faultOf("write dead letter", err)
}

func (tx *Tx) forgetLetter(l *Letter) error {
	if _, err := tx.delete(bucketOpenLetters, l.key()); err != nil {
		return &Fault{"remove dead letter", err}
	}
	_, err := tx.delete(bucketLetters, l.key())
	return faultOf("remove dead letter", err)
}

// Resume has what follows from the command with the given index of the message follow
// from another one, which is carried out in its place.
func (tx *Tx) Resume(index uint32, frame *schemas.CommandFrame) {
	own := append([]schemas.CommandFrame(nil), tx.message.Commands...) // the message is read again when it is tried again
	own[index] = *frame
	tx.message.Commands = own
}

func (l *Letter) key() []byte { return keyCommand(l.Place.Seq, l.Place.Index) }

// append gives the row. Form 1: form, status, texts × (id, app, kind, code, reason, id and
// source of the cause, correlation id, subject), attempts, filed, died, closed, sequence,
// bytes, then code, detail and answer of its outcome.
func (l *Letter) append(b []byte) []byte {
	b = append(b, 1, byte(l.Status))
	for _, s := range [...]string{l.ID, l.AppID, l.Kind, string(l.Code), l.Reason, l.Cause.ID, l.Cause.Source, l.CorrelationID, l.Subject} {
		b = appendText(b, letterText(s))
	}
	for _, n := range [...]int64{l.Attempts, l.FiledAt, l.DiedAt, l.ClosedAt} {
		b = binary.AppendVarint(b, n)
	}
	b = binary.AppendUvarint(b, l.Sequence)
	b = binary.AppendVarint(b, l.Bytes)
	b = appendText(b, string(l.Outcome.Code))
	b = appendText(b, letterText(l.Outcome.Detail))
	return appendText(b, string(l.Outcome.Body))
}

// letterText cuts what a damaged frame may say to what a row holds.
func letterText(s string) string {
	if len(s) > maxLetterText {
		s = s[:maxLetterText]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func parseLetter(at Place, v []byte) (*Letter, error) {
	r := newReader(v)
	r.Form(1)
	l := &Letter{Place: at}
	l.Status = schemas.LetterStatus(r.Byte())
	var code, refused string
	for _, s := range [...]*string{&l.ID, &l.AppID, &l.Kind, &code, &l.Reason, &l.Cause.ID, &l.Cause.Source, &l.CorrelationID, &l.Subject} {
		*s = r.text()
	}
	for _, n := range [...]*int64{&l.Attempts, &l.FiledAt, &l.DiedAt, &l.ClosedAt} {
		*n = r.Varint()
	}
	l.Sequence, l.Bytes = r.Uvarint(), r.Varint()
	refused, l.Outcome.Detail = r.text(), r.text()
	if body := r.text(); body != "" {
		l.Outcome.Body = []byte(body)
	}
	l.Code, l.Outcome.Code = schemas.Code(code), schemas.Code(refused)
	if len(r.B) > 0 || l.Status.String() == "" || l.ID == "" || l.Attempts < 1 {
		r.Fail()
	}
	if r.Err != nil {
		return nil, fmt.Errorf("dead letter at %d/%d: %w", at.Seq, at.Index, r.Err)
	}
	return l, nil
}

func readLetter(t reading, at Place) (*Letter, error) {
	v, err := t.bucket(bucketLetters).get(keyCommand(at.Seq, at.Index))
	if err != nil || v == nil {
		return nil, err
	}
	return parseLetter(at, v)
}
