package schemas

import "fmt"

// Code is the machine-readable part of an error (contract §1, §7).
type Code string

// Codes of whole requests.
const (
	CodeUnauthorized     Code = "UNAUTHORIZED"
	CodeForbidden        Code = "FORBIDDEN"
	CodeNotFound         Code = "NOT_FOUND"
	CodeMethodNotAllowed Code = "METHOD_NOT_ALLOWED"
	CodeUpgradeRequired  Code = "UPGRADE_REQUIRED"
	CodeInvalidJSON      Code = "INVALID_JSON"
	CodeInvalidRequest   Code = "INVALID_REQUEST"
	CodeValidation       Code = "VALIDATION_ERROR"
	CodeWindowAlignment  Code = "WINDOW_ALIGNMENT"
	CodeTooManyRows      Code = "TOO_MANY_ROWS"
	CodeSumTooLarge      Code = "SUM_TOO_LARGE"
	CodePayloadTooLarge  Code = "PAYLOAD_TOO_LARGE"
	CodeTooManyEvents    Code = "TOO_MANY_EVENTS"
	CodeMediaType        Code = "UNSUPPORTED_MEDIA_TYPE"
	CodeBatchConflict    Code = "BATCH_CONFLICT"
	CodeCommandConflict  Code = "COMMAND_CONFLICT"
	CodeEventVoided      Code = "EVENT_VOIDED"
	CodeEventExpired     Code = "EVENT_EXPIRED"
	CodeEventIsSummary   Code = "EVENT_IS_SUMMARY"
	CodeAppMismatch      Code = "APP_MISMATCH"
	CodeStaleRevision    Code = "STALE_REVISION"
	CodeReservationOver  Code = "RESERVATION_CLOSED"
	CodeAlreadySettled   Code = "ALREADY_SETTLED"
	CodeLetterClosed     Code = "DEAD_LETTER_CLOSED"
	CodeLetterGone       Code = "DEAD_LETTER_GONE"
	CodeNotRetryable     Code = "NOT_RETRYABLE"
	CodeBudgetExceeded   Code = "TOKEN_BUDGET_EXCEEDED"
	CodePlanExpired      Code = "PLAN_EXPIRED"
	CodeFeatureGated     Code = "FEATURE_GATED"
	CodeLimitExceeded    Code = "LIMIT_EXCEEDED"
	CodeRateLimited      Code = "RATE_LIMITED"
	CodeRunStarted       Code = "RUN_ALREADY_STARTED"
	CodeRunFinished      Code = "RUN_FINISHED"
	CodeRunCancelled     Code = "RUN_CANCELLED"
	CodeRunLost          Code = "RUN_LOST"
	CodeWorkerLost       Code = "WORKER_LOST"
	CodeKeyReused        Code = "IDEMPOTENCY_KEY_REUSED"
	CodePluginBusy       Code = "PLUGIN_BUSY"
	CodePluginTimeout    Code = "PLUGIN_TIMEOUT"
	CodePluginError      Code = "PLUGIN_ERROR"
	CodePluginLoadFailed Code = "PLUGIN_LOAD_FAILED"
	CodeWebhookDisabled  Code = "WEBHOOK_DISABLED"
	CodeClockJump        Code = "CLOCK_JUMP"
	CodeStoreDamaged     Code = "STORE_DAMAGED"
	CodeUnavailable      Code = "SERVICE_UNAVAILABLE"
	CodeNotConfigured    Code = "NOT_CONFIGURED"
	CodeTimeout          Code = "REQUEST_TIMEOUT"
	CodeInternal         Code = "INTERNAL_ERROR"
)

// Codes of single events inside a batch that is otherwise good.
const (
	CodeNotAnObject       Code = "NOT_AN_OBJECT"
	CodeMissingField      Code = "MISSING_FIELD"
	CodeInvalidType       Code = "INVALID_TYPE"
	CodeInvalidNumber     Code = "INVALID_NUMBER"
	CodeOutOfRange        Code = "OUT_OF_RANGE"
	CodeInvalidLength     Code = "INVALID_LENGTH"
	CodeInvalidValue      Code = "INVALID_VALUE"
	CodeInvalidText       Code = "INVALID_TEXT"
	CodeInvalidTimestamp  Code = "INVALID_TIMESTAMP"
	CodeTimestampTooOld   Code = "TIMESTAMP_TOO_OLD"
	CodeTimestampInFuture Code = "TIMESTAMP_IN_FUTURE"
	CodeTotalBelowSum     Code = "TOTAL_BELOW_SUM"
	CodeRepeatedKey       Code = "REPEATED_KEY"
	CodeTooDeep           Code = "TOO_DEEP"
	CodeMetadataTooLarge  Code = "METADATA_TOO_LARGE"
	CodeConflict          Code = "conflict"
)

// Codes of commands that grout writes itself; no answer to a request has them.
const (
	CodeClockKept   Code = "CLOCK_KEPT"
	CodeSegmentKept Code = "SEGMENT_KEPT"
	CodeConfigKept  Code = "CONFIG_KEPT"
)

// Codes of dead letters.
const (
	CodeUndecodable    Code = "UNDECODABLE"
	CodeUnknownKind    Code = "UNKNOWN_KIND"
	CodeKindMismatch   Code = "KIND_MISMATCH"
	CodeSourceReserved Code = "SOURCE_RESERVED"
	CodePoison         Code = "NOT_APPLICABLE"
)

// Error is what a caller can act on. Everything else is wrapped with what was
// tried, surfaces as INTERNAL_ERROR, and keeps its text for the log.
type Error struct {
	Code   Code
	Detail string
	Fields []FieldError
}

// FieldError names one faulty field of a request (contract §1).
type FieldError struct {
	Loc  []any  `json:"loc"`
	Msg  string `json:"msg"`
	Type string `json:"type"`
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Detail }

// Errorf makes an Error with a formatted detail.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}
