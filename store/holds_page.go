package store

import (
	"bytes"
)

// HoldMark is where a walk over the open holds of an app has come to; zero: the begin.
type HoldMark struct {
	ExpiresAt int64
	Place     Place
}

// HoldPage lists open holds of an app in order of their ends: those behind a mark that
// end after an instant, at most limit of them.
func (l *Look) HoldPage(app string, now int64, from HoldMark, limit int) (list []*Held, err error) {
	prefix := appendText(nil, app)
	begin := keyOpenHold(app, max(now, 0)+1, Place{})
	if behind := after(keyOpenHold(app, from.ExpiresAt, from.Place)); bytes.Compare(behind, begin) > 0 {
		begin = behind
	}
	c := l.bucket(bucketOpenHolds).cursor()
	for k, _ := c.seek(begin); bytes.HasPrefix(k, prefix) && len(list) < limit; k, _ = c.next() {
		r := newReader(k[len(prefix):])
		r.instant()
		at := r.place()
		if r.Err != nil {
			return nil, r.Err
		}
		h, err := readHold(l, at)
		if err == nil && h == nil {
			err = errDamaged
		}
		if err != nil {
			return nil, err
		}
		list = append(list, h)
	}
	return list, c.err
}

// Mark is the hold's place in a walk.
func (h *Held) Mark() HoldMark { return HoldMark{h.ExpiresAt, h.Place} }
