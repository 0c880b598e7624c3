package bus

import "context"

// Stored waits for the PubAck only. It may be called after Wait. What it says of
// a context that ends first is what Wait says.
func (c *Pending) Stored(ctx context.Context) (Receipt, error) {
	select {
	case <-c.stored:
	case <-ctx.Done():
	case <-c.done:
		if c.err == nil { // the outcome overtook the PubAck
			select {
			case <-c.stored:
			case <-ctx.Done():
			}
		}
	}
	ended, cancel := context.WithCancelCause(ctx)
	cancel(context.Cause(ctx))
	return c.Wait(ended)
}
