package store

import (
	"grout/schemas"
)

// chatStage holds the chats that the running transaction counts in.
type chatStage struct {
	index map[chatKey]int // place in list + 1
	list  []stagedChat
	fresh []schemas.Fingerprint // of chats that it met first, by ordinal
	most  int                   // chats of any transaction since the map was made
}

// stagedChat is what a transaction adds to a chat. Its key points into messages.
type stagedChat struct {
	chatKey
	ordinal uint64
	user    string // of the chat's first event
	deltas  schemas.UsageSums
	totals  *chatTotals // all of the chat's, up to now; nil before its first summary
}

// A stage of more than this many chats is kept as long as transactions use a good
// part of it: emptying its map costs what it could hold.
const (
	maxKeptChats = 4096
	keptPart     = 16
)

func (g *chatStage) reset() {
	n := len(g.list)
	if n == 0 {
		return
	}
	if g.most = max(g.most, n); g.most > maxKeptChats && n < g.most/keptPart {
		*g = chatStage{}
		return
	}
	clear(g.index)
	clear(g.list)
	g.list, g.fresh = g.list[:0], g.fresh[:0]
}

// chat gives the stage of a chat, until the next call. user is that of the event at
// hand, which is the chat's first when the chat is new.
func (tx *Tx) chat(key chatKey, user string) (*stagedChat, error) {
	g := &tx.stage.chats
	if n := len(g.list); n > 0 && g.list[n-1].chatKey == key {
		return &g.list[n-1], nil
	}
	if i := g.index[key]; i > 0 {
		return &g.list[i-1], nil
	}
	c, err := tx.findChat(key, user)
	if err != nil {
		return nil, &Fault{"read chat", err}
	}
	if g.index == nil {
		g.index = map[chatKey]int{}
	}
	g.list = append(g.list, c)
	g.index[key] = len(g.list)
	return &g.list[len(g.list)-1], nil
}

// findChat looks a chat up in memory first, and gives a new one its ordinal.
func (tx *Tx) findChat(key chatKey, user string) (stagedChat, error) {
	c := stagedChat{chatKey: key, user: user}
	known := summariesUnknown
	for _, row := range tx.store.overlay.chat(key) {
		if row == nil {
			continue
		}
		if c.ordinal == 0 {
			c.user = row.user
		}
		c.ordinal, known = row.ordinal, row.summed
	}
	if c.ordinal == 0 {
		fp := chatPrint(key)
		var err error
		if c.ordinal, err = tx.store.chatOrdinal(tx.bucket(bucketChatIDs), &fp); err != nil {
			return c, err
		}
		if c.ordinal == 0 {
			c.ordinal = tx.nextChat
			tx.nextChat++
			tx.stage.chats.fresh = append(tx.stage.chats.fresh, fp)
			return c, nil
		}
	}
	if known == summariesNone {
		return c, nil
	}
	row, err := readChat(tx.bucket(bucketChats), c.ordinal)
	if err == nil && row != nil && row.summarised() {
		c.user = row.user
		c.totals, err = tx.totals(&c)
	}
	return c, err
}

// chat gives the rows that the generations hold of a chat, the older one first.
func (o *overlay) chat(key chatKey) (rows [2]*chatRow) {
	if o.frozen != nil {
		rows[0] = o.frozen.chats[key]
	}
	rows[1] = o.live.chats[key]
	return rows
}

// totals adds up what is known of a chat anywhere.
func (tx *Tx) totals(c *stagedChat) (*chatTotals, error) {
	t := &chatTotals{}
	row, err := readChat(tx.bucket(bucketChats), c.ordinal)
	if err != nil {
		return nil, err
	}
	if row != nil {
		*t = row.chatTotals
	}
	rows := tx.store.overlay.chat(c.chatKey)
	if rows[0] != nil && tx.fold.pendingChat(c.ordinal) {
		t.deltas.Add(&rows[0].deltas)
	}
	if rows[1] != nil {
		t.deltas.Add(&rows[1].deltas)
	}
	t.deltas.Add(&c.deltas)
	return t, nil
}

// countInChat counts an event in its chat and notes in it what it added to the sums.
func (tx *Tx) countInChat(e *schemas.UsageEvent) error {
	e.Counted = nil // of a transaction that failed
	c, err := tx.chat(chatKey{e.AppID, e.ChatID}, e.UserID)
	if err != nil {
		return err
	}
	own := schemas.SumsOf(e)
	var counted schemas.UsageSums
	if e.Summary {
		counted, err = tx.raise(c, &own)
	} else {
		counted = c.add(&own)
	}
	if err == nil && counted != own {
		e.Counted = new(schemas.UsageSums)
		*e.Counted = counted
	}
	return err
}

// add moves the chat's deltas and tells by how much what counts has moved.
func (c *stagedChat) add(d *schemas.UsageSums) schemas.UsageSums {
	c.deltas.Add(d)
	if c.totals == nil {
		return *d
	}
	return c.totals.add(d)
}

// raise takes a summary, whose values are written at once.
func (tx *Tx) raise(c *stagedChat, to *schemas.UsageSums) (counted schemas.UsageSums, err error) {
	if c.totals == nil {
		if c.totals, err = tx.totals(c); err != nil {
			return counted, &Fault{"read chat", err}
		}
	}
	high := c.totals.high
	if counted = c.totals.raise(to); c.totals.high == high {
		return counted, nil
	}
	row, err := readChat(tx.bucket(bucketChats), c.ordinal)
	if err != nil {
		return counted, &Fault{"read chat", err}
	}
	if row == nil {
		row = &chat{chatKey: c.chatKey, user: c.user}
	}
	row.high = c.totals.high
	return counted, faultOf("write chat", tx.put(bucketChats, keyOrdinal(c.ordinal), row.append(nil)))
}

// putChatIDs writes the ordinals that a message gave.
func (tx *Tx) putChatIDs() error {
	fresh := tx.stage.chats.fresh[tx.firstChat:]
	first := tx.nextChat - uint64(len(fresh))
	tx.firstChat = len(tx.stage.chats.fresh)
	for len(fresh) > 0 {
		n := min(len(fresh), chatChunkLength)
		v := appendChatChunk(make([]byte, 0, chatChunkHead+n*chatEntrySize+sealSize), fresh[:n])
		if err := tx.add(bucketChatIDs, keyOrdinal(first), v); err != nil {
			return err
		}
		fresh, first = fresh[n:], first+uint64(n)
	}
	return nil
}

// mergeChatIDs shows readers the chats that a transaction met first. The caller
// holds idMu.
func (s *Store) mergeChatIDs() {
	for i := range s.stage.chats.fresh {
		s.chatIDs.add(&s.stage.chats.fresh[i], s.nextChat)
		s.nextChat++
	}
	s.stats.chats.Store(int64(s.chatIDs.used))
}

// mergeChats adds what a transaction counted. The caller holds mu.
func (s *Store) mergeChats() {
	for i := range s.stage.chats.list {
		c := &s.stage.chats.list[i]
		row := s.overlay.live.chat(c.chatKey, c.ordinal, c.user)
		if !row.deltas.Add(&c.deltas) {
			s.overflowed.Store(true)
		}
		row.summed = summariesNone
		if c.totals != nil && c.totals.summarised() {
			row.summed = summariesSome
		}
	}
}
