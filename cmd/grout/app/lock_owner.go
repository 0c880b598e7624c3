package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// inUseError says that another process holds a data directory, and where its NATS
// server listens; empty when it does not, or not yet.
type inUseError struct {
	dir, pid, natsURL string
}

func (e *inUseError) Error() string {
	who := "another process"
	if e.pid != "" {
		who = "process " + e.pid
	}
	return fmt.Sprintf("data directory %s is in use by %s: stop it, or choose another directory with MOZAIKS_DATA_DIR", e.dir, who)
}

// noteAddress writes beside the pid, into the lock of a data directory that this
// process holds, where its NATS server listens: for tools beside it.
func noteAddress(dir, natsURL string) error {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("note the address of NATS: %w", err)
	}
	text := fmt.Sprintf("%d\n%s\n", os.Getpid(), natsURL)
	_, err = f.WriteAt([]byte(text), 0)
	if err == nil {
		err = f.Truncate(int64(len(text)))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("note the address of NATS: %w", err)
	}
	return nil
}
