package store

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// file is bbolt's file with a shield. A page that was damaged after the file was
// opened makes bbolt panic, or the read of its mapping fault; behind the shield both
// are errors that say the file is damaged. Without one are the few goroutines that
// bbolt starts by itself when a commit fails: such a panic ends the process, and the
// next start finds the damage.
type file struct {
	*bbolt.DB
	path     string
	damaged  chan error
	panicked atomic.Bool
	met      atomic.Bool // damage: nothing is written any more
}

func shielded(db *bbolt.DB, path string) *file {
	return &file{DB: db, path: path, damaged: make(chan error, 1)}
}

// errDamagedStore is what callers are told.
var errDamagedStore = schemas.Errorf(schemas.CodeStoreDamaged, "The store is damaged; nothing is told that may be wrong")

// closeWithin bounds the close of a file at which bbolt has panicked: it may hold a
// lock of its own for ever.
const closeWithin = 2 * time.Second

// ErrStuck says that a damaged file could not be let go of: only the end of the
// process does that.
var ErrStuck = errors.New("STORE_DAMAGED: the damaged file cannot be closed; start grout again")

// Close closes the file.
func (f *file) Close() error {
	if !f.panicked.Load() {
		return f.DB.Close()
	}
	closed := make(chan error, 1)
	go func() { closed <- f.DB.Close() }()
	limit := time.NewTimer(closeWithin)
	defer limit.Stop()
	select {
	case err := <-closed:
		return err
	case <-limit.C:
		return fmt.Errorf("close %s: %w", f.path, ErrStuck)
	}
}

// View runs fn in a read transaction.
func (f *file) View(fn func(*bbolt.Tx) error) (err error) {
	defer f.shield(&err)()
	return f.DB.View(fn)
}

// shield goes around everything that reads the file: defer f.shield(&err)(). It also
// tells whoever watches the store that damage was met.
func (f *file) shield(err *error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		if p := recover(); p != nil {
			f.panicked.Store(true)
			if *err = PanicDamage(p, debug.Stack()); *err == nil {
				panic(p)
			}
		}
		if whole := new(DamageError); errors.Is(*err, schemas.ErrDamaged) {
			if !errors.As(*err, &whole) { // which says as much
				*err = fmt.Errorf("%w (%s): %w", errDamagedStore, f.path, *err)
			}
			f.met.Store(true)
			select {
			case f.damaged <- *err:
			default:
			}
		}
	}
}

// Damaged is signalled once when a read meets a row or a page that is not what was
// written. The store must be closed then: Open, which looks at all of the file,
// tells how far it goes.
func (s *Store) Damaged() <-chan error { return s.db.damaged }

// firstPage is the least address at which a fault can be one of the mapping, and no
// nil pointer of a programmer's.
const firstPage = 4096

// PanicDamage gives the error behind a panic that a damaged file has caused, and nil
// for any other. The stack is the one at which it was recovered.
func PanicDamage(p any, stack []byte) error {
	var fault interface {
		runtime.Error
		Addr() uintptr
	}
	if err, ok := p.(error); ok && errors.As(err, &fault) && fault.Addr() >= firstPage {
		return fmt.Errorf("a page of the file cannot be read (%w): %w", err, schemas.ErrDamaged)
	}
	if panickedInBolt(stack) {
		return fmt.Errorf("a page of the file is not what it should be (%v): %w", p, schemas.ErrDamaged)
	}
	return nil
}

// panickedInBolt looks at the frame that panicked: the first one below panic that is
// not the runtime's.
func panickedInBolt(stack []byte) bool {
	_, below, _ := bytes.Cut(stack, []byte("\npanic("))
	_, below, _ = bytes.Cut(below, []byte("\n")) // the rest of that line
	for line := range bytes.Lines(below) {
		if place := line[0] == '\t'; !place && !bytes.HasPrefix(line, []byte("runtime.")) {
			return bytes.HasPrefix(line, []byte("go.etcd.io/bbolt"))
		}
	}
	return false
}
