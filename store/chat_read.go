package store

import (
	"cmp"
	"context"
	"fmt"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// Chat tells whose a chat is, what it has used and the number of its last item; nil when
// the app has none of this id. It sees every command that was answered before it began.
// What a message did to a chat may be seen in part while that is being committed: the
// number is then one between those before and behind it.
func (s *Store) Chat(ctx context.Context, app, id string) (_ *schemas.ChatUsage, err error) {
	defer s.db.shield(&err)()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	look := chatLook{store: s, key: chatKey{app, id}}
	defer func() {
		if look.bolt != nil {
			_ = look.bolt.Rollback()
		}
	}()
	if err := look.begin(); err != nil || look.ordinal == 0 {
		return nil, err
	}
	row, err := look.read()
	if err != nil || row == nil {
		return nil, err
	}
	return &schemas.ChatUsage{AppID: row.app, ChatID: row.chat, UserID: row.user, Totals: row.counted(), Sequence: row.sequence()}, nil
}

// chatLook is one consistent look at a chat: a read transaction and what the
// generations that belong to it hold.
type chatLook struct {
	store   *Store
	key     chatKey
	bolt    *bbolt.Tx
	ordinal uint64
	live    *chatRow
	frozen  *generation
}

// begin opens the look. The lock of the ids comes first: the table must not point
// beyond the transaction.
func (l *chatLook) begin() (err error) {
	s := l.store
	s.idMu.RLock()
	defer s.idMu.RUnlock()
	if err := l.beginAt(); err != nil || l.ordinal != 0 {
		return err
	}
	if l.frozen != nil {
		if row := l.frozen.chats[l.key]; row != nil {
			l.ordinal = row.ordinal
			return nil
		}
	}
	fp := chatPrint(l.key)
	l.ordinal, err = s.chatOrdinal(bucketOf(l.bolt, bucketChatIDs), &fp)
	return err
}

func (l *chatLook) beginAt() (err error) {
	s := l.store
	s.mu.RLock()
	defer s.mu.RUnlock()
	if l.bolt, err = s.db.Begin(false); err != nil {
		return err
	}
	l.frozen = s.overlay.frozen
	if row := s.overlay.live.chats[l.key]; row != nil {
		live := *row // it goes on changing
		l.live, l.ordinal = &live, row.ordinal
	}
	return nil
}

// read adds up the row and what has not reached it yet, as view.rows does.
func (l *chatLook) read() (*chat, error) {
	fold, err := readFoldState(l.bolt)
	if err != nil {
		return nil, err
	}
	row, err := readChat(bucketOf(l.bolt, bucketChats), l.ordinal)
	if err != nil {
		return nil, err
	}
	pending := func(p *chatRow) {
		if row == nil {
			row = &chat{chatKey: l.key}
		}
		row.take(p)
	}
	if g := l.frozen; g != nil && fold.Number == g.number && fold.pendingChat(l.ordinal) && g.chats[l.key] != nil {
		pending(g.chats[l.key])
	}
	if l.live != nil {
		pending(l.live)
	}
	return row, nil
}

// eachChat passes on every chat with all that is known of it, in no order.
func (s *Store) eachChat(do func(c *chat)) (err error) {
	defer s.db.shield(&err)()
	all := map[chatKey]*chat{}
	bolt, frozen, err := s.beginChats(all)
	if err != nil {
		return err
	}
	defer func() { _ = bolt.Rollback() }()
	fold, err := readFoldState(bolt)
	if err != nil {
		return err
	}
	if frozen != nil && fold.Number == frozen.number {
		for key, row := range frozen.chats {
			if fold.pendingChat(row.ordinal) {
				addChat(all, chatOf(key, row))
			}
		}
	}
	c := bucketOf(bolt, bucketChats).cursor()
	for k, v := c.first(); k != nil; k, v = c.next() {
		row, err := parseChat(v)
		if err != nil {
			return fmt.Errorf("chat at %x: %w", k, err)
		}
		addChat(all, row)
	}
	for _, row := range all {
		do(row)
	}
	return c.err
}

// addChat puts what is known of a chat from before in front of the rest.
func addChat(all map[chatKey]*chat, older *chat) {
	if newer := all[older.chatKey]; newer != nil {
		older.user = cmp.Or(older.user, newer.user)
		older.told += newer.told
		older.deltas.Add(&newer.deltas)
	}
	all[older.chatKey] = older
}

// chatOf is what a generation alone knows of a chat.
func chatOf(key chatKey, row *chatRow) *chat {
	c := &chat{chatKey: key}
	c.take(row)
	return c
}

// beginChats opens a look at all chats and gives those of the live generation.
func (s *Store) beginChats(all map[chatKey]*chat) (*bbolt.Tx, *generation, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	bolt, err := s.db.Begin(false)
	if err != nil {
		return nil, nil, err
	}
	for key, row := range s.overlay.live.chats {
		all[key] = chatOf(key, row)
	}
	return bolt, s.overlay.frozen, nil
}
