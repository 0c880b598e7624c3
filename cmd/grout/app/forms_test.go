package app_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"grout/cmd/grout/app"
)

// TestForms sends one set of events in every accepted form to a running node:
// they are counted once, and what is repeated is recognised (contract §7).
func TestForms(t *testing.T) {
	cfg := app.DefaultConfig()
	cfg.DataDir = filepath.Join(t.TempDir(), "data")
	cfg.HTTPAddr, cfg.NATSListen, cfg.LogLevel, cfg.Partitions = "127.0.0.1:0", "", "error", 2
	cfg.InternalKeys, cfg.ServiceKeys = app.Secret{Values: []string{"key"}}, app.Secret{Values: []string{"service"}}
	node, err := app.Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := node.Stop(); err != nil {
			t.Error(err)
		}
	}()
	now := time.Now().UTC().Format(time.RFC3339)
	event := func(id, app string) string {
		return fmt.Sprintf(`{"event_id":%q,"timestamp":%q,"app_id":%q,"user_id":"u","model":"m","input_tokens":1,"output_tokens":2}`, id, now, app)
	}
	lines := event("e1", "a") + "\n" + event("e2", "b") + "\n" + event("e3", "c")
	batch := `{"events":[` + strings.ReplaceAll(lines, "\n", ",") + `]}`
	cloudEvent := `{"specversion":"1.0","id":"1","source":"//s","type":"ai.mozaiks.usage.ingest.v1","data":` + batch + `}`
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	post := func(path, body string, headers ...string) (string, http.Header) {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, node.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Internal-API-Key", "key")
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			req.Header.Set(name, value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%d %v: %s", resp.StatusCode, err, text)
		}
		return string(text), resp.Header
	}
	expect := func(text, want string) {
		t.Helper()
		if !strings.Contains(text, want) {
			t.Errorf("answered %s, want %s", text, want)
		}
	}
	const ingest = "/api/usage/ingest"
	binary := []string{"Ce-Specversion: 1.0", "Ce-Id: 1", "Ce-Source: //s", "Ce-Type: ai.mozaiks.usage.ingest.v1"}

	text, _ := post(ingest, string(z.EncodeAll([]byte(lines), nil)), "Content-Type: application/x-ndjson", "Content-Encoding: zstd")
	expect(text, `"accepted":3,"duplicates":0,"rejected":0`)
	text, h := post(ingest, cloudEvent, "Content-Type: application/cloudevents+json")
	expect(text, `"accepted":0,"duplicates":3,"rejected":0`)
	if h.Get("Idempotency-Replayed") != "" {
		t.Error("the first event is taken for a repeat")
	}
	first := text
	text, h = post(ingest, batch, binary...)
	if text != first || h.Get("Idempotency-Replayed") != "true" {
		t.Errorf("the event in binary mode is not recognised: %s", text)
	}
	text, _ = post(ingest, "["+cloudEvent+","+strings.Replace(cloudEvent, `"id":"1"`, `"id":"2"`, 1)+","+strings.Replace(cloudEvent, `"e3"`, `"e4"`, 1)+"]", "Content-Type: application/cloudevents-batch+json")
	expect(text, `{"results":[`+first+`,{"batch_id":"ce-`)
	// An event used again for other content is a conflict for the app that differs.
	expect(text, `"code":"BATCH_CONFLICT"`)

	report := `{"events":[` + strings.Repeat(fmt.Sprintf(`{"event_type":"token_usage","app_id":"a","user_id":"u","timestamp":%q,"data":{"model":"m","input_tokens":1,"output_tokens":2}},`, now), 2) +
		fmt.Sprintf(`{"event_type":"api_call","app_id":"a","user_id":"u","timestamp":%q,"data":{}}]}`, now)
	for range 2 { // the second time nothing is counted, and all the same nothing need be sent again
		text, _ = post("/api/billing/usage-events", report, "Authorization: Bearer service")
		expect(text, `{"accepted":3,"failed":0,"errors":[]}`)
	}
	resp, err := http.DefaultClient.Do(get(t, node.URL+"/api/usage?app_id=a&group_by=model"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	expect(b.String(), `"totals":{"events":4,"input_tokens":3,"output_tokens":6,"total_tokens":9`)
	expect(b.String(), `"model":"none","events":1,"input_tokens":0`)
	http.DefaultClient.CloseIdleConnections()
}

func get(t *testing.T, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Internal-API-Key", "key")
	return req
}
