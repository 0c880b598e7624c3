package schemas

// Verdict is what a decision comes to, from good to bad (contract §5.3).
type Verdict byte

// The verdicts there are.
const (
	VerdictAllow Verdict = iota
	VerdictWarn
	VerdictSoft
	VerdictHard
)

var verdictNames = [...]string{VerdictAllow: "allow", VerdictWarn: "warn", VerdictSoft: "soft_reject", VerdictHard: "hard_reject"}

func (v Verdict) String() string {
	if v > VerdictHard {
		return "unknown"
	}
	return verdictNames[v]
}

// Reason is the word that says why a decision is what it is.
type Reason string

// The reasons there are.
const (
	ReasonAllowed        Reason = "allowed"
	ReasonNotListed      Reason = "not_listed"
	ReasonPreview        Reason = "feature_preview"
	ReasonFeatureOff     Reason = "feature_disabled"
	ReasonPlanExpired    Reason = "plan_expired"
	ReasonPluginBlocked  Reason = "plugin_not_allowed"
	ReasonPluginBroken   Reason = "plugin_entitlements_broken"
	ReasonBudgetExceeded Reason = "budget_exceeded"
	ReasonRateLimited    Reason = "rate_limited"
	ReasonTooManyRuns    Reason = "too_many_concurrent"
	ReasonLimitExceeded  Reason = "limit_exceeded"
	ReasonCheckFailed    Reason = "check_failed"
)

// Decision is what the engine says to a request (contract §5.3). The same function
// makes it for a read, before a command, and finally where the command is applied.
type Decision struct {
	Allowed bool // also when a hard rule says no and nothing is enforced (contract §5.2.5)
	Verdict Verdict
	Reason  Reason
	Code    Code   // of a hard refusal, and its text; empty otherwise
	Detail  string // e.g. Token budget exceeded: 100/100 tokens used.

	Judgement  // the one that decided, or the tightest of those that let pass
	Judgements []Judgement
	Rates      []RateState
	// WouldConsume is what the action takes of the consumables of its plugin, and of
	// the limit that was asked about, by name.
	WouldConsume map[string]int64
}

// Judgement is one rule held against a request. A zero scope has none; Limit and what
// follows mean something only when Limited.
type Judgement struct {
	Rule      string // of the contract, e.g. 5.2.8
	Name      string // of the allocation, limit, feature or plugin
	Plugin    string // whose own limit, calls or feature it is; empty: of no plugin
	Scope     Scope
	Enforced  Enforcement // of a limit: what happens there
	Below     bool        // it stands in the layer below the app's own manifest
	Revision  int64
	Says      Verdict
	Because   Reason
	Limited   bool
	Limit     int64 // effective; Unlimited
	Used      int64
	Reserved  int64
	Remaining int64
	ResetsAt  int64 // nanoseconds since 1970 UTC; 0: never, or nothing to wait for
	Needed    int64
	Cap       bool  // Needed is not used up: the limit bounds one request
	Takes     bool  // Needed is taken when the command of the request is applied
	Period    int64 // start of what it is told once in (contract §5.2.13)
}

// RateState is how one rate limit of a scope stands, for RateLimit header fields.
type RateState struct {
	Scope     Scope
	Name      string
	Limit     int64
	Used      int64
	Remaining int64
	Window    int64 // its length in nanoseconds; 0 for leases
	ResetsAt  int64 // when something is free again
}
