package bus

import (
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// inStream is MOZAIKS_IN: what others publish, until a pump has put it into the log. It
// is full when InBytes are (a publisher is told), so a flood takes nothing from
// MOZAIKS_CMD, and no header of a publisher can change or remove what is stored.
//
// A stream with a duplicate window would drop the second of two commands that carry one
// Nats-Msg-Id, whoever sent them and for whatever app. The server takes a window of 0,
// which is none, only for a stream with a source; so it has one that never brings
// anything, because nobody publishes there.
func (b *Bus) inStream(std jetstream.StreamConfig) jetstream.StreamConfig {
	in := std
	in.Name, in.Subjects = schemas.StreamIn, []string{schemas.SubjectsFrom}
	in.Discard, in.MaxBytes, in.Duplicates = jetstream.DiscardNew, b.cfg.InBytes, 0
	in.MaxMsgSize = publicSize // a letter of it fits into the log
	in.Sources = []*jetstream.StreamSource{{Name: schemas.StreamFacts, FilterSubject: neverPublished}}
	source, destination := schemas.InTransform(b.cfg.Partitions)
	in.SubjectTransform = &jetstream.SubjectTransformConfig{Source: source, Destination: destination}
	return in
}

// publicSize is what a message of MOZAIKS_IN may have, with its headers.
const publicSize = schemas.MaxPublicBytes + headerRoom

// neverPublished is a subject of MOZAIKS_EVT where only a relay's marker could be, and
// markers end with the number of a partition.
const neverPublished = "mozaiks.v1.relay.evt.none"

func sameSources(have, want []*jetstream.StreamSource) bool {
	return slices.EqualFunc(have, want, func(a, b *jetstream.StreamSource) bool {
		return a.Name == b.Name && a.FilterSubject == b.FilterSubject && len(a.SubjectTransforms) == 0 &&
			a.External == nil && a.Domain == ""
	})
}

func sameTransform(a, b *jetstream.SubjectTransformConfig) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
