package main

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// demoApp is an app whose traffic is made up.
type demoApp struct {
	name      string
	users     int
	perHour   float64 // events in its busiest hour
	peak      float64 // of its day, in hours UTC
	night     float64 // share of the busiest hour that is left at night
	workflows []string
	models    []demoModel // the first is used most
}

type demoModel struct {
	name          string
	input, output float64 // typical tokens of a call
	price         float64 // for a million tokens
}

var (
	demoLarge  = demoModel{"gpt-4", 1400, 420, 20}
	demoSmall  = demoModel{"gpt-4o-mini", 700, 180, .4}
	demoSonnet = demoModel{"claude-sonnet-4", 2600, 700, 9}
	demoEmbed  = demoModel{"text-embedding-3", 480, 0, .02}

	demoApps = []demoApp{
		{"shop", 120, 260, 19, .08, []string{"product-search", "checkout-help"}, []demoModel{demoSmall, demoEmbed, demoLarge}},
		{"support", 40, 150, 14, .15, []string{"triage", "reply-draft", "summary"}, []demoModel{demoSonnet, demoSmall}},
		{"lab", 6, 40, 22, .4, []string{"evaluation"}, []demoModel{demoLarge, demoSonnet, demoSmall}},
	}
)

// demoDay makes the events of the day before end, in order of time.
func demoDay(end time.Time, seed uint64) []usageEvent {
	rng := rand.New(rand.NewPCG(seed, 24))
	const step = 5 * time.Minute
	type stamped struct {
		at    time.Time
		event usageEvent
	}
	var day []stamped
	for at := end.Add(-24 * time.Hour); at.Before(end); at = at.Add(step) {
		for i := range demoApps {
			a := &demoApps[i]
			for range poisson(rng, a.perHour*a.activity(at)*step.Hours()) {
				when := at.Add(time.Duration(rng.Int64N(int64(step))))
				day = append(day, stamped{when, a.call(rng)})
			}
		}
	}
	slices.SortFunc(day, func(x, y stamped) int { return x.at.Compare(y.at) })
	events := make([]usageEvent, len(day))
	for i, s := range day {
		events[i] = s.event
		events[i].EventID = fmt.Sprintf("demo-%d-%05d", seed, i+1)
		events[i].Timestamp = s.at.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	return events
}

// activity is the share of the busiest hour's traffic at an instant.
func (a *demoApp) activity(at time.Time) float64 {
	hour := float64(at.UTC().Hour()) + float64(at.Minute())/60
	wave := (1 + math.Cos((hour-a.peak)/24*2*math.Pi)) / 2
	return a.night + (1-a.night)*wave*wave
}

// call makes one event: few users and models have most of them, and most calls
// are short.
func (a *demoApp) call(rng *rand.Rand) usageEvent {
	user := int(float64(a.users) * math.Pow(rng.Float64(), 2.5))
	model := a.models[int(float64(len(a.models))*math.Pow(rng.Float64(), 2))]
	size := math.Exp(rng.NormFloat64() * .7)
	e := usageEvent{
		AppID: a.name, UserID: fmt.Sprintf("%s-user-%03d", a.name, user+1), Model: model.name,
		WorkflowID:   a.workflows[rng.IntN(len(a.workflows))],
		ChatID:       fmt.Sprintf("%s-chat-%04d", a.name, user*7+rng.IntN(7)),
		InputTokens:  int64(model.input*size) + 1,
		OutputTokens: int64(model.output * math.Exp(rng.NormFloat64()*.5)),
		DurationSec:  math.Round(size*2300) / 1000,
	}
	if rng.IntN(4) == 0 {
		e.CachedTokens = e.InputTokens / 2
	}
	e.Cost = fmt.Sprintf("%.6f", float64(e.InputTokens+e.OutputTokens)*model.price/1e6)
	return e
}

// poisson draws how many events fall into a time in which mean are expected.
func poisson(rng *rand.Rand, mean float64) int {
	n, p, limit := 0, rng.Float64(), math.Exp(-mean)
	for p > limit {
		n++
		p *= rng.Float64()
	}
	return n
}

// demoBatches cuts events into the bodies of ingest requests.
func demoBatches(events []usageEvent, size int) (bodies [][]byte, err error) {
	for chunk := range slices.Chunk(events, size) {
		body, err := json.Marshal(struct {
			BatchID string       `json:"batch_id"`
			Events  []usageEvent `json:"events"`
		}{fmt.Sprintf("batch-of-%s", chunk[0].EventID), chunk})
		if err != nil {
			return nil, fmt.Errorf("encode events: %w", err)
		}
		bodies = append(bodies, body)
	}
	return bodies, nil
}
