package identity

import "time"

// Stats are what metrics tell.
type Stats struct {
	Refused map[string]int64 // tokens since the start, by reason

	External      bool // the rest is about keys at a URL
	Fetches       uint64
	FailedFetches uint64
	Keys          int           // that can be used; 0 once the last ones are too old
	Age           time.Duration // of those keys
}

// Stats tells what was done since the start.
func (v *Verifier) Stats() Stats {
	s := Stats{Refused: make(map[string]int64, len(reasons)), External: v.keys != nil}
	for i, r := range reasons {
		s.Refused[r.name] = v.refused[i].Load()
	}
	if k := v.keys; k != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		s.Fetches, s.FailedFetches = k.ended, k.failed
		if set := k.fresh(); set != nil {
			s.Keys, s.Age = len(set.keys), k.age()
		}
	}
	return s
}
