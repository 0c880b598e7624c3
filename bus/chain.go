package bus

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"grout/schemas"
)

// headerAfter links a fact to the one before it of its partition: that one's position,
// when it was published, and the history it is of. A stream that has lost facts in its
// middle has a link that leads nowhere.
const headerAfter = "Grout-After"

// afterText is the link to what this relay has published last.
func (r *Relay) afterText(before schemas.Position, published time.Time) string {
	return fmt.Sprintf("%s %d %d", r.positionText(before), published.Unix(), r.opts.Origin())
}

type link struct {
	partition int
	at        schemas.Position
	published time.Time // 1970 and before: never
	origin    int64
}

func parseLink(text string) (l link, ok bool) {
	var unix int64
	n, err := fmt.Sscanf(text, "%d/%d/%d/%d/%d %d %d", &l.partition, &l.at.Epoch, &l.at.Seq, &l.at.Index, &l.at.N, &unix, &l.origin)
	l.published = time.Unix(unix, 0)
	return l, err == nil && n == 7
}

// FactsOf says what a partition's facts in a stream must be like.
type FactsOf struct {
	Origin  int64            // of the partition's store; 0 is unknown
	Relayed schemas.Position // everything up to here has been published
	Applied time.Time        // of the last command; the relay's marker was not older by more than its renewal
}

// Chain follows the links of the facts in a destination stream.
type Chain struct {
	stream   string
	complete time.Time // facts since then cannot have expired
	of       map[int]FactsOf
	last     map[int]schemas.Position
	foreign  map[int]bool
	markers  map[int]bool
	breaks   []string
}

// NewChain makes a chain for a stream whose facts since an instant must all be there.
func NewChain(stream string, complete time.Time, of map[int]FactsOf) *Chain {
	return &Chain{stream: stream, complete: complete, of: of, last: map[int]schemas.Position{}, foreign: map[int]bool{}, markers: map[int]bool{}}
}

// maxBreaks bounds what is listed of a chain.
const maxBreaks = 20

func (c *Chain) broken(format string, args ...any) {
	if len(c.breaks) < maxBreaks {
		c.breaks = append(c.breaks, fmt.Sprintf(format, args...))
	}
}

// Add takes the next message of the stream.
func (c *Chain) Add(m *StoredMessage) error {
	if p, ok := markerOf(m.Subject); ok {
		c.markers[p] = true
	}
	position, text := headerOf(m.Header, headerPosition), headerOf(m.Header, headerAfter)
	before, linked := parseLink(text)
	at, ok := parseLink(position + " 0 0")
	if !ok || !linked || at.partition != before.partition {
		return nil // a marker, or of nobody's relay
	}
	want, known := c.of[at.partition]
	if known && want.Origin != 0 && before.origin != 0 && before.origin != want.Origin {
		if !c.foreign[at.partition] { // one is enough
			c.broken("message %d, and perhaps others, is of another store", m.Seq)
		}
		c.foreign[at.partition] = true
		return nil
	}
	last, seen := c.last[at.partition]
	switch {
	case !seen && before.at != (schemas.Position{}) && before.published.After(c.complete):
		c.broken("the facts of partition %d up to %s, the last of which was published %s, are gone from before message %d", at.partition, before.at, before.published.UTC().Format(time.RFC3339), m.Seq)
	case seen && before.at.Compare(last) > 0:
		c.broken("the facts of partition %d behind %s and up to %s are gone from before message %d", at.partition, last, before.at, m.Seq)
	}
	if !seen || at.at.Compare(last) > 0 {
		c.last[at.partition] = at.at
	}
	return nil
}

// End tells what is missing, once everything was added.
func (c *Chain) End() []string {
	for _, p := range sortedKeys(c.of) {
		of := c.of[p]
		if _, seen := c.last[p]; !seen && !c.markers[p] && of.Relayed != (schemas.Position{}) && of.Applied.After(c.complete.Add(2*ageMargin)) {
			c.broken("everything of partition %d, which was published up to %s, is gone", p, of.Relayed)
			continue
		}
		if last, seen := c.last[p]; seen && c.of[p].Relayed.Compare(last) > 0 {
			c.broken("the facts of partition %d behind %s and up to %s, which were published, are gone", p, last, c.of[p].Relayed)
		}
	}
	return c.breaks
}

func sortedKeys(m map[int]FactsOf) (list []int) {
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// markerOf gives the partition whose relay has a marker on a subject.
func markerOf(subject string) (partition int, ok bool) {
	rest, ok := strings.CutPrefix(subject, "mozaiks.v1.relay.")
	_, number, found := strings.Cut(rest, ".")
	partition, err := strconv.Atoi(number)
	return partition, ok && found && err == nil
}

// headerOf finds a header in its text form.
func headerOf(header []byte, name string) string {
	_, rest, found := bytes.Cut(header, []byte("\r\n"+name+":"))
	if !found {
		return ""
	}
	value, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return strings.TrimSpace(string(value))
}

// CompleteSince tells from when on facts cannot have left a stream by its own limits.
func (b *Bus) CompleteSince(ctx context.Context, stream string) (time.Time, error) {
	s, err := b.js.Stream(ctx, stream)
	if err != nil {
		return time.Time{}, fmt.Errorf("look up stream %s: %w", stream, err)
	}
	info := s.CachedInfo()
	return completeSince(info.State.Bytes, info.Config.MaxBytes, info.Config.MaxAge), nil
}

// margins within which a stream may have come to its limits.
const (
	ageMargin  = time.Hour
	sizeMargin = 4 // parts of the limit
)

func completeSince(bytes uint64, maxBytes int64, maxAge time.Duration) time.Time {
	now := time.Now()
	if maxBytes > 0 && int64(bytes) > maxBytes-maxBytes/sizeMargin {
		return now.Add(ageMargin) // what is gone may be gone for its size
	}
	if maxAge > 0 {
		return now.Add(ageMargin - maxAge)
	}
	return time.Unix(0, 0)
}

// linkHeader gives a fact its place and its link.
func (r *Relay) linkHeader(h nats.Header, at, before schemas.Position, published time.Time) {
	h[headerPosition] = []string{r.positionText(at)}
	h[headerAfter] = []string{r.afterText(before, published)}
}
