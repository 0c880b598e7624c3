package schemas

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// anyText draws texts that subjects have to survive: Unicode, bytes that are no
// text, and what looks like a subject or an escape.
func anyText() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.String(),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 40), func(b []byte) string { return string(b) }),
		rapid.StringMatching(`[ .*>%aF0-9~-]{0,12}`),
	)
}

func legalToken(token string) bool {
	for i := range len(token) {
		if c := token[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(".*>", c) >= 0 {
			return false
		}
	}
	return token != ""
}

func TestEscapeTokenIsOneToOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyText().Draw(t, "a"), anyText().Draw(t, "b")
		x, y := EscapeToken(a), EscapeToken(b)
		if (a == b) != (x == y) {
			t.Fatalf("%q and %q become %q and %q", a, b, x, y)
		}
		if a != "" && !legalToken(x) {
			t.Fatalf("%q becomes %q, which is no token", a, x)
		}
		back, err := UnescapeToken(x)
		if err != nil || back != a {
			t.Fatalf("%q became %q and came back as %q: %v", a, x, back, err)
		}
	})
}

// Whatever a token is read as is written as that token again.
func TestUnescapeTokenKnowsOneSpelling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		token := anyText().Draw(t, "token")
		if s, err := UnescapeToken(token); err == nil && EscapeToken(s) != token {
			t.Fatalf("%q is read as %q, whose token is %q", token, s, EscapeToken(s))
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		text := anyText().Draw(t, "text") + "x"
		at := rapid.IntRange(0, len(text)-1).Draw(t, "escaped without need")
		if !plainTokenByte(text[at]) {
			return
		}
		token := EscapeToken(text[:at]) + "%" + string(hexUpper[text[at]>>4]) + string(hexUpper[text[at]&15]) + EscapeToken(text[at+1:])
		if s, err := UnescapeToken(token); err == nil {
			t.Fatalf("%q is read as %q", token, s)
		}
	})
}

func TestUnescapeToken(t *testing.T) {
	for token, want := range map[string]string{
		"app_1":          "app_1",
		"%2E":            ".",
		"%25":            "%",
		"%252E":          "%2E",
		"a%20b":          "a b",
		"%C3%A9":         "é",
		"%00%7F%FF":      "\x00\x7f\xff",
		"~!@#$^&()[]{}?": "~!@#$^&()[]{}?",
	} {
		if s, err := UnescapeToken(token); err != nil || s != want {
			t.Errorf("%s: %q %v, want %q", token, s, err, want)
		}
	}
	for _, token := range []string{
		"%2e", "%c3%a9", "%41", "%2D", "%", "a%", "a%2", "%%25", "%G0", "%0G", "% 2", "a.b", "a b", "*", ">", "é", "\x00", "\x7f", "%2E.", "\t%2E",
	} {
		if s, err := UnescapeToken(token); err == nil {
			t.Errorf("%q is read as %q", token, s)
		}
	}
}

func TestSubjectsAreLegal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		app, kind := anyText().Draw(t, "app"), anyText().Draw(t, "kind")
		subjects := []string{DeadLetterSubject(app, kind), ReplySubject(app + "-"), MarkerSubject(DestFacts, 3), GroupSubject(12)}
		if app != "" {
			subjects = append(subjects, FactSubject(app, UsageRecorded.Name))
		}
		for _, subject := range subjects {
			for token := range strings.SplitSeq(subject, ".") {
				if !legalToken(token) {
					t.Fatalf("%q is no subject", subject)
				}
			}
		}
		// Behind the subject space the app is one token, and it can be read back.
		token, _, _ := strings.Cut(strings.TrimPrefix(subjects[0], "mozaiks.v1.dlq."), ".")
		if back, err := UnescapeToken(token); err != nil || back != app && app != "" {
			t.Fatalf("app %q reads %q in %q: %v", app, back, subjects[0], err)
		}
	})
}

func TestSubjects(t *testing.T) {
	for got, want := range map[string]string{
		FactSubject("a.b", "usage.recorded"):        "mozaiks.v1.evt.a%2Eb.usage.recorded",
		DeadLetterSubject("app 1", "usage.ingest"):  "mozaiks.v1.dlq.app%201.usage.ingest",
		DeadLetterSubject("", ""):                   "mozaiks.v1.dlq.-.-",
		DeadLetterSubject("a", ".."):                "mozaiks.v1.dlq.a.-",
		DeadLetterSubject("a", ".usage..in*gest. "): "mozaiks.v1.dlq.a.usage.in%2Agest.%20",
		GroupSubject(3):                             "mozaiks.v1.grp.3",
		MarkerSubject(DestDeadLetters, 2):           "mozaiks.v1.relay.dlq.2",
		MarkerSubjects(DestFacts):                   "mozaiks.v1.relay.evt.>",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
