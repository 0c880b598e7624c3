package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// Dump writes the contents of every bucket in key order, but for where relays
// stand, which does not follow from messages. Two replays of one stream give the
// same bytes, however many messages shared a transaction.
func (s *Store) Dump(w io.Writer) error {
	return s.db.View(func(bolt *bbolt.Tx) error {
		for id := range bucketCount {
			c := bucketOf(bolt, id).cursor()
			for k, v := c.first(); k != nil; k, v = c.next() {
				if relayRecord(id, k) {
					continue
				}
				if _, err := fmt.Fprintf(w, "%s %x %x\n", id, k, v); err != nil {
					return err
				}
			}
			if c.err != nil {
				return c.err
			}
		}
		return nil
	})
}

// AppDigests gives a digest of each app's state: its aggregates, its ids with
// what they stand for, its adjustments, and what became of its batches, as far as
// they have not expired; behind a slash, when it has chats, the digest of those, and
// behind a number sign that of what it is entitled to, its budgets and its holds, and
// behind an at sign that of its runs.
// Positions, group cuts, instants of arrival and the ids of published commands are left out, so the digest is
// the same for any number of partitions (architecture §5).
func (s *Store) AppDigests(ctx context.Context) (map[string]string, error) {
	apps := map[string]*appDigest{}
	of := func(app string) *appDigest {
		d := apps[app]
		if d == nil {
			d = &appDigest{sums: map[string]*schemas.UsageSums{}}
			apps[app] = d
		}
		return d
	}
	if err := s.db.View(func(bolt *bbolt.Tx) error {
		above, err := readLine(bolt)
		if err != nil {
			return err
		}
		if err := digestEvents(bolt, &above, of); err != nil {
			return err
		}
		if err := digestAdjustments(bolt, &above, of); err != nil {
			return err
		}
		return digestBatches(bolt, &above, of)
	}); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for app, d := range apps {
		if app == "" {
			continue
		}
		add := func(hour uint32, rest string, sums *schemas.UsageSums) {
			key := string(binary.BigEndian.AppendUint32(nil, hour)) + rest
			if d.sums[key] == nil {
				d.sums[key] = &schemas.UsageSums{}
			}
			d.sums[key].Add(sums)
		}
		v, err := s.view(app, schemas.FirstHour, schemas.LastHour, add)
		if err != nil {
			return nil, err
		}
		err = v.rows(ctx, app, schemas.FirstHour, schemas.LastHour, add)
		v.close()
		if err != nil {
			return nil, err
		}
		out[app] = d.sum()
	}
	chats, err := s.chatDigests()
	if err != nil {
		return nil, err
	}
	for app, d := range chats {
		out[app] += "/" + d.sum()
	}
	entitlements, err := s.entitlementDigests()
	if err != nil {
		return nil, err
	}
	for app, d := range entitlements {
		out[app] += "#" + d.sum()
	}
	runs, err := s.runDigests()
	for app, d := range runs {
		out[app] += "@" + d.sum()
	}
	return out, err
}

// chatDigests gives a digest of each app's chats: whose they are, what their deltas
// sum up to and what summaries state. How many summaries were told depends on what
// became of runs first.
func (s *Store) chatDigests() (map[string]*appDigest, error) {
	apps := map[string]*appDigest{}
	err := s.eachChat(func(c *chat) {
		if apps[c.app] == nil {
			apps[c.app] = &appDigest{}
		}
		c.others = 0
		apps[c.app].items = append(apps[c.app].items, c.append([]byte("chat ")))
	})
	return apps, err
}

// appDigest gathers an app's state; lists are sorted before they are hashed.
type appDigest struct {
	sums  map[string]*schemas.UsageSums
	items [][]byte
}

func (d *appDigest) sum() string {
	for key, sums := range d.sums {
		d.items = append(d.items, append([]byte("row "+key+" "), appendSums(nil, sums)...))
	}
	slices.SortFunc(d.items, bytes.Compare)
	h := sha256.New()
	for _, item := range d.items {
		h.Write(binary.AppendUvarint(nil, uint64(len(item))))
		h.Write(item)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func digestEvents(bolt *bbolt.Tx, above *line, of func(string) *appDigest) error {
	var events []schemas.UsageEvent
	var commands []uint32
	known := 0
	c := bucketOf(bolt, bucketEvents).cursor()
	for k, v := c.seek(keySeq(above.Position)); k != nil; k, v = c.next() {
		var err error
		if events, commands, err = decodeChunk(v, events[:0], commands[:0]); err != nil {
			return err
		}
		for i := range events {
			e := &events[i]
			fp, _ := schemas.FingerprintOf(schemas.IDEvent, e.AppID, e.EventID, nil)
			digest, _ := schemas.ContentDigest(e, nil)
			item := append([]byte("event "), fp[:]...)
			d := of(string([]byte(e.AppID)))
			d.items = append(d.items, binary.BigEndian.AppendUint64(item, digest))
			known++
		}
	}
	// Every event has its id and no id is without its event.
	if c.err != nil {
		return c.err
	}
	c = bucketOf(bolt, bucketIDs).cursor()
	for k, v := c.seek(keyOrdinal(above.Ordinal)); k != nil; k, v = c.next() {
		chunk, err := parseIDChunk(v)
		if err != nil {
			return fmt.Errorf("id log at %x: %w", k, err)
		}
		for i := range chunk.len() {
			if chunk.at(i).kind == schemas.IDEvent {
				known--
			}
		}
	}
	if c.err != nil {
		return c.err
	}
	if known != 0 {
		return fmt.Errorf("event log and id log differ by %d events: %w", known, errDamaged)
	}
	return nil
}

func digestAdjustments(bolt *bbolt.Tx, above *line, of func(string) *appDigest) error {
	c := bucketOf(bolt, bucketAdjustments).cursor()
	for k, v := c.seek(keySeq(above.Position)); k != nil; k, v = c.next() {
		a, err := parseAdjustment(v)
		if err != nil {
			return fmt.Errorf("adjustment at %x: %w", k, err)
		}
		a.ChatID = "" // its event says it
		d := of(a.AppID)
		d.items = append(d.items, a.append([]byte("adjustment ")))
	}
	return c.err
}

func digestBatches(bolt *bbolt.Tx, above *line, of func(string) *appDigest) error {
	c := bucketOf(bolt, bucketBatches).cursor()
	for k, v := c.seek(keySeq(above.Position)); k != nil; k, v = c.next() {
		b, err := parseBatch(v)
		if err != nil {
			return err
		}
		for i := range b.Parts {
			p := &b.Parts[i]
			if p.Outcome == PartCarried || b.Made {
				continue
			}
			item := appendText([]byte("batch "), b.BatchID)
			item = append(item, byte(p.Outcome))
			item = append(item, p.Digest[:]...)
			for _, n := range [...]uint32{p.Accepted, p.Duplicates, p.Rejected} {
				item = binary.BigEndian.AppendUint32(item, n)
			}
			d := of(p.AppID)
			d.items = append(d.items, item)
		}
	}
	return c.err
}
