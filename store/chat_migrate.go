package store

import (
	"encoding/binary"
	"fmt"
	"strings"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// oldChats are the chats of a file of format 1, which knew them from its events only.
type oldChats struct {
	index  map[chatKey]*oldChat
	list   []*oldChat              // by ordinal, from 1
	fresh  [][]schemas.Fingerprint // of the chats that a message named first, by ordinal
	chatOf map[chatKey]string      // of corrected events, by app and event id
}

type oldChat struct {
	chat
	folded bool // some of it: then it has a row
}

// gatherChats reads the chats of a file. What is folded into its aggregates goes into
// the rows of the chats, too.
func gatherChats(old *bbolt.Tx) (*oldChats, error) {
	g := &oldChats{index: map[chatKey]*oldChat{}, chatOf: map[chatKey]string{}}
	fold, err := parseFoldState(old.Bucket([]byte(bucketMeta.String())).Get(metaFold))
	if err != nil {
		return nil, err
	}
	if err := g.adjustments(old, func(_ uint64, a *Adjustment) { g.chatOf[chatKey{a.AppID, a.EventID}] = "" }); err != nil {
		return nil, err
	}
	if err := g.events(old, fold.Folded); err != nil {
		return nil, err
	}
	return g, g.adjustments(old, func(position uint64, a *Adjustment) {
		if c := g.index[chatKey{a.AppID, g.chatOf[chatKey{a.AppID, a.EventID}]}]; c != nil && position <= fold.Folded {
			c.deltas.Add(&a.Delta)
		}
	})
}

func (g *oldChats) adjustments(old *bbolt.Tx, do func(position uint64, a *Adjustment)) error {
	c := old.Bucket([]byte(bucketAdjustments.String())).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		a, err := parseAdjustment(v)
		if err != nil {
			return fmt.Errorf("adjustment at %x: %w", k, err)
		}
		do(binary.BigEndian.Uint64(k), a)
	}
	return nil
}

func (g *oldChats) events(old *bbolt.Tx, folded uint64) error {
	c := old.Bucket([]byte(bucketEvents.String())).Cursor()
	var events []schemas.UsageEvent
	var commands []uint32
	last := uint64(0)
	for k, v := c.First(); k != nil; k, v = c.Next() {
		var err error
		if events, commands, err = decodeChunk(v, events[:0], commands[:0]); err != nil {
			return fmt.Errorf("event log at %x: %w", k, err)
		}
		position := binary.BigEndian.Uint64(k)
		if position != last {
			g.fresh, last = append(g.fresh, nil), position
		}
		for i := range events {
			g.event(&events[i], position <= folded)
		}
	}
	return nil
}

func (g *oldChats) event(e *schemas.UsageEvent, folded bool) {
	if e.ChatID == "" {
		return
	}
	key := chatKey{strings.Clone(e.AppID), strings.Clone(e.ChatID)}
	c := g.index[key]
	if c == nil {
		c = &oldChat{chat: chat{chatKey: key, user: strings.Clone(e.UserID)}}
		g.index[key] = c
		g.list = append(g.list, c)
		g.fresh[len(g.fresh)-1] = append(g.fresh[len(g.fresh)-1], chatPrint(key))
	}
	if id := (chatKey{e.AppID, e.EventID}); len(g.chatOf) > 0 {
		if _, corrected := g.chatOf[id]; corrected {
			g.chatOf[chatKey{key.app, strings.Clone(e.EventID)}] = key.chat
		}
	}
	if folded {
		own := schemas.SumsOf(e)
		c.deltas.Add(&own)
		c.told++ // nobody was told then: what follows has the numbers behind them
		c.folded = true
	}
}

// adjustment gives the value that a row has now: it names the chat of its event.
func (g *oldChats) adjustment(old []byte) ([]byte, error) {
	a, err := parseAdjustment(old)
	if err != nil {
		return nil, err
	}
	a.ChatID = g.chatOf[chatKey{a.AppID, a.EventID}]
	return a.append(nil), nil
}

// put writes the rows and tells how many they are.
func (g *oldChats) put(tx *Tx) (rows int64, err error) {
	ordinal := uint64(1)
	for _, prints := range g.fresh {
		for len(prints) > 0 {
			n := min(len(prints), chatChunkLength)
			if err := tx.add(bucketChatIDs, keyOrdinal(ordinal), appendChatChunk(nil, prints[:n])); err != nil {
				return rows, err
			}
			prints, ordinal, rows = prints[n:], ordinal+uint64(n), rows+1
		}
	}
	for i, c := range g.list {
		if !c.folded {
			continue
		}
		if err := tx.add(bucketChats, keyOrdinal(uint64(i)+1), c.append(nil)); err != nil {
			return rows, err
		}
		rows++
	}
	return rows, nil
}
