package schemas

import "encoding/binary"

// DeliverySource says what a delivery reads, and so what its place counts in.
type DeliverySource byte

// What deliveries read.
const (
	DeliverEvents DeliverySource = 1 + iota // the event log of a partition; places are log positions
	DeliverFacts                            // MOZAIKS_EVT; places are sequences of the stream
)

// Bounds of deliveries.
const (
	MaxDeliveryReason = 256 // bytes
	// DeliveryKept is how long after its arrival an event that a delivery has still to
	// send keeps its segment from expiring, in nanoseconds (architecture §4).
	DeliveryKept = 60 * 24 * hour
)

// DeliveryStand is how a delivery out of the house stands, as the log knows it. What was
// sent since the newest mark is sent again after a kill.
type DeliveryStand struct {
	Name      string // of the characters of a configuration's name
	Source    DeliverySource
	Seq       uint64 // everything before it is delivered
	Index     uint32 // and so many events of the message there
	Stream    int64  // creation of the stream that Seq counts in; of facts
	Delivered uint64
	Refused   uint64 // for good, by who was to have them
	Stopped   string // why nothing is sent any more; empty: it works
	StoppedAt int64  // nanoseconds since 1970 UTC
	Gaps      uint64 // that there were so far
	Gap       DeliveryGap
	MarkedAt  int64 // handler time of the newest mark
}

// DeliveryGap is what could not be delivered, because it was not there any more.
type DeliveryGap struct {
	From, To uint64 // places, both inclusive
	At       int64  // nanoseconds since 1970 UTC: when it was found
	Until    int64  // what arrived until then is gone; 0: not known
}

// Behind orders places of one source and stream.
func (d *DeliveryStand) Behind(o *DeliveryStand) bool {
	return d.Seq < o.Seq || d.Seq == o.Seq && d.Index < o.Index
}

// DeliveryOp says what a mark does.
type DeliveryOp byte

// What marks do.
const (
	DeliverySet    DeliveryOp = 1 + iota // it stands there now
	DeliveryBegin                        // it begins here, unless it is known; one of events behind what the log holds by then
	DeliveryRemove                       // it is forgotten
)

// DeliveryMark is the payload of delivery.mark, which keeps where deliveries stand. Only
// grout writes it.
type DeliveryMark struct {
	Op    DeliveryOp
	Stand DeliveryStand // without MarkedAt
}

// EncodePayload gives the stored form: form 1, what it does, stand.
func (m *DeliveryMark) EncodePayload(dst []byte) []byte {
	return m.Stand.appendFields(append(dst, 1, byte(m.Op)))
}

// DecodePayload reads what EncodePayload wrote. Texts point into it.
func (m *DeliveryMark) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	m.Op = DeliveryOp(r.Byte())
	m.Stand = DeliveryStand{}
	m.Stand.readFields(&r)
	if err := r.end(); err != nil {
		return err
	}
	return m.Validate()
}

// Validate says what is wrong with a mark.
func (m *DeliveryMark) Validate() error {
	d := &m.Stand
	switch {
	case m.Op < DeliverySet || m.Op > DeliveryRemove:
		return Errorf(CodeValidation, "a mark of a delivery cannot do %d", m.Op)
	case !configName(d.Name):
		return Errorf(CodeValidation, "%.200q is no name of a delivery", d.Name)
	case d.Source != DeliverEvents && d.Source != DeliverFacts:
		return Errorf(CodeValidation, "delivery %s reads nothing that is known", d.Name)
	case len(d.Stopped) > MaxDeliveryReason:
		return Errorf(CodeValidation, "delivery %s: the reason has more than %d bytes", d.Name, MaxDeliveryReason)
	}
	return nil
}

// AppendStand gives the stored form of a stand: form 1, its fields, when it was marked.
func (d *DeliveryStand) AppendStand(dst []byte) []byte {
	return binary.AppendVarint(d.appendFields(append(dst, 1)), d.MarkedAt)
}

// DecodeStand reads what AppendStand wrote. Texts point into it.
func (d *DeliveryStand) DecodeStand(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	*d = DeliveryStand{}
	d.readFields(&r)
	d.MarkedAt = r.Varint()
	return r.end()
}

func (d *DeliveryStand) appendFields(b []byte) []byte {
	b = append(appendText(b, d.Name), byte(d.Source))
	b = binary.AppendUvarint(b, d.Seq)
	b = binary.AppendUvarint(b, uint64(d.Index))
	b = binary.AppendVarint(b, d.Stream)
	b = binary.AppendUvarint(b, d.Delivered)
	b = binary.AppendUvarint(b, d.Refused)
	b = appendText(b, d.Stopped)
	b = binary.AppendVarint(b, d.StoppedAt)
	b = binary.AppendUvarint(b, d.Gaps)
	b = binary.AppendUvarint(b, d.Gap.From)
	b = binary.AppendUvarint(b, d.Gap.To)
	b = binary.AppendVarint(b, d.Gap.At)
	return binary.AppendVarint(b, d.Gap.Until)
}

func (d *DeliveryStand) readFields(r *Wire) {
	d.Name, d.Source = r.Text(), DeliverySource(r.Byte())
	d.Seq, d.Index = r.Uvarint(), r.Uint32()
	d.Stream = r.Varint()
	d.Delivered, d.Refused = r.Uvarint(), r.Uvarint()
	d.Stopped, d.StoppedAt = r.Text(), r.Varint()
	d.Gaps = r.Uvarint()
	d.Gap = DeliveryGap{From: r.Uvarint(), To: r.Uvarint(), At: r.Varint(), Until: r.Varint()}
}

// SentEvent is an event of the log on its way to another house.
type SentEvent struct {
	Event      UsageEvent
	RecordedAt int64 // nanoseconds since 1970 UTC: handler time of its command
	Seq        uint64
	Index      uint32 // in its message
}

// SentPage is a stretch of the event log.
type SentPage struct {
	Events []SentEvent
	Seq    uint64 // where it ends: everything before it is in the page, or in one before it
	Index  uint32 // and so many events of the message there
	More   bool   // there may be more behind it
}

// DeliveryTrouble is a delivery that is not well, for whoever looks at GET /ready.
type DeliveryTrouble struct {
	Name   string `json:"name"`
	State  string `json:"state"` // failing or stopped
	Detail string `json:"detail"`
	Since  string `json:"since"`
}
