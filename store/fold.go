package store

import "bytes"

// A slice folds this many rows for each event or adjustment of its message, so a
// fold ends before the next one is due: a generation has at most one row for each.
const (
	foldRowsPerEntry = 2
	foldRowsAtLeast  = 64
)

// stepFold moves the fold on after a message that recorded events or adjustments.
// What it does depends on messages alone: when enough are live they are frozen, which
// ends the transaction; after another quarter of that the slices begin, by when
// the rows are in order.
func (tx *Tx) stepFold(entries int) error {
	f := &tx.fold
	f.Live += uint64(entries)
	every := uint64(tx.store.opts.FoldEvery)
	switch {
	case f.To != 0 && f.Live >= every/4:
		return tx.foldSlice(max(foldRowsAtLeast, foldRowsPerEntry*entries))
	case f.To == 0 && f.Live >= every:
		f.Number++
		f.To = tx.log()
		f.NextKey = nil
		f.Live = 0
		tx.froze = true
	}
	return nil
}

func (tx *Tx) foldSlice(rows int) error {
	f := &tx.fold
	g := tx.store.overlay.frozen
	i := g.from(f.NextKey)
	end := min(len(g.order), i+rows)
	for ; i < end; i++ {
		row := &g.order[i]
		if err := tx.addHours(row); err != nil {
			return err
		}
	}
	tx.sliced = true
	if i < len(g.order) {
		f.NextKey = bytes.Clone(g.order[i].key)
		return nil
	}
	f.Folded, f.To, f.NextKey = f.To, 0, nil
	tx.folded = true
	return nil
}

func (tx *Tx) addHours(row *foldRow) error {
	sums := *row.sums
	old, err := tx.bucket(bucketHours).get(row.key)
	if err != nil {
		return err
	}
	if old != nil {
		have, err := parseSums(old)
		if err != nil {
			return err
		}
		sums.Add(&have)
	}
	return tx.put(bucketHours, row.key, appendSums(nil, &sums))
}
