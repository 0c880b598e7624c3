package schemas

// InstantText is an instant as it is written everywhere: RFC 3339 in UTC.
func InstantText(nanos int64) string { return string(AppendInstant(nil, nanos)) }

// InstantOrNull is an instant for a field that may be null; 0 is none.
func InstantOrNull(nanos int64) *string {
	if nanos == 0 {
		return nil
	}
	s := InstantText(nanos)
	return &s
}

func textOrNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// SyncedData is the answer to a sync of a manifest (contract §5.1).
type SyncedData struct {
	Status       string  `json:"status"`
	AppID        string  `json:"app_id"`
	UserID       *string `json:"user_id"`
	TenantID     *string `json:"tenant_id"`
	SyncedAt     string  `json:"synced_at"`
	PreviousTier *string `json:"previous_tier"`
	NewTier      string  `json:"new_tier"`
	Revision     int64   `json:"revision"`
	Error        *string `json:"error"`
}

// AppendSynced adds the answer to a sync: previous is the tier of the version before,
// empty for the first; at is when the version was stored.
func AppendSynced(dst []byte, m *Manifest, previous Tier, revision, at int64) []byte {
	return appendJSON(dst, SyncedData{
		Status: "synced", AppID: m.AppID, UserID: textOrNull(m.UserID), TenantID: textOrNull(m.TenantID),
		SyncedAt: InstantText(at), PreviousTier: textOrNull(string(previous)), NewTier: string(m.Plan.Tier), Revision: revision,
	})
}

// SubscriptionSyncedData is the answer to the legacy body: plan and status as sent.
type SubscriptionSyncedData struct {
	Success bool   `json:"success"`
	UserID  string `json:"user_id"`
	Plan    string `json:"plan"`
	Status  string `json:"status"`
}

// AppendSubscriptionSynced adds the answer to the legacy body.
func AppendSubscriptionSynced(dst []byte, s *Subscription) []byte {
	return appendJSON(dst, SubscriptionSyncedData{true, s.UserID, s.Plan, s.Status})
}

// CheckData is the answer of POST /api/entitlements/check (contract §5.3). Without a
// limit that was judged, scope and figures are null.
type CheckData struct {
	Allowed      bool             `json:"allowed"`
	Decision     string           `json:"decision"`
	Reason       Reason           `json:"reason"`
	Detail       string           `json:"detail,omitempty"`
	Scope        *string          `json:"scope"`
	ScopeID      *string          `json:"scope_id"`
	Name         *string          `json:"name"`
	Limit        *int64           `json:"limit"`
	Used         *int64           `json:"used"`
	Reserved     *int64           `json:"reserved"`
	Remaining    *int64           `json:"remaining"`
	ResetsAt     *string          `json:"resets_at"`
	WouldConsume map[string]int64 `json:"would_consume"`
	Judgements   []JudgementData  `json:"judgements,omitempty"`
}

// JudgementData is one rule held against a request, for explanations.
type JudgementData struct {
	Rule      string  `json:"rule"`
	Name      string  `json:"name"`
	Decision  string  `json:"decision"`
	Reason    Reason  `json:"reason"`
	Scope     *string `json:"scope"`
	ScopeID   *string `json:"scope_id"`
	Layer     *string `json:"layer"` // synced, or below: file, environment or control plane
	Revision  *int64  `json:"revision"`
	Needed    int64   `json:"needed"`
	Limit     *int64  `json:"limit"`
	Used      *int64  `json:"used"`
	Reserved  *int64  `json:"reserved"`
	Remaining *int64  `json:"remaining"`
	ResetsAt  *string `json:"resets_at"`
}

// IDIn is the id of a scope on the wire: that of the app, tenant or user.
func (s Scope) IDIn(app string) string {
	if s.Kind == ScopeApp {
		return app
	}
	return s.ID
}

