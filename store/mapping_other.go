//go:build !linux

package store

func dropMapped(uintptr, int) error { return nil }
