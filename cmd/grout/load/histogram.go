package load

import (
	"math/bits"
	"time"
)

// Histogram counts durations in buckets that are less than 1 % wide, in the same
// memory however many there are. The zero value is empty.
type Histogram struct {
	buckets [57 << subBits]int64
	count   int64
	max     time.Duration
}

const subBits = 7

func bucketOf(d time.Duration) int {
	n := uint64(max(d, 0))
	shift := max(bits.Len64(n)-subBits-1, 0)
	return shift<<subBits + int(n>>shift)
}

// top is the longest duration of a bucket.
func top(bucket int) time.Duration {
	shift := max(bucket>>subBits-1, 0)
	return time.Duration(uint64(bucket-shift<<subBits+1)<<shift - 1)
}

// Add counts a duration.
func (h *Histogram) Add(d time.Duration) {
	h.buckets[bucketOf(d)]++
	h.count++
	h.max = max(h.max, d)
}

// Merge counts what o has counted.
func (h *Histogram) Merge(o *Histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.count += o.count
	h.max = max(h.max, o.max)
}

// Quantile gives the duration that a share of all does not exceed; 0 of none.
func (h *Histogram) Quantile(share float64) time.Duration {
	rank := int64(share * float64(h.count))
	for i, n := range h.buckets {
		if rank -= n; rank < 0 {
			return min(top(i), h.max)
		}
	}
	return h.max
}

// Max is the longest of all.
func (h *Histogram) Max() time.Duration { return h.max }
