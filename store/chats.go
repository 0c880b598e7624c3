package store

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// A chat is known by an ordinal, which it gets with its first event, of usage or of a
// run, and keeps for ever: its row in `chats` stands under it, so that chats of one time
// lie together. chat_ids holds, under the first ordinal of those of one message, a
// fingerprint for each; idTable leads to it. Deltas, their sums and their number, live in
// generations and reach the rows in folds, like the aggregates; what summaries state, and
// the number of a chat's other items, is rare and written at once. Form 1 of a chunk:
// form, fingerprints. Form 1 of a row: form, app, chat, user, sums of the deltas, number
// of deltas, of other items, then, once a summary stated anything, the highest values.

// chatKey names a chat.
type chatKey struct{ app, chat string }

// chat is a row.
type chat struct {
	chatKey
	user string // of the first event that names one
	chatTotals
	told   uint64 // deltas
	others uint64 // facts of runs, and summaries that were told
}

// sequence is the number of the chat's last item: every item takes the next (contract §6).
func (c *chat) sequence() uint64 { return c.told + c.others }

// used reports whether the chat has usage.
func (c *chat) used() bool { return c.told > 0 || c.summarised() }

// take adds what a generation holds of the chat, which comes later. It reports whether
// every sum still fits.
func (c *chat) take(g *chatRow) bool {
	c.user = cmp.Or(c.user, g.user)
	c.told += g.told
	return c.deltas.Add(&g.deltas)
}

// chatTotals is what is known of a chat's usage: the sums of its deltas and, of each
// figure, the highest that a summary states. What counts is the greater of the two
// (contract §7). Events are counted by deltas alone.
type chatTotals struct{ deltas, high schemas.UsageSums }

func (t *chatTotals) counted() schemas.UsageSums { return t.deltas.Max(t.high) }

// add moves the deltas and tells by how much what counts has moved.
func (t *chatTotals) add(d *schemas.UsageSums) schemas.UsageSums {
	before := t.counted()
	t.deltas.Add(d)
	return t.counted().Minus(before)
}

// raise takes a summary and tells by how much what counts has moved.
func (t *chatTotals) raise(to *schemas.UsageSums) schemas.UsageSums {
	before := t.counted()
	t.high = t.high.Max(*to)
	return t.counted().Minus(before)
}

// summarised reports whether a summary stated anything. Before that every delta
// counts in full.
func (t *chatTotals) summarised() bool { return t.high != schemas.UsageSums{} }

func (c *chat) append(b []byte) []byte {
	b = appendRest(append(b, 1), c.app, c.chat, c.user)
	b = c.deltas.Append(b)
	b = binary.AppendUvarint(b, c.told)
	b = binary.AppendUvarint(b, c.others)
	if c.summarised() {
		b = c.high.Append(b)
	}
	return b
}

func parseChat(v []byte) (*chat, error) {
	r := newReader(v)
	r.Form(1)
	c := &chat{chatKey: chatKey{r.text(), r.text()}, user: r.text()}
	c.deltas, c.told, c.others = r.Sums(), r.Uvarint(), r.Uvarint()
	if r.Err == nil && len(r.B) > 0 {
		c.high = r.Sums()
	}
	if len(r.B) > 0 {
		r.Fail()
	}
	return c, r.Err
}

// readChat gives a chat's row; nil before its first fold, summary or fact of a run.
func readChat(chats bucket, ordinal uint64) (*chat, error) {
	v, err := chats.get(keyOrdinal(ordinal))
	if err != nil || v == nil {
		return nil, err
	}
	c, err := parseChat(v)
	if err != nil {
		return nil, fmt.Errorf("chat %d: %w", ordinal, err)
	}
	return c, nil
}

const (
	chatChunkHead   = 1
	chatChunkLength = 2048 // chats of a message under one key
	chatEntrySize   = 16
)

func appendChatChunk(b []byte, prints []schemas.Fingerprint) []byte {
	b = append(b, 1)
	for i := range prints {
		b = append(b, prints[i][:]...)
	}
	return b
}

// chatChunk gives the fingerprints of a chunk.
func chatChunk(v []byte) ([]byte, error) {
	if len(v) <= chatChunkHead || v[0] != 1 || (len(v)-chatChunkHead)%chatEntrySize != 0 {
		return nil, errDamaged
	}
	return v[chatChunkHead:], nil
}

func chatPrint(key chatKey) schemas.Fingerprint {
	fp, _ := schemas.FingerprintOf(schemas.IDChat, key.app, key.chat, nil)
	return fp
}

// chatOrdinal finds a committed chat; 0 is none.
func (s *Store) chatOrdinal(ids bucket, fp *schemas.Fingerprint) (ordinal uint64, err error) {
	s.chatIDs.find(fp, func(o uint64) bool {
		var found schemas.Fingerprint
		if found, err = readChatID(ids, o); err != nil {
			return true
		}
		if found == *fp {
			ordinal = o
		}
		return ordinal != 0
	})
	return ordinal, err
}

