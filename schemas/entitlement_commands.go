package schemas

import "encoding/binary"

// Limits of reservations (contract §5.3), in seconds.
const (
	DefaultHoldSeconds = 60
	MaxHoldSeconds     = 3600
	// MaxHoldAge is how long after its grant a hold can be extended to, in nanoseconds.
	MaxHoldAge = 30 * 24 * hour
)

// ManifestSync is the payload of entitlement.sync. Only Content travels; what it says
// is read again where it is decoded.
type ManifestSync struct{ Manifest *Manifest }

// SubscriptionSync is the payload of subscription.sync. Only Content travels.
type SubscriptionSync struct{ Subscription *Subscription }

// BudgetReserve is the payload of budget.reserve (contract §5.3). The app is that of
// the command.
type BudgetReserve struct {
	ReservationID string
	UserID        string
	TenantID      string
	Model         string
	Tokens        Tokens // estimated
	TTL           int64  // seconds
}

// BudgetSettle is the payload of budget.settle: what the hold came to.
type BudgetSettle struct {
	ReservationID string
	// Event is what was used. Its app is empty; user, tenant, model and timestamp may
	// be, and come from the hold and the command then (SettledEvent).
	Event UsageEvent
	Timed bool // Event has a timestamp
}

// BudgetExtend is the payload of budget.extend.
type BudgetExtend struct {
	ReservationID string
	TTL           int64 // seconds from the command on
}

// BudgetRelease is the payload of budget.release.
type BudgetRelease struct{ ReservationID string }

// EntitlementCheck is a request to check, and the payload of entitlement.check when it
// counts (contract §5.3). The app is that of the command.
type EntitlementCheck struct {
	UserID   string
	TenantID string
	Plugin   string
	Action   string
	Feature  string
	Limit    string
	Model    string
	Needed   int64 // of Limit
	Tokens   Tokens
	Asked    bool // Tokens were named, even as 0
	Count    bool
}

// EncodePayload gives the stored form. Form 1: form, content.
func (s *ManifestSync) EncodePayload(dst []byte) []byte {
	return appendBytes(append(dst, 1), s.Manifest.Content)
}

// DecodePayload reads what EncodePayload wrote.
func (s *ManifestSync) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	content := r.Bytes(r.Uvarint())
	if err := r.end(); err != nil {
		return err
	}
	m, err := ParseManifest(content)
	if err != nil {
		return err
	}
	s.Manifest = m
	return nil
}

// EncodePayload gives the stored form. Form 1: form, content.
func (s *SubscriptionSync) EncodePayload(dst []byte) []byte {
	return appendBytes(append(dst, 1), s.Subscription.Content)
}

// DecodePayload reads what EncodePayload wrote.
func (s *SubscriptionSync) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	content := r.Bytes(r.Uvarint())
	if err := r.end(); err != nil {
		return err
	}
	sub, m, err := ParseSubscription(content)
	if err != nil {
		return err
	}
	if m != nil {
		return ErrDamaged // a manifest is another kind
	}
	s.Subscription = sub
	return nil
}

