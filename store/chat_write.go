package store

import (
	"cmp"

	"grout/schemas"
)

// chatStage holds the chats that the running transaction is about.
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
	user    string // of the first event that names one, as far as it is known; else of a later one
	deltas  schemas.UsageSums
	told    uint64      // deltas
	totals  *chatTotals // all of the chat's, up to now; nil before its first summary
	last    uint64      // number of the chat's last item, up to the last message
	counts  bool        // it has usage of the transaction: generations hold it

	message chatInMessage
}

// chatInMessage is what the running message adds to a chat.
type chatInMessage struct {
	deltas int
	others uint64   // items that are no deltas
	causes causeSet // of the deltas
	next   int      // place of the next delta among the message's events
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

// chat gives the place in the stage of a chat. user is that of the event at hand, which
// is the chat's first when the chat is new; it may be empty.
func (tx *Tx) chat(key chatKey, user string) (int, error) {
	g := &tx.stage.chats
	i := len(g.list)
	if i == 0 || g.list[i-1].chatKey != key {
		i = g.index[key]
	}
	if i == 0 {
		c, err := tx.findChat(key)
		if err != nil {
			return 0, &Fault{"read chat", err}
		}
		if g.index == nil {
			g.index = map[chatKey]int{}
		}
		g.list = append(g.list, c)
		i = len(g.list)
		g.index[key] = i
	}
	c := &g.list[i-1]
	c.user = cmp.Or(c.user, user)
	return i - 1, nil
}

// findChat looks a chat up in memory first, and gives a new one its ordinal.
func (tx *Tx) findChat(key chatKey) (stagedChat, error) {
	c := stagedChat{chatKey: key}
	var newest chatStanding
	for _, row := range tx.store.overlay.chat(key) {
		if row != nil {
			c.ordinal, c.user, newest = row.ordinal, cmp.Or(c.user, row.user), row.chatStanding
		}
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
	if newest.known && !newest.summed {
		c.last = newest.last
		return c, nil
	}
	row, err := tx.chatNow(&c)
	if err != nil {
		return c, err
	}
	c.user, c.last = row.user, row.sequence()
	if row.summarised() {
		c.totals = &row.chatTotals
	}
	return c, nil
}

// chat gives the rows that the generations hold of a chat, the older one first.
func (o *overlay) chat(key chatKey) (rows [2]*chatRow) {
	if o.frozen != nil {
		rows[0] = o.frozen.chats[key]
	}
	rows[1] = o.live.chats[key]
	return rows
}

// chatNow adds up what is known of a chat anywhere, up to what the transaction has added.
// Items of the running message that are no deltas are missing.
func (tx *Tx) chatNow(c *stagedChat) (*chat, error) {
	all, err := readChat(tx.bucket(bucketChats), c.ordinal)
	if err != nil {
		return nil, err
	}
	if all == nil {
		all = &chat{chatKey: c.chatKey}
	}
	rows := tx.store.overlay.chat(c.chatKey)
	if rows[0] != nil && tx.fold.pendingChat(c.ordinal) {
		all.take(rows[0])
	}
	if rows[1] != nil {
		all.take(rows[1])
	}
	all.take(&chatRow{user: c.user, deltas: c.deltas, told: c.told})
	return all, nil
}

// countInChat counts an event in its chat, whose place it gives, and notes in the event
// what it added to the sums.
func (tx *Tx) countInChat(command uint32, e *schemas.UsageEvent) (int, error) {
	e.Counted = nil // of a transaction that failed
	at, err := tx.chat(chatKey{e.AppID, e.ChatID}, e.UserID)
	if err != nil {
		return 0, err
	}
	c := &tx.stage.chats.list[at]
	c.counts = true
	own := schemas.SumsOf(e)
	var counted schemas.UsageSums
	if e.Summary {
		counted, err = tx.raise(c, &own)
	} else {
		counted = c.add(&own)
		c.message.deltas++
		c.message.causes.add(command)
	}
	if err == nil && counted != own {
		e.Counted = new(schemas.UsageSums)
		*e.Counted = counted
	}
	return at, err
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
		all, err := tx.chatNow(c)
		if err != nil {
			return counted, &Fault{"read chat", err}
		}
		c.totals = &all.chatTotals
	}
	high := c.totals.high
	if counted = c.totals.raise(to); c.totals.high == high {
		return counted, nil
	}
	return counted, tx.changeChat(c, func(row *chat) { row.high = c.totals.high })
}

// changeChat writes what is not left to folds into a chat's row.
func (tx *Tx) changeChat(c *stagedChat, change func(row *chat)) error {
	row, err := readChat(tx.bucket(bucketChats), c.ordinal)
	if err != nil {
		return &Fault{"read chat", err}
	}
	if row == nil {
		row = &chat{chatKey: c.chatKey}
	}
	row.user = cmp.Or(row.user, c.user)
	change(row)
	return faultOf("write chat", tx.put(bucketChats, keyOrdinal(c.ordinal), row.append(nil)))
}

// putChats writes how many items the message added to its chats, beside deltas.
func (tx *Tx) putChats() error {
	for _, at := range tx.items {
		c := &tx.stage.chats.list[at]
		if err := tx.changeChat(c, func(row *chat) { row.others += c.message.others }); err != nil {
			return err
		}
		c.message = chatInMessage{}
	}
	tx.items = tx.items[:0]
	return nil
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

// mergeChats adds what a transaction counted. The caller holds mu. A chat without usage
// is not entered: generations hold what the event log can give again, and folds go
// through all of it.
func (s *Store) mergeChats() {
	for i := range s.stage.chats.list {
		c := &s.stage.chats.list[i]
		standing := chatStanding{true, c.totals != nil && c.totals.summarised(), c.last}
		if !c.counts {
			for _, row := range s.overlay.chat(c.chatKey) {
				if row != nil {
					row.chatStanding = standing
				}
			}
			continue
		}
		row := s.overlay.live.chat(c.chatKey, c.ordinal, c.user)
		if !row.deltas.Add(&c.deltas) {
			s.overflowed.Store(true)
		}
		row.told += c.told
		row.chatStanding = standing
	}
}
