package schemas

import (
	"fmt"
	"strconv"
	"strings"
)

// Streams (contract §8).
const (
	StreamIn          = "MOZAIKS_IN"
	StreamCommands    = "MOZAIKS_CMD"
	StreamFacts       = "MOZAIKS_EVT"
	StreamDeadLetters = "MOZAIKS_DLQ"
)

// Subject spaces. Groups, relay markers and replies are grout's own; no other
// account can reach them. What other accounts publish as commands arrives in
// MOZAIKS_IN (see in.go).
const (
	subjectGroup   = "mozaiks.v1.grp."
	subjectFact    = "mozaiks.v1.evt."
	subjectDead    = "mozaiks.v1.dlq."
	subjectRelay   = "mozaiks.v1.relay."
	subjectReply   = "mozaiks.v1.reply."
	SubjectsGroups = subjectGroup + ">"
	SubjectsFacts  = subjectFact + ">"
	SubjectsDead   = subjectDead + ">"
)

// GroupSubject is where the command groups of a partition are published.
func GroupSubject(partition int) string { return subjectGroup + strconv.Itoa(partition) }

// FactSubject is where a fact of an app is published (contract §8).
func FactSubject(app, kind string) string { return subjectFact + EscapeToken(app) + "." + kind }

// FactSubjectOf is where a fact of an app about a chat or run is published (contract §8).
func FactSubjectOf(app, kind, of string) string {
	return FactSubject(app, kind) + "." + EscapeToken(of)
}

// DeadLetterSubject is where a command of a kind that could not be applied goes.
// A letter without a readable app or kind is filed under "-".
func DeadLetterSubject(app, kind string) string {
	if app == "" {
		app = "-"
	}
	if kind == "" {
		kind = "-"
	}
	return subjectDead + EscapeToken(app) + "." + escapeKind(kind)
}

// MarkerSubject is where a partition's relay keeps its marker in a destination
// stream: "evt" or "dlq" (architecture §2.6).
func MarkerSubject(dest string, partition int) string {
	return subjectRelay + dest + "." + strconv.Itoa(partition)
}

// MarkerSubjects are all markers of a destination stream.
func MarkerSubjects(dest string) string { return subjectRelay + dest + ".>" }

// ReplySubject is where a node waits for the outcomes of the groups it published.
func ReplySubject(node string) string { return subjectReply + EscapeToken(node) }

const hexUpper = "0123456789ABCDEF"

func plainTokenByte(c byte) bool {
	return c > ' ' && c < 0x7f && c != '.' && c != '*' && c != '>' && c != '%'
}

// EscapeToken makes one subject token of any text, one-to-one: bytes outside
// printable ASCII and the bytes . * > % become %XX (contract §8).
func EscapeToken(s string) string {
	n := 0
	for i := range len(s) {
		if !plainTokenByte(s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 2*n)
	for i := range len(s) {
		c := s[i]
		if plainTokenByte(c) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hexUpper[c>>4])
		b.WriteByte(hexUpper[c&15])
	}
	return b.String()
}

// UnescapeToken reverses EscapeToken. It refuses every spelling that EscapeToken
// would not have written, so two tokens never name one app.
func UnescapeToken(t string) (string, error) {
	if !strings.Contains(t, "%") {
		if EscapeToken(t) != t {
			return "", fmt.Errorf("token %q holds a character that must be escaped", t)
		}
		return t, nil
	}
	out := make([]byte, 0, len(t))
	for i := 0; i < len(t); i++ {
		if t[i] != '%' {
			out = append(out, t[i])
			continue
		}
		if i+2 >= len(t) {
			return "", fmt.Errorf("token %q ends inside an escape", t)
		}
		hi, lo := strings.IndexByte(hexUpper, t[i+1]), strings.IndexByte(hexUpper, t[i+2])
		if hi < 0 || lo < 0 {
			return "", fmt.Errorf("token %q holds an escape that is not two upper-case hex digits", t)
		}
		out = append(out, byte(hi<<4|lo))
		i += 2
	}
	if s := string(out); EscapeToken(s) == t {
		return s, nil
	}
	return "", fmt.Errorf("token %q is not in its one escaped form", t)
}

// escapeKind keeps the dots of a kind, which are meant as token separators, and
// drops empty tokens, which NATS does not allow.
func escapeKind(kind string) string {
	parts := strings.FieldsFunc(kind, func(r rune) bool { return r == '.' })
	if len(parts) == 0 {
		return "-"
	}
	for i := range parts {
		parts[i] = EscapeToken(parts[i])
	}
	return strings.Join(parts, ".")
}

// PartitionOf gives the partition of an app: FNV-1a-32 of its escaped token
// modulo the number of partitions, as NATS computes {{partition(P,1)}}
// (architecture §5).
func PartitionOf(app string, partitions int) int {
	if partitions <= 1 {
		return 0
	}
	h := uint32(2166136261)
	for i := range len(app) {
		c := app[i]
		if plainTokenByte(c) {
			h = (h ^ uint32(c)) * 16777619
			continue
		}
		h = (h ^ uint32('%')) * 16777619
		h = (h ^ uint32(hexUpper[c>>4])) * 16777619
		h = (h ^ uint32(hexUpper[c&15])) * 16777619
	}
	return int(h % uint32(partitions))
}
