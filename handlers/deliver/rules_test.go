package deliver

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"pgregory.net/rapid"
)

// While secrets rotate, whoever knows one of them can verify.
func TestSignaturesOfSeveralSecrets(t *testing.T) {
	another := FormatSecret([]byte(strings.Repeat("k", 24)))
	keys, err := testKeys(t, testSecret, another)()
	if err != nil {
		t.Fatal(err)
	}
	now, body := time.Now(), []byte(`{"a":1}`)
	header := http.Header{}
	header.Set("webhook-id", messageID("ABC.0"))
	header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	header.Set("webhook-signature", sign(keys, messageID("ABC.0"), now, body))
	for secret, fine := range map[string]bool{testSecret: true, another: true, FormatSecret([]byte(strings.Repeat("x", 24))): false} {
		verifier, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := verifier.Verify(body, header); (err == nil) != fine {
			t.Errorf("verified: %v, expected %v", err, fine)
		}
		if verifier.Verify([]byte(`{"a":2}`), header) == nil {
			t.Error("another body is verified")
		}
	}
}

// What is a secret, and that what is not says nothing of itself.
func TestParseSecret(t *testing.T) {
	for text, fine := range map[string]bool{
		testSecret:                     true,
		" " + testSecret + "\n":        true,
		FormatSecret(make([]byte, 24)): true,
		strings.TrimRight(FormatSecret(make([]byte, 25)), "="): true,
		FormatSecret(make([]byte, 64)):                         true,
		FormatSecret(make([]byte, 23)):                         false,
		FormatSecret(make([]byte, 65)):                         false,
		"":                                                     false,
		"whsec_":                                               false,
		"whsk_" + strings.TrimPrefix(testSecret, "whsec_"):           false,
		strings.TrimPrefix(testSecret, "whsec_"):                     false,
		"whsec_not base64 at all but certainly long enough to be it": false,
	} {
		_, err := ParseSecret(text)
		if (err == nil) != fine {
			t.Errorf("%q: %v", text, err)
		}
		if err != nil && len(text) > 8 && strings.Contains(err.Error(), text[8:]) {
			t.Errorf("%v tells what was given", err)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		fits          bool
	}{
		{"*", "usage.recorded", true},
		{"*", "", true},
		{"usage.*", "usage.recorded", true},
		{"usage.*", "usage.", true},
		{"usage.*", "usage", false},
		{"usage.recorded", "usage.recorded", true},
		{"usage.recorded", "usage.recorded2", false},
		{"*.run_*", "orchestration.run_started", true},
		{"*.run_*", "orchestration.agent_started", false},
		{"o*.run_*d", "orchestration.run_started", true},
		{"*a*a*", "a", false},
		{"*a*a*", "aa", true},
		{"a*a", "a", false},
		{"a**b", "ab", true},
		{"", "", true},
		{"", "a", false},
	} {
		if Match(c.pattern, c.text) != c.fits {
			t.Errorf("%q and %q: %v", c.pattern, c.text, !c.fits)
		}
	}
}

// Waits grow, have a bound, and differ.
func TestBackoff(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		first := time.Duration(rapid.Int64Range(1, int64(time.Minute)).Draw(rt, "first"))
		most := first * time.Duration(rapid.Int64Range(1, 5000).Draw(rt, "most"))
		n := rapid.IntRange(1, 1000).Draw(rt, "failures")
		full := most
		if n < 14 && first<<(n-1) < most {
			full = first << (n - 1)
		}
		if d := backoff(first, most, n); d < full/2 || d > full {
			rt.Fatalf("%v behind %d failures, expected %v to %v", d, n, full/2, full)
		}
	})
	seen := map[time.Duration]bool{}
	for range 100 {
		seen[backoff(time.Second, time.Hour, 5)] = true
	}
	if len(seen) < 50 {
		t.Errorf("%d different waits of 100", len(seen))
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "100000": time.Hour, "-7": 0, "7.5": 0, "soon": 0, "99999999999999999999": 0,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Minute).Format(http.TimeFormat): 0, now.Add(48 * time.Hour).Format(http.TimeFormat): time.Hour,
	} {
		if got := retryAfter(http.Header{"Retry-After": {text}}, now, time.Hour); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// What answers of the Platform mean.
func TestJudgeAnswer(t *testing.T) {
	const taken, refused, later = "taken", "refused", "later"
	for _, c := range []struct {
		status         int
		text           string
		want           string
		failed, listed int
	}{
		{200, `{"accepted":2,"failed":1,"errors":[{"index":0}]}`, taken, 1, 1},
		{200, `{"accepted":2,"failed":0,"errors":null}`, taken, 0, 0},
		{200, `{"accepted":2,"errors":["a","b"]}`, taken, 2, 2},
		{200, `{"accepted":2,"failed":"no","errors":7}`, taken, 0, 0},
		{200, `{"success":true}`, taken, 0, 0},
		{202, ``, taken, 0, 0},
		{204, "", taken, 0, 0},
		{200, " \n", taken, 0, 0},
		{200, `<html>`, later, 0, 0},
		{200, `[]`, later, 0, 0},
		{200, `null`, later, 0, 0},
		{200, `"ok"`, later, 0, 0},
		{200, `{"accepted":2`, later, 0, 0},
		{200, "{\"a\":\"" + strings.Repeat("x", upstreamAnswer) + "\"}", later, 0, 0},
		{301, ``, later, 0, 0},
		{307, `{"accepted":2}`, later, 0, 0},
		{400, `{"accepted":2}`, refused, 0, 0},
		{413, ``, refused, 0, 0},
		{422, ``, refused, 0, 0},
		{401, ``, later, 0, 0},
		{403, ``, later, 0, 0},
		{404, ``, later, 0, 0},
		{409, ``, later, 0, 0},
		{410, ``, later, 0, 0},
		{429, ``, later, 0, 0},
		{500, ``, later, 0, 0},
		{503, ``, later, 0, 0},
	} {
		a, err := judgeAnswer(&http.Response{StatusCode: c.status, Header: http.Header{}}, []byte(c.text), time.Minute)
		got := taken
		switch err.(type) {
		case *refusedError:
			got = refused
		case *retryError:
			got = later
		}
		if got != c.want || int(a.Failed) != c.failed || len(a.Errors) != c.listed {
			t.Errorf("%d %.40q: %s, %+v, %v", c.status, c.text, got, a, err)
		}
	}
}
