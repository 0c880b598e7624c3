//go:build !faults

package app

import "time"

// faultHook is nil: only binaries built with the tag faults can be told to die.
func faultHook() func(string) { return nil }

// clockHook is nil: only such binaries have a clock that can be set.
func clockHook() func() time.Time { return nil }

// replayMessages is 0, the usual number of messages in a transaction of a replay.
func replayMessages() int { return 0 }
