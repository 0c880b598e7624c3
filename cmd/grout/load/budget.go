package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Kind is what operations are.
type Kind int

// The kinds. Those from Check to Race need what SetBudgets makes.
const (
	Ingest  Kind = iota // one request with events
	Check               // one check of budgets, which is a read
	Count               // the same, counted against a rate limit, which is a command
	Reserve             // a reservation, and its settlement
	Race                // a reservation of the last tokens of one app
	Execute             // a call of a plugin that gives back what it is sent
)

func (k Kind) String() string {
	return [...]string{"ingest", "check", "counted check", "reserve+settle", "race", "execute"}[k]
}

// BudgetUsers have a budget in each app, beside that of the app and of each model.
const BudgetUsers = 20

const (
	raceApp     = "app_race"
	plenty      = 1 << 50
	settingOnce = 16 // requests at a time
)

// request is one of those that an operation is of.
type request struct {
	raw    []byte
	status int
	wanted []byte // what the answer says
}

// script makes operations, each of which is over when all its requests are answered.
type script interface {
	renew()
	requests() []request
}

// budgetBody makes operations about budgets. Between two of them ids and whom they are
// about are written over, as in body.
type budgetBody struct {
	kind  Kind
	list  []request
	spots [2]struct{ id, event, app, userApp, model int }
	rng   *rand.Rand
	apps  uint64
}

func newBudgetBody(t *Target, p *Plan, seed uint64) *budgetBody {
	b := &budgetBody{kind: p.Kind, rng: rand.New(rand.NewPCG(seed, 19)), apps: uint64(p.Apps)}
	if b.apps == 0 {
		b.apps = Apps
	}
	blank := strings.Repeat("0", idLength)
	whose := `"app_id":"app_0000","user_id":"user_0000_000000","model":"model-00","estimated_tokens":1000`
	switch p.Kind {
	case Check:
		b.add(t, "/api/entitlements/check", `{`+whose+`}`, http.StatusOK, `"allowed":true`)
	case Count:
		b.add(t, "/api/entitlements/check", `{`+whose+`,"count":true}`, http.StatusOK, `"allowed":true`)
	case Race:
		b.add(t, "/api/budgets/reservations", `{"app_id":"`+raceApp+`","estimated_tokens":1,"ttl_seconds":3600}`, http.StatusCreated, "")
	default:
		b.add(t, "/api/budgets/reservations", `{`+whose+`,"reservation_id":"`+blank+`"}`, http.StatusCreated, "")
		b.add(t, "/api/budgets/reservations/"+blank+"/settle", `{"app_id":"app_0000","event_id":"`+blank+`","input_tokens":600,"output_tokens":200}`, http.StatusOK, `"late":false`)
	}
	return b
}

func (b *budgetBody) add(t *Target, path, text string, status int, wanted string) {
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nX-Internal-API-Key: %s\r\nContent-Length: %d\r\n\r\n",
		t.at(path), t.host, t.key, len(text))
	raw := []byte(head + text)
	after := func(what string) int {
		if at := bytes.Index(raw, []byte(what)); at >= 0 {
			return at + len(what)
		}
		return 0
	}
	s := &b.spots[len(b.list)]
	s.id = max(after(`"reservation_id":"`), after("/api/budgets/reservations/"))
	s.event, s.app, s.userApp, s.model = after(`"event_id":"`), max(0, after(`"app_id":"app_0`)-1), after(`"user_id":"user_`), after(`"model":"model-`)
	b.list = append(b.list, request{raw: raw, status: status, wanted: []byte(wanted)})
}

func (b *budgetBody) requests() []request { return b.list }

func (b *budgetBody) renew() {
	app, user, model := b.rng.Uint64N(b.apps), b.rng.Uint64N(BudgetUsers), b.rng.Uint64N(Models)
	hi, lo := b.rng.Uint64(), b.rng.Uint64()
	for i := range b.list {
		raw, s := b.list[i].raw, &b.spots[i]
		if s.id > 0 {
			writeID(raw[s.id:], hi, lo)
		}
		if s.event > 0 {
			writeID(raw[s.event:], hi, lo)
		}
		if s.app > 0 {
			writeNumber(raw[s.app:], 4, app)
		}
		if s.userApp > 0 {
			writeNumber(raw[s.userApp:], 4, app)
			writeNumber(raw[s.userApp+5:], 6, user)
		}
		if s.model > 0 {
			writeNumber(raw[s.model:], 2, model)
		}
	}
}

// SetBudgets gives every app of the standard mix, each of its models, and some of its
// users a hard budget that is never used up; and one app of its own a budget of so many
// tokens.
func SetBudgets(ctx context.Context, t *Target, apps int, race int64) error {
	if apps == 0 {
		apps = Apps
	}
	allocation := func(n int64) string { return fmt.Sprintf(`{"limit":%d,"enforcement":"hard"}`, n) }
	manifest := func(app, user, more string) string {
		return fmt.Sprintf(`{"version":"1.1","app_id":"%s",%s"plan":{"tier":"pro"},%s}`, app, user, more)
	}
	var models []string
	for i := range Models {
		models = append(models, fmt.Sprintf(`"model-%02d":%s`, i, allocation(plenty)))
	}
	list := []string{manifest(raceApp, "", `"token_budget":{"period":"lifetime","total_tokens":`+allocation(race)+`}`)}
	for app := range apps {
		name := fmt.Sprintf("app_%04d", app)
		list = append(list, manifest(name, "", `"rate_limits":{"requests_per_hour":1000000000},"token_budget":{"period":"daily","total_tokens":`+allocation(plenty)+`,"per_model_limits":{`+strings.Join(models, ",")+`}}`))
		for user := range BudgetUsers {
			list = append(list, manifest(name, fmt.Sprintf(`"user_id":"user_%04d_%06d",`, app, user), `"token_budget":{"period":"monthly","total_tokens":`+allocation(plenty)+`}`))
		}
	}
	return t.postAll(ctx, "/api/internal/entitlement/sync", list)
}

// postAll posts every text, some at a time.
func (t *Target) postAll(ctx context.Context, path string, list []string) error {
	transport := &http.Transport{MaxIdleConnsPerHost: settingOnce}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	errs := make([]error, settingOnce)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			for n := i; n < len(list) && errs[i] == nil; n += settingOnce {
				errs[i] = t.post(ctx, client, path, list[n])
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (t *Target) post(ctx context.Context, client *http.Client, path, text string) error {
	scheme := "http://"
	if t.secure {
		scheme = "https://"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+t.host+t.at(path), strings.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("X-Internal-API-Key", t.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("post %s: %w", path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %.200s", resp.StatusCode, answer)
	}
	if err != nil {
		return fmt.Errorf("post %s: %w", path, err)
	}
	return nil
}
