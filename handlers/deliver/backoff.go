package deliver

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// backoff is how long to wait after so many failures in a row: doubled each time up to a
// bound, half of it at random.
func backoff(first, most time.Duration, failures int) time.Duration {
	wait := most
	if shift := failures - 1; shift < 30 && first<<shift > 0 {
		wait = min(first<<max(shift, 0), most)
	}
	return wait/2 + rand.N(wait/2+1)
}

// retryAfter reads the header of that name: seconds, or an instant. 0 is none.
func retryAfter(h http.Header, now time.Time, most time.Duration) time.Duration {
	text := h.Get("Retry-After")
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, most)
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), most)
}

// sleep waits, and returns false when ctx has ended. A signal on wake ends it earlier.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-wake:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
