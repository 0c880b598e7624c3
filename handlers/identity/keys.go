package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// keysLive is how long keys hold after the fetch that brought them began: a key that
	// was withdrawn stops working by then, also while nobody tells of it (contract §3).
	keysLive = 5 * time.Minute
	// refresh is how often keys are fetched while all is well.
	refresh = time.Minute
	// pauseBetween lies between two fetches, however many tokens name unknown keys.
	pauseBetween = time.Second
	// longestRetry bounds the pauses while fetching fails and no token asks for it.
	longestRetry = 30 * time.Second
	// fetchLimit bounds one fetch, its answer included.
	fetchLimit = 5 * time.Second
	// waitLimit is how long a token with an unknown key waits: for a fetch that has begun,
	// the pause, and the next one.
	waitLimit = 2*fetchLimit + 2*pauseBetween
	// maxWaiting bounds how many do; further ones are refused at once.
	maxWaiting = 256
)

// keySource keeps the keys of a URL. One goroutine fetches them, one fetch at a time.
type keySource struct {
	url    string
	client *http.Client
	logger *slog.Logger
	want   chan struct{} // a token asks for a fetch

	mu       sync.Mutex
	set      *keySet
	at       time.Time // when the fetch of set began
	begun    uint64    // fetches
	ended    uint64
	failed   uint64
	told     state // what the log said last
	waiting  int
	fetching chan struct{} // closed, and made anew, when a fetch ends
}

func newKeySource(o Options) *keySource {
	transport := o.Transport
	if transport == nil {
		transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true,
			TLSHandshakeTimeout: fetchLimit, MaxResponseHeaderBytes: 64 << 10,
		}
	}
	return &keySource{
		url: o.JWKSURL,
		client: &http.Client{
			Transport: transport,
			// Keys come from the server that was named and from no other.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		logger: o.Logger, want: make(chan struct{}, 1), fetching: make(chan struct{}),
	}
}

// run fetches at once, then regularly, and when a token asks for it.
func (k *keySource) run(ctx context.Context) error {
	retry := pauseBetween
	for {
		err := k.fetch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		k.tell(err)
		wait := refresh - rand.N(refresh/10)
		if err != nil {
			wait, retry = retry, min(2*retry, longestRetry)
		} else {
			retry = pauseBetween
		}
		if !k.pause(ctx, wait) {
			return nil
		}
	}
}

// pause waits until the next fetch: pauseBetween at the least, then until a token asks
// for it, at most wait.
func (k *keySource) pause(ctx context.Context, wait time.Duration) bool {
	least, most := time.NewTimer(pauseBetween), time.NewTimer(wait)
	defer least.Stop()
	defer most.Stop()
	select {
	case <-least.C:
	case <-ctx.Done():
		return false
	}
	select {
	case <-most.C:
	case <-k.want:
	case <-ctx.Done():
		return false
	}
	return true
}

// fetch fetches once. What is not a set of keys changes nothing.
func (k *keySource) fetch(ctx context.Context) error {
	k.mu.Lock()
	k.begun++
	k.mu.Unlock()
	begin := time.Now()
	set, err := k.get(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.set, k.at = set, begin
	} else {
		k.failed++
	}
	k.ended++
	close(k.fetching)
	k.fetching = make(chan struct{})
	return err
}

func (k *keySource) get(ctx context.Context) (*keySet, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	req.Header.Set("Cache-Control", "no-cache") // an answer that was kept somewhere may hold what is withdrawn
	resp, err := k.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answered %d", resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySetBytes+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxKeySetBytes:
		return nil, fmt.Errorf("the answer has more than %d bytes", maxKeySetBytes)
	}
	return parseKeySet(text)
}

type state int

const (
	working state = iota
	onLastKeys
	withoutKeys
)

// tell logs when fetching begins to fail, when the last keys have become too old, and
// when it works again.
func (k *keySource) tell(err error) {
	now := working
	k.mu.Lock()
	switch {
	case err == nil:
	case k.fresh() != nil:
		now = onLastKeys
	default:
		now = withoutKeys
	}
	changed := now != k.told
	k.told = now
	k.mu.Unlock()
	switch {
	case !changed:
	case now == working:
		k.logger.Info("the keys of user tokens are fetched again", "url", k.url)
	case now == onLastKeys:
		k.logger.Warn("the keys of user tokens cannot be fetched; the last ones hold for up to "+keysLive.String(), "url", k.url, "error", err)
	default:
		k.logger.Error("the keys of user tokens cannot be fetched; until they are, no user token is accepted", "url", k.url, "error", err)
	}
}

// fresh gives the keys while they hold. The caller has the lock.
func (k *keySource) fresh() *keySet {
	if k.set == nil || k.age() >= keysLive {
		return nil
	}
	return k.set
}

// age is the time since the fetch of the keys, by the clock that goes further: one of
// them stands still while a machine sleeps.
func (k *keySource) age() time.Duration {
	return max(time.Since(k.at), time.Now().Round(0).Sub(k.at.Round(0)))
}

// find gives the keys that a token may have been signed with. One that names none that
// is known waits for a fetch that begins after it came.
func (k *keySource) find(ctx context.Context, algorithm, id string, named bool) (any, error) {
	k.mu.Lock()
	keys, err := k.look(algorithm, id, named)
	if err == nil || k.waiting >= maxWaiting || !named && !errors.Is(err, errNoKeys) {
		k.mu.Unlock()
		return keys, err
	}
	k.waiting++
	needed := k.begun + 1
	k.mu.Unlock()
	select {
	case k.want <- struct{}{}:
	default: // somebody has asked already
	}
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	k.mu.Lock()
	defer func() {
		k.waiting--
		k.mu.Unlock()
	}()
	for {
		if keys, err = k.look(algorithm, id, named); err == nil || k.ended >= needed {
			return keys, err
		}
		over := k.fetching
		k.mu.Unlock()
		select {
		case <-over:
		case <-ctx.Done():
			k.mu.Lock()
			return nil, err
		}
		k.mu.Lock()
	}
}

// look looks among the keys that hold now. The caller has the lock.
func (k *keySource) look(algorithm, id string, named bool) (any, error) {
	set := k.fresh()
	if set == nil {
		return nil, errNoKeys
	}
	keys := set.fitting(algorithm, id, named)
	if len(keys) == 0 {
		return nil, errUnknownKey
	}
	list := jwt.VerificationKeySet{}
	for _, key := range keys {
		list.Keys = append(list.Keys, key)
	}
	return list, nil
}
