package app

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"syscall"
	"time"

	"golang.org/x/term"

	"grout/bus"
)

// doorLook is how often the files of passwords and certificates are looked at.
const doorLook = time.Second

// hangups are the signals that ask for those files to be read now. A terminal that is
// closed sends the same signal, and ends grout as it ends every program.
func hangups() (signals chan os.Signal, stop func()) {
	if term.IsTerminal(int(os.Stdin.Fd())) {
		return nil, func() {}
	}
	signals = make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	return signals, func() { signal.Stop(signals) }
}

// doorFollower brings what changed in the files of passwords, publishers and
// certificates to the server.
type doorFollower struct {
	cfg    *Config
	server *bus.Server
	logger *slog.Logger

	used, seen bus.Doors
	told       map[string]string // what was last said of a source that cannot be used
}

// followDoors works until ctx ends.
func (n *node) followDoors(ctx context.Context) error {
	if n.server == nil {
		return nil
	}
	f := &doorFollower{cfg: &n.cfg, server: n.server, logger: n.logger, used: n.doors, seen: n.doors, told: map[string]string{}}
	tick := time.NewTicker(cmp.Or(n.cfg.doorLook, doorLook))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.look(false)
		case <-n.cfg.hangups:
			f.look(true)
		case <-ctx.Done():
			return nil
		}
	}
}

// look takes what was the same at two looks, so that a file that is just being written
// closes no door; who sends a signal has finished writing.
func (f *doorFollower) look(now bool) {
	changed, err := f.server.ReloadTLS()
	f.tell("certificate", err)
	if changed {
		f.logger.Info("NATS has a new certificate")
	}
	doors := f.cfg.doors(f.used, f.tell)
	if reflect.DeepEqual(doors, f.used) {
		f.seen = f.used
		return
	}
	if !now && !reflect.DeepEqual(doors, f.seen) {
		f.seen = doors
		return
	}
	closed, unknown, err := f.server.SetDoors(doors)
	f.tell("doors", err)
	if err != nil {
		return
	}
	f.used, f.seen = doors, doors
	f.logger.Info("NATS lets in others than before", "connections_closed", closed)
	if len(unknown) > 0 {
		f.logger.Warn("publishers that are new get in after the next start", "publishers", unknown)
	}
}

// tell says once what is wrong with a source, and that what it said before holds.
func (f *doorFollower) tell(what string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != f.told[what] {
		f.logger.Error("what is kept for NATS cannot be used; what held before holds on", "source", what, "error", text)
	}
	f.told[what] = text
}
