package store

import (
	"bytes"
	"encoding/binary"

	"grout/schemas"
)

// Events of runs lie by the home that their run had then (`run_events`: log position,
// number, sequence; form 1: form, the JSON that the fact of the event has).

func keyRunEvent(home Place, sequence int64) []byte {
	return binary.BigEndian.AppendUint64(keyCommand(home.Seq, home.Index), uint64(sequence))
}

// AddRunEvent stores an event of a run under its sequence, which is new. It comes before
// the ChangeRun that counts it, or behind the PutRun of its run.
func (tx *Tx) AddRunEvent(r *Run, e *schemas.RunEvent) error {
	v := schemas.RunFact(e).AppendJSON([]byte{1})
	return faultOf("write event of a run", tx.add(bucketRunEvents, keyRunEvent(r.Place, e.Sequence), v))
}

// RunEventText is an event of a run as its fact told it.
type RunEventText struct {
	Sequence int64
	JSON     []byte
}

// runEvents lists the events of a run behind a sequence, in order.
func (r *Run) runEvents(t reading, above *line, behind int64, limit int) (list []RunEventText, err error) {
	homes := append(r.earlier[:len(r.earlier):len(r.earlier)], earlierHome{r.Place, r.Sequence})
	for _, home := range homes {
		if home.through <= behind || above.below(home.place.Seq) {
			continue
		}
		prefix := keyCommand(home.place.Seq, home.place.Index)
		c := t.bucket(bucketRunEvents).cursor()
		for k, v := c.seek(keyRunEvent(home.place, behind+1)); bytes.HasPrefix(k, prefix); k, v = c.next() {
			if len(list) == limit {
				return list, nil
			}
			if len(k) != len(prefix)+8 || len(v) == 0 || v[0] != 1 {
				return nil, errDamaged
			}
			list = append(list, RunEventText{int64(binary.BigEndian.Uint64(k[len(prefix):])), bytes.Clone(v[1:])})
		}
		if c.err != nil {
			return nil, c.err
		}
	}
	return list, nil
}