// AppendCheck adds the answer about somebody of an app; explained, with every judgement.
func (d *Decision) AppendCheck(dst []byte, app string, explained bool) []byte {
	top := d.Judgement.data(app)
	c := CheckData{
		Allowed: d.Allowed, Decision: d.Verdict.String(), Reason: d.Reason, Detail: d.Detail,
		Scope: top.Scope, ScopeID: top.ScopeID, Name: textOrNull(top.Name), Limit: top.Limit, Used: top.Used,
		Reserved: top.Reserved, Remaining: top.Remaining, ResetsAt: top.ResetsAt, WouldConsume: d.WouldConsume,
	}
	if explained {
		for i := range d.Judgements {
			c.Judgements = append(c.Judgements, d.Judgements[i].data(app))
		}
	}
	return appendJSON(dst, c)
}

func (j *Judgement) data(app string) JudgementData {
	d := JudgementData{Rule: j.Rule, Name: j.Name, Decision: j.Says.String(), Reason: j.Because, Needed: j.Needed}
	if j.Scope.Kind != 0 {
		kind, id, layer := j.Scope.Kind.String(), j.Scope.IDIn(app), "synced"
		if j.Below {
			layer = "below"
		}
		d.Scope, d.ScopeID, d.Layer = &kind, &id, &layer
		if !j.Below && j.Revision != 0 {
			d.Revision = &j.Revision
		}
	}
	if j.Limited {
		d.Limit, d.Used, d.Reserved, d.Remaining, d.ResetsAt = &j.Limit, &j.Used, &j.Reserved, &j.Remaining, InstantOrNull(j.ResetsAt)
	}
	return d
}

// ReservedData is the answer to a reservation that was granted; the figures are those
// after the grant.
type ReservedData struct {
	ReservationID string  `json:"reservation_id"`
	ExpiresAt     string  `json:"expires_at"`
	Decision      string  `json:"decision"`
	Reason        Reason  `json:"reason"`
	Scope         *string `json:"scope"`
	ScopeID       *string `json:"scope_id"`
	Name          *string `json:"name"`
	Limit         *int64  `json:"limit"`
	Used          *int64  `json:"used"`
	Reserved      *int64  `json:"reserved"`
	Remaining     *int64  `json:"remaining"`
	ResetsAt      *string `json:"resets_at"`
}

// AppendReserved adds the answer to a reservation, d being the decision that let it pass.
func AppendReserved(dst []byte, h *Hold, d *Decision) []byte {
	j := d.Judgement
	if j.Limited {
		j.Reserved += j.Needed
		if j.Limit >= 0 {
			j.Remaining = max(0, j.Remaining-j.Needed)
		}
	}
	top := j.data(h.AppID)
	return appendJSON(dst, ReservedData{
		ReservationID: h.ID, ExpiresAt: InstantText(h.ExpiresAt), Decision: d.Verdict.String(), Reason: d.Reason,
		Scope: top.Scope, ScopeID: top.ScopeID, Name: textOrNull(top.Name), Limit: top.Limit, Used: top.Used,
		Reserved: top.Reserved, Remaining: top.Remaining, ResetsAt: top.ResetsAt,
	})
}

// SettledData is the answer to a settlement.
type SettledData struct {
	ReservationID string `json:"reservation_id"`
	Status        string `json:"status"`
	SettledTokens int64  `json:"settled_tokens"`
	Excess        int64  `json:"excess"`
	Late          bool   `json:"late"`
	Decision      string `json:"decision"`
}

// AppendSettled adds the answer to a settlement; verdict is what was noted beside the
// usage (contract §5.2.9).
func AppendSettled(dst []byte, h *Hold, excess int64, late bool, verdict Verdict) []byte {
	return appendJSON(dst, SettledData{h.ID, "settled", h.Settled.Total, excess, late, verdict.String()})
}

// ExtendedData is the answer to an extension.
type ExtendedData struct {
	ReservationID string `json:"reservation_id"`
	ExpiresAt     string `json:"expires_at"`
}

// AppendExtended adds the answer to an extension.
func AppendExtended(dst []byte, h *Hold) []byte {
	return appendJSON(dst, ExtendedData{h.ID, InstantText(h.ExpiresAt)})
}

// ReleasedData is the answer to a release.
type ReleasedData struct {
	ReservationID string `json:"reservation_id"`
	Status        string `json:"status"`
}

// AppendReleased adds the answer to a release.
func AppendReleased(dst []byte, h *Hold) []byte {
	return appendJSON(dst, ReleasedData{h.ID, "released"})
}
