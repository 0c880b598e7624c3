package plugins

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
)

// shimText runs plugins that are a Python file with a function.
//
//go:embed shim/shim.py
var shimText []byte

const shimName = "shim.py"

// writeShim puts the shim into a directory that only grout writes. A worker that starts
// meanwhile reads the old one or the new one.
func writeShim(dir string) error {
	path := filepath.Join(dir, shimName)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, shimText) {
		return nil
	}
	temp, err := os.CreateTemp(dir, shimName+".*")
	if err != nil {
		return fmt.Errorf("write the shim of Python plugins: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(shimText)
	if err == nil {
		err = temp.Chmod(0o644)
	}
	if closed := temp.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write the shim of Python plugins: %w", err)
	}
	return nil
}

// shimCommand runs a plugin's file.
func shimCommand(p *plugin, dir, python string) []string {
	return []string{python, "-X", "utf8", filepath.Join(dir, shimName), p.dir, p.Entry, p.Name}
}
