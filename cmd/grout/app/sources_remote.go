package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"grout/schemas"
)

// remoteTimeout bounds one question to the control plane, its answer included.
const remoteTimeout = 10 * time.Second

// remoteManifest asks a control plane for the manifest below all synced ones.
type remoteManifest struct {
	client *http.Client
	url    string
	key    string
	appID  string
}

func (r *remoteManifest) open(cfg *Config) {
	r.url = strings.TrimRight(cfg.ControlPlaneURL, "/") + "/api/v1/entitlements/" + url.PathEscape(cfg.AppID)
	r.appID = cfg.AppID
	if len(cfg.ControlPlaneKey.Values) > 0 {
		r.key = cfg.ControlPlaneKey.Values[0]
	}
	r.client = &http.Client{
		Timeout: remoteTimeout,
		// The key is for the server that was named and for no other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// fetch asks once. What is not a manifest, or that there is none, is an error: then
// nothing is known of what is allowed now.
func (r *remoteManifest) fetch(ctx context.Context) ([]wanted, error) {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if r.key != "" {
		req.Header.Set("Authorization", "Bearer "+r.key)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err // it names the URL, which holds no key
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNoContent:
		return []wanted{{schemas.ConfigManifest, belowContent(SourceControlPlane, nil), true}}, nil
	default:
		return nil, fmt.Errorf("GET %s: answered %d", r.url, resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxSourceBytes+1))
	if err == nil && len(text) > maxSourceBytes {
		err = fmt.Errorf("the answer has more than %d bytes", maxSourceBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", r.url, err)
	}
	if neverSynced(text) {
		return []wanted{{schemas.ConfigManifest, belowContent(SourceControlPlane, nil), true}}, nil
	}
	manifest, err := judgeManifest(text, r.appID)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", r.url, err)
	}
	return []wanted{{schemas.ConfigManifest, belowContent(SourceControlPlane, manifest), false}}, nil
}

// pollControlPlane keeps the logs up to date with the control plane until ctx ends.
// Without an answer the last one still holds, and it is asked again soon, then more and
// more seldom, as often as ever at the least.
func (n *node) pollControlPlane(ctx context.Context) error {
	every := n.cfg.ControlPlanePoll
	retry := min(every, time.Second)
	defer n.sources.remote.client.CloseIdleConnections()
	for {
		list, err := n.sources.remote.fetch(ctx)
		if err == nil {
			err = n.configure(ctx, list)
		}
		if ctx.Err() != nil {
			return nil
		}
		n.sources.note(sourceManifest, err, lastHolds)
		wait := every
		if err != nil {
			wait, retry = retry, min(2*retry, every)
		} else {
			retry = min(every, time.Second)
		}
		if err := pause(ctx, wait/2+rand.N(wait/2+1)); err != nil {
			return nil
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return errors.New("it is over")
	}
}
