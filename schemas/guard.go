package schemas

import "fmt"

// Names of what the guard and the relays find. A stream that lost its tail or was
// recreated is an alarm when the store can go on without it; the others stop their
// partition.
const (
	StreamRecreated  = "STREAM_RECREATED"
	StreamTailLost   = "STREAM_TAIL_LOST"
	StreamUnreadable = "STREAM_UNREADABLE"
	StreamHeadLost   = "STREAM_HEAD_LOST"
	StreamGap        = "STREAM_GAP"
	StreamDiverged   = "STREAM_DIVERGED"
	EpochGap         = "EPOCH_GAP"
	RelayTailLost    = "RELAY_TAIL_LOST"
	RelayEpoch       = "RELAY_EPOCH"
	RelayFenced      = "RELAY_FENCED"
	RelayMarker      = "RELAY_MARKER"
	RelayForeign     = "RELAY_FOREIGN"
)

// GuardError says that a stream is not the one that a partition has worked with.
// Detail says what was found, what was expected, and what to do.
type GuardError struct{ Name, Detail string }

func (e *GuardError) Error() string { return e.Name + ": " + e.Detail }

// Guardf makes a GuardError with a formatted detail.
func Guardf(name, format string, args ...any) *GuardError {
	return &GuardError{Name: name, Detail: fmt.Sprintf(format, args...)}
}

// Alarm is something that was lost and that grout went on without.
type Alarm struct {
	Name      string `json:"name"`
	Detail    string `json:"detail"`
	Partition int    `json:"partition"`
}
