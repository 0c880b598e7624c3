package store

import (
	"bytes"
	"encoding/binary"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// maxScannedLetters bounds what one page looks at, so that a filter which fits nothing
// costs no more than that.
const maxScannedLetters = 20_000

// Letter gives a dead letter by its id, as it was committed; nil when there is none.
func (s *Store) Letter(id string) (l *Letter, err error) {
	defer s.db.shield(&err)()
	fp := letterPrint(id)
	bolt, ordinal, e, err := s.beginAt(&fp)
	if bolt != nil {
		defer func() { _ = bolt.Rollback() }()
	}
	if err != nil || ordinal == 0 {
		return nil, err
	}
	return readLetter(&Look{bolt: bolt}, placeOf(e.ref))
}

// Letters lists dead letters of the partition, newest first.
func (s *Store) Letters(q *schemas.LetterQuery) (page schemas.LetterPage, err error) {
	err = s.db.View(func(bolt *bbolt.Tx) error {
		page, err = s.letterPage(&Look{bolt: bolt}, q)
		return err
	})
	return page, err
}

func (s *Store) letterPage(t *Look, q *schemas.LetterQuery) (page schemas.LetterPage, err error) {
	above, err := readLine(t.bolt)
	if err != nil {
		return page, err
	}
	list := bucketLetters
	if q.Status == schemas.LetterWaiting {
		list = bucketOpenLetters
	}
	var bound []byte
	if q.Behind.Seq != 0 {
		bound = keyCommand(q.Behind.Seq, q.Behind.Index)
	}
	c := t.bucket(list).cursor()
	scanned := 0
	for k, _ := c.before(bound); k != nil; k, _ = c.prev() {
		r := newReader(k)
		at := r.place()
		if r.Err != nil || len(r.B) > 0 {
			return page, errDamaged
		}
		if above.below(at.Seq) {
			break
		}
		if len(page.Letters) == q.Limit || scanned == maxScannedLetters {
			page.More = true
			break
		}
		scanned++
		l, err := readLetter(t, at)
		if err == nil && l == nil {
			err = errDamaged
		}
		if err != nil {
			return page, err
		}
		page.Next = schemas.LetterPlace{Partition: s.opts.Partition, Seq: at.Seq, Index: at.Index}
		if q.Wants(&l.Letter) {
			page.Letters = append(page.Letters, l.Letter)
		}
	}
	return page, c.err
}

// LettersWaiting is how many dead letters wait, and how many were filed since the store
// was opened.
func (s *Store) LettersWaiting() (waiting, filed int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return int64(s.sums[bucketOpenLetters].Rows), s.stats.letters.Load()
}

// LetterPosition is where the letter of a place stands among the messages of the relay;
// the number there is not known.
func LetterPosition(at Place) schemas.Position {
	return schemas.Position{Epoch: uint32(at.Seq>>sequenceBits) + firstEpoch, Seq: at.Seq & (1<<sequenceBits - 1), Index: at.Index}
}

// UnsentLetter gives the JSON of a letter that waits to be published; nil when it does
// not.
func (s *Store) UnsentLetter(at Place) (text []byte, err error) {
	key := LetterPosition(at).Append(nil)
	key = key[:len(key)-4] // without the number
	err = s.db.View(func(bolt *bbolt.Tx) error {
		c := bucketOf(bolt, bucketDead).cursor()
		k, v := c.seek(key)
		if c.err != nil || !bytes.HasPrefix(k, key) {
			return c.err
		}
		if len(v) == 0 || v[0] != rowLiteral {
			return errDamaged
		}
		n, size := binary.Uvarint(v[1:])
		if rest := v[1+max(size, 0):]; size > 0 && n <= uint64(len(rest)) {
			text = bytes.Clone(rest[n:])
			return nil
		}
		return errDamaged
	})
	return text, err
}