// readChatID gives the fingerprint at an ordinal. Like in the id log the seals were
// verified when the file was opened.
func readChatID(ids bucket, ordinal uint64) (fp schemas.Fingerprint, err error) {
	c := ids.Cursor()
	k, v := c.Seek(keyOrdinal(ordinal))
	if k == nil || binary.BigEndian.Uint64(k) != ordinal {
		k, v = c.Prev()
	}
	if len(v) >= sealSize {
		chunk, err := chatChunk(v[:len(v)-sealSize])
		if at := chatEntrySize * (ordinal - binary.BigEndian.Uint64(k)); err == nil && at < uint64(len(chunk)) {
			return schemas.Fingerprint(chunk[at : at+chatEntrySize]), nil
		}
	}
	return fp, fmt.Errorf("chat ids: ordinal %d: %w", ordinal, errDamaged)
}

func (s *Store) loadChats(bolt *bbolt.Tx) error {
	s.chatIDs.key, s.nextChat = s.ids.key, 1
	c := bucketOf(bolt, bucketChatIDs).cursor()
	for k, v := c.first(); k != nil; k, v = c.next() {
		chunk, err := chatChunk(v)
		if err != nil || binary.BigEndian.Uint64(k) != s.nextChat {
			return fmt.Errorf("chat ids at %x: %w", k, errDamaged)
		}
		for ; len(chunk) > 0; chunk = chunk[chatEntrySize:] {
			s.chatIDs.add((*schemas.Fingerprint)(chunk), s.nextChat)
			s.nextChat++
		}
	}
	s.stats.chats.Store(int64(s.chatIDs.used))
	return c.err
}

// chatRow is what a generation holds of a chat.
type chatRow struct {
	ordinal uint64
	user    string // of its first event in the generation
	deltas  schemas.UsageSums
	told    uint64
	chatStanding
}

// chatStanding is what the goroutine that updates knows of a chat without reading its row.
// It knows nothing of a generation that was read from the event log.
type chatStanding struct {
	known  bool
	summed bool   // the row holds values of summaries
	last   uint64 // number of the chat's last item
}

type foldChat struct {
	chatKey
	*chatRow
}

// chat gives the row of a chat, which it makes when there is none.
func (g *generation) chat(key chatKey, ordinal uint64, user string) *chatRow {
	row := g.chats[key]
	if row == nil {
		row = &chatRow{ordinal: ordinal, user: strings.Clone(user)}
		g.chats[chatKey{strings.Clone(key.app), strings.Clone(key.chat)}] = row
	}
	return row
}

// sortChats orders the chats for folding.
func (g *generation) sortChats() {
	g.chatOrder = make([]foldChat, 0, len(g.chats))
	for key, row := range g.chats {
		g.chatOrder = append(g.chatOrder, foldChat{key, row})
	}
	slices.SortFunc(g.chatOrder, func(a, b foldChat) int { return cmp.Compare(a.ordinal, b.ordinal) })
}

// fromChat gives the place of the first chat at or after an ordinal.
func (g *generation) fromChat(ordinal uint64) int {
	<-g.sorted
	i, _ := slices.BinarySearchFunc(g.chatOrder, ordinal, func(c foldChat, o uint64) int { return cmp.Compare(c.ordinal, o) })
	return i
}

// addChat folds one chat of the frozen generation into its row.
func (tx *Tx) addChat(f foldChat) error {
	return tx.update(bucketChats, keyOrdinal(f.ordinal), func(old []byte) ([]byte, error) {
		row := &chat{chatKey: f.chatKey}
		if old != nil {
			var err error
			if row, err = parseChat(old); err != nil {
				return nil, fmt.Errorf("chat %d: %w", f.ordinal, err)
			}
		}
		if !row.take(f.chatRow) {
			tx.store.overflowed.Store(true)
		}
		return row.append(nil), nil
	})
}

// chatLoader lets generations that are read from the event log hold its chats.
type chatLoader struct {
	store *Store
	ids   bucket
}

func (l *chatLoader) chat(g *generation, key chatKey, user string) (*chatRow, error) {
	if row := g.chats[key]; row != nil {
		return row, nil
	}
	fp := chatPrint(key)
	ordinal, err := l.store.chatOrdinal(l.ids, &fp)
	if err == nil && ordinal == 0 {
		err = fmt.Errorf("chat %q of app %q has no ordinal: %w", key.chat, key.app, errDamaged)
	}
	if err != nil {
		return nil, err
	}
	return g.chat(key, ordinal, user), nil
}

// add takes an event. What a summary states is in the chat's row already.
func (l *chatLoader) add(g *generation, e *schemas.UsageEvent) error {
	if e.ChatID == "" {
		return nil
	}
	row, err := l.chat(g, chatKey{e.AppID, e.ChatID}, e.UserID)
	if err != nil || e.Summary {
		return err
	}
	own := schemas.SumsOf(e)
	row.deltas.Add(&own)
	row.told++
	return nil
}

func (l *chatLoader) addAdjustment(g *generation, a *Adjustment) error {
	if a.ChatID == "" {
		return nil
	}
	row, err := l.chat(g, chatKey{a.AppID, a.ChatID}, a.UserID)
	if err == nil {
		row.deltas.Add(&a.Change)
	}
	return err
}