func appendBytes(dst, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// EncodePayload gives the stored form. Form 1: form, reservation id, user, tenant,
// model, tokens (total, input, output), seconds.
func (b *BudgetReserve) EncodePayload(dst []byte) []byte {
	dst = append(dst, 1)
	for _, s := range [...]string{b.ReservationID, b.UserID, b.TenantID, b.Model} {
		dst = appendText(dst, s)
	}
	dst = appendTokens(dst, b.Tokens)
	return binary.AppendUvarint(dst, uint64(b.TTL))
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (b *BudgetReserve) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	*b = BudgetReserve{ReservationID: r.name(), UserID: r.Text(), TenantID: r.Text(), Model: r.Text(), Tokens: r.tokens(), TTL: r.seconds()}
	return r.end()
}

func appendTokens(dst []byte, t Tokens) []byte {
	for _, n := range [...]int64{t.Total, t.Input, t.Output} {
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	return dst
}

func (r *Wire) tokens() Tokens { return Tokens{r.limited(), r.limited(), r.limited()} }

// limited reads a number of 0 to MaxLimit.
func (r *Wire) limited() int64 {
	n := r.Uvarint()
	if n > MaxLimit {
		r.Fail()
		return 0
	}
	return int64(n)
}

func (r *Wire) seconds() int64 {
	n := r.Uvarint()
	if n < 1 || n > MaxHoldSeconds {
		r.Fail()
		return 0
	}
	return int64(n)
}

// name reads a text that is not empty.
func (r *Wire) name() string {
	s := r.Text()
	if s == "" {
		r.Fail()
	}
	return s
}

// EncodePayload gives the stored form. Form 1: form, reservation id, whether the event
// has a timestamp, usage block of the one event.
func (b *BudgetSettle) EncodePayload(dst []byte) []byte {
	dst = appendText(append(dst, 1), b.ReservationID)
	dst = append(dst, boolByte(b.Timed))
	return AppendUsageBlock(dst, 1, func(int) *UsageEvent { return &b.Event })
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (b *BudgetSettle) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	b.ReservationID = r.name()
	timed := r.Byte()
	events, _ := r.usageBlock(nil)
	if r.Err == nil && (timed > 1 || len(events) != 1 || events[0].EventID == "" || events[0].Summary || events[0].Counted != nil) {
		r.Fail()
	}
	if err := r.end(); err != nil {
		return err
	}
	b.Timed, b.Event = timed == 1, events[0]
	return nil
}

// EncodePayload gives the stored form. Form 1: form, reservation id, seconds.
func (b *BudgetExtend) EncodePayload(dst []byte) []byte {
	return binary.AppendUvarint(appendText(append(dst, 1), b.ReservationID), uint64(b.TTL))
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (b *BudgetExtend) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	b.ReservationID, b.TTL = r.name(), r.seconds()
	return r.end()
}

// EncodePayload gives the stored form. Form 1: form, reservation id.
func (b *BudgetRelease) EncodePayload(dst []byte) []byte {
	return appendText(append(dst, 1), b.ReservationID)
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (b *BudgetRelease) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	b.ReservationID = r.name()
	return r.end()
}

const (
	checkCounts = 1 << iota
	checkAsks
)

// EncodePayload gives the stored form. Form 1: form, flags, user, tenant, plugin,
// action, feature, limit, model, needed, tokens.
func (c *EntitlementCheck) EncodePayload(dst []byte) []byte {
	dst = append(dst, 1, boolByte(c.Count)*checkCounts|boolByte(c.Asked)*checkAsks)
	for _, s := range c.texts() {
		dst = appendText(dst, *s)
	}
	dst = binary.AppendUvarint(dst, uint64(c.Needed))
	return appendTokens(dst, c.Tokens)
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (c *EntitlementCheck) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	flags := r.Byte()
	if flags&^(checkCounts|checkAsks) != 0 {
		r.Fail()
	}
	*c = EntitlementCheck{Count: flags&checkCounts != 0, Asked: flags&checkAsks != 0}
	for _, s := range c.texts() {
		*s = r.Text()
	}
	c.Needed = r.limited()
	c.Tokens = r.tokens()
	return r.end()
}

// texts lists the texts of a check in the order of its stored form.
func (c *EntitlementCheck) texts() [7]*string {
	return [...]*string{&c.UserID, &c.TenantID, &c.Plugin, &c.Action, &c.Feature, &c.Limit, &c.Model}
}

// SettledEvent is the usage that a settlement books: what it leaves out comes from
// the hold, and the instant from the command's handler time.
func (b *BudgetSettle) SettledEvent(h *Hold, now int64) UsageEvent {
	e := b.Event
	e.AppID = h.AppID
	if e.UserID == "" {
		e.UserID = h.UserID
	}
	if e.TenantID == "" {
		e.TenantID = h.TenantID
	}
	if e.Model == "" {
		e.Model = h.Model
	}
	if e.Model == "" {
		e.Model = ModelUnknown
	}
	if !b.Timed {
		e.Timestamp = now
	}
	return e
}
