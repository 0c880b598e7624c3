package store

import "bytes"

// A slice folds at least so many rows.
const (
	foldRowsAtLeast = 64
	foldRowsOfTick  = 1 << 14
)

// slice is how many rows and chats go with a message of so many entries: as many as
// spread the frozen generation over what is left until the next one is due.
func (tx *Tx) slice(entries int) int {
	g := tx.store.overlay.frozen
	<-g.sorted
	total := len(g.order) + len(g.chatOrder)
	until := max(1, tx.store.opts.FoldEvery*13/20) // it begins after a quarter
	return max(foldRowsAtLeast, (total*entries+until-1)/until)
}

// stepFold moves the fold on after a message that recorded events or adjustments.
// What it does depends on messages alone: when enough are live they are frozen, which
// ends the transaction; after another quarter of that the slices begin, by when
// the rows are in order. So that nothing waits for ever where little happens, a tick
// brings a slice of its own, and freezes what is older than the newest segment.
func (tx *Tx) stepFold(entries int) error {
	f := &tx.fold
	f.Live += uint64(entries)
	every := uint64(tx.store.opts.FoldEvery)
	switch {
	case f.To != 0 && (f.Live >= every/4 || tx.ticked):
		rows := tx.slice(entries)
		if tx.ticked {
			rows = max(rows, foldRowsOfTick)
		}
		return tx.foldSlice(rows)
	case f.To == 0 && f.Live == 0 && tx.ticked:
		f.Folded = tx.log() // nothing is left to fold
	case f.To == 0 && (f.Live >= every || tx.ticked && tx.segments.Newest.First > f.Folded+1):
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
	tx.sliced = true
	if f.NextChat == 0 {
		i := g.from(f.NextKey)
		end := min(len(g.order), i+rows)
		rows -= end - i
		if err := tx.foldHours(g.order[i:end]); err != nil {
			return err
		}
		if end < len(g.order) {
			f.NextKey = bytes.Clone(g.order[end].key)
			return nil
		}
		f.NextKey, f.NextChat = nil, 1
	}
	return tx.foldChats(g, rows)
}

// foldChats goes on where the aggregates of the generation end.
func (tx *Tx) foldChats(g *generation, rows int) error {
	f := &tx.fold
	i := g.fromChat(f.NextChat)
	end := min(len(g.chatOrder), i+rows)
	for ; i < end; i++ {
		if err := tx.addChat(g.chatOrder[i]); err != nil {
			return err
		}
	}
	if i < len(g.chatOrder) {
		f.NextChat = g.chatOrder[i].ordinal
		return nil
	}
	f.Folded, f.To, f.NextChat = f.To, 0, 0
	tx.folded = true
	return nil
}
