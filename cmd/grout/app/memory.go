package app

import (
	"context"
	"os"
	"runtime/debug"
	"time"
)

// memoryBase is what the process may use beside the table of ids before the garbage
// collector works harder (architecture §6). Most of it are the block caches of the
// NATS server and what is being decoded, merged and published.
const memoryBase = 640 << 20

// memoryLook is how often memory is looked after.
const memoryLook = 3 * time.Second

// boundMemory keeps the heap near what is needed and lets go of what is mapped of the
// stores. GOMEMLIMIT in the environment is left as it is.
func (n *node) boundMemory(ctx context.Context) error {
	look := time.NewTicker(memoryLook)
	defer look.Stop()
	debug.FreeOSMemory() // a start reads the whole store
	for {
		ids := int64(0)
		for _, p := range n.partitions {
			ids += p.store.Stats().IDBytes
		}
		if os.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(memoryBase + ids + ids/2) // a table that grows is there twice
		}
		for _, p := range n.partitions {
			if err := p.store.DropMapped(); err != nil {
				n.logger.Debug("memory", "error", err)
			}
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return nil
		}
	}
}
