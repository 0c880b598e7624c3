//go:build !faults

package app

// faultHook is nil: only binaries built with the tag faults can be told to die.
func faultHook() func(string) { return nil }
