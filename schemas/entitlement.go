package schemas

import "strings"

// ScopeKind tells at what a manifest, a budget or a limit is aimed inside an app.
type ScopeKind byte

// The kinds of scopes, from the widest to the most specific.
const (
	ScopeApp ScopeKind = iota + 1
	ScopeTenant
	ScopeUser
)

var scopeNames = [...]string{ScopeApp: "app", ScopeTenant: "tenant", ScopeUser: "user"}

func (k ScopeKind) String() string {
	if k < ScopeApp || k > ScopeUser {
		return "unknown"
	}
	return scopeNames[k]
}

// Scope is an app as a whole, one of its tenants, or one of its users.
type Scope struct {
	Kind ScopeKind
	ID   string // of the tenant or user; empty for the app
}

// ScopesOf lists the scopes that somebody stands in, the most specific first
// (contract §5.2.3). An empty id has no scope.
func ScopesOf(tenantID, userID string) []Scope {
	scopes := make([]Scope, 0, 3)
	if userID != "" {
		scopes = append(scopes, Scope{ScopeUser, userID})
	}
	if tenantID != "" {
		scopes = append(scopes, Scope{ScopeTenant, tenantID})
	}
	return append(scopes, Scope{Kind: ScopeApp})
}

// Period is the calendar period (UTC) in which a budget counts (contract §5.2.7).
type Period byte

// The periods there are. Weeks are ISO weeks. A lifetime has neither start nor end;
// so has an unlimited one.
const (
	PeriodHourly Period = iota + 1
	PeriodDaily
	PeriodWeekly
	PeriodMonthly
	PeriodLifetime
	PeriodUnlimited
)

// Enforcement is what happens at the limit of an allocation (contract §5.2.8).
type Enforcement byte

// The enforcements there are.
const (
	EnforceNone Enforcement = iota
	EnforceWarn
	EnforceSoft
	EnforceHard
)

// Unlimited is the limit that nothing reaches.
const Unlimited = -1

// Names of the allocations of a token budget; one for a model is ModelAllocation.
const (
	AllocationTotal  = "total_tokens"
	AllocationInput  = "input_tokens"
	AllocationOutput = "output_tokens"
)

const modelPrefix = "model:"

// ModelAllocation names the allocation of a model.
func ModelAllocation(model string) string { return modelPrefix + model }

// ModelOf gives the model that an allocation is for; false when it is for all models.
func ModelOf(allocation string) (string, bool) { return strings.CutPrefix(allocation, modelPrefix) }

// Tokens are what usage or a hold counts for in every allocation it touches.
type Tokens struct {
	Total, Input, Output int64
}

// Counter is how one allocation of a scope's budget stands in the period that handler
// time lies in. It exists while a manifest names the allocation, and to the end of the
// period.
type Counter struct {
	Allocation string
	Period     Period
	Start, End int64 // nanoseconds since 1970 UTC; End 0: has none
	// Used is what was counted with a timestamp in the period: the sums of usage of the
	// scope, and what was imported.
	Used     int64
	Imported int64 // by which pushed figures raised Used (contract §5.2.6)
	Reserved int64 // by open holds, whenever they were granted
	Carry    int64 // from the period before (contract §5.2.8)
	// Thresholds that were told and not cleared since, a bit each (contract §5.2.13).
	Told uint8
}

// HoldState is what became of a reservation.
type HoldState byte

// What can become of a reservation. Only an open one holds tokens.
const (
	HoldOpen HoldState = iota + 1
	HoldSettled
	HoldReleased
	HoldExpired
)

// Hold is a reservation of tokens (contract §5.3). While it is open it is part of
// Reserved of every counter of its scopes that its tokens touch.
type Hold struct {
	ID        string
	AppID     string
	UserID    string
	TenantID  string
	Model     string
	Tokens    Tokens
	GrantedAt int64 // handler time, nanoseconds since 1970 UTC
	ExpiresAt int64
	State     HoldState
	ClosedAt  int64
	EventID   string // of its settlement
	Settled   Tokens
	Answer    []byte // JSON that its grant was answered with, told again while it is open
}

// RateSubWindows is into how many equal parts the window of a rate limit is cut
// (contract §5.2.11).
const RateSubWindows = 60

// RateWindow counts what a rate limit bounds, by sub-window of message time. Counts[0]
// is the newest one, that with the number Newest; the last one is the oldest, which
// may lie partly outside. The zero value has counted nothing.
type RateWindow struct {
	Span   int64 // length of the whole window, nanoseconds
	Newest int64 // number of the newest sub-window since 1970: instant / (Span / RateSubWindows)
	Counts [RateSubWindows + 1]int64
}

// Lease is a place among those that concurrent_workflows bounds; it ends by itself.
type Lease struct {
	ID        string
	ExpiresAt int64 // nanoseconds since 1970 UTC
}

// Consumption is how far a scope has used up a consumable of a plugin, or the calls of
// a plugin, in the period that began at Start (contract §5.4).
type Consumption struct {
	Start    int64 // nanoseconds since 1970 UTC; 0: has no period
	Used     int64
	Reserved int64 // by actions that run, whenever they began
}
