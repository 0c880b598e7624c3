package schemas

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// canonicalJSON writes the canonical form of text, which must be one JSON value
// that a jsonScanner has read without a fault (so its depth is bounded). ok is
// false when the form is longer than limit bytes.
//
// The form is that of RFC 8785 but for numbers beyond float64, which keep all of
// their digits (see appendCanonicalNumber). Texts have the same form exactly
// when they mean the same.
func canonicalJSON(text string, limit int) (form []byte, ok bool) {
	w := canonicalWriter{text: text, out: make([]byte, 0, min(len(text), limit)), limit: limit}
	ok = w.value()
	return w.out, ok
}

// canonicalWriter copies a value from text to out. Its methods return false as
// soon as out is too long, and the rest need not be read then.
type canonicalWriter struct {
	text  string
	pos   int
	out   []byte
	limit int
}

func (w *canonicalWriter) peek() byte {
	for strings.IndexByte(" \t\n\r", w.text[w.pos]) >= 0 {
		w.pos++
	}
	return w.text[w.pos]
}

func (w *canonicalWriter) value() bool {
	switch c := w.peek(); c {
	case '{':
		return w.object()
	case '[':
		return w.array()
	case '"':
		w.out = appendCanonicalString(w.out, w.string())
	case 't', 'n':
		w.out = append(w.out, w.text[w.pos:w.pos+4]...)
		w.pos += 4
	case 'f':
		w.out = append(w.out, "false"...)
		w.pos += 5
	default:
		n, _, _ := scanNumber(w.text[w.pos:])
		w.out = appendCanonicalNumber(w.out, w.text[w.pos:w.pos+n])
		w.pos += n
	}
	return len(w.out) <= w.limit
}

func (w *canonicalWriter) string() string {
	s := jsonScanner{text: w.text, pos: w.pos}
	t, _ := s.str()
	w.pos = s.pos
	return t.decoded()
}

// mark copies the punctuation mark at pos.
func (w *canonicalWriter) mark() {
	w.out = append(w.out, w.peek())
	w.pos++
}

func (w *canonicalWriter) array() bool {
	w.mark()
	for more := w.peek() != ']'; more; {
		if !w.value() {
			return false
		}
		if more = w.peek() == ','; more {
			w.mark()
		}
	}
	w.mark()
	return len(w.out) <= w.limit
}

// canonicalMember is a member of an object with its place in the output.
type canonicalMember struct {
	name     string
	from, to int
}

func (w *canonicalWriter) object() bool {
	w.mark()
	var members []canonicalMember
	for more := w.peek() != '}'; more; {
		w.peek()
		m := canonicalMember{name: w.string(), from: len(w.out)}
		w.out = appendCanonicalString(w.out, m.name)
		w.mark()
		if !w.value() {
			return false
		}
		m.to = len(w.out)
		members = append(members, m)
		if more = w.peek() == ','; more {
			w.mark()
		}
	}
	w.mark()
	w.sort(members)
	return len(w.out) <= w.limit
}

// sort puts the members of the object that has just been written into order.
func (w *canonicalWriter) sort(members []canonicalMember) {
	byName := func(a, b canonicalMember) int { return compareUTF16(a.name, b.name) }
	if slices.IsSortedFunc(members, byName) {
		return
	}
	first := members[0].from
	written := string(w.out[first:])
	slices.SortFunc(members, byName)
	w.out = w.out[:first]
	for i, m := range members {
		if i > 0 {
			w.out = append(w.out, ',')
		}
		w.out = append(w.out, written[m.from-first:m.to-first]...)
	}
	w.out = append(w.out, '}')
}

// compareUTF16 orders valid UTF-8 by its UTF-16 code units (RFC 8785 §3.2.3).
func compareUTF16(a, b string) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	if i == len(a) || i == len(b) || a[i] < utf8.RuneSelf || b[i] < utf8.RuneSelf {
		return strings.Compare(a[i:], b[i:])
	}
	for !utf8.RuneStart(a[i]) {
		i--
	}
	ra, _ := utf8.DecodeRuneInString(a[i:])
	rb, _ := utf8.DecodeRuneInString(b[i:])
	return int(utf16Rank(ra) - utf16Rank(rb))
}

// utf16Rank keeps the order of code points but puts those that UTF-16 writes as
// surrogates (D800–DFFF) before E000–FFFF.
func utf16Rank(r rune) rune {
	if r >= 0xe000 && r <= 0xffff {
		return r + utf8.MaxRune
	}
	return r
}

// appendCanonicalString writes a string with the escapes of RFC 8785 §3.2.2.2.
func appendCanonicalString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c >= ' ':
			dst = append(dst, c)
		case c >= '\b' && c <= '\r' && c != '\v':
			dst = append(dst, '\\', "btn-fr"[c-'\b'])
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(dst, '"')
}
