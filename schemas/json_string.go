package schemas

import (
	"math/bits"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
)

// jsonText is a string of the text between its quotes. extra is by how much its
// bytes exceed its characters (code points) after unescaping; neither it nor
// decoded means anything when bad, that is, not valid Unicode.
type jsonText struct {
	raw     string
	extra   int
	escaped bool
	bad     bool
}

func (t jsonText) chars() int { return len(t.raw) - t.extra }

// decoded is the text itself: a part of the source when it has no escapes.
func (t jsonText) decoded() string {
	if !t.escaped {
		return t.raw
	}
	return string(appendUnescaped(make([]byte, 0, len(t.raw)), t.raw))
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// plainPrefix returns how many bytes of text, from i on, need no attention
// inside a string: everything but quotes, backslashes, control characters and
// bytes outside ASCII. It stops at the first of these or at the end.
func plainPrefix(text string, i int) int {
	for len(text)-i >= 8 {
		t := text[i : i+8]
		v := uint64(t[0]) | uint64(t[1])<<8 | uint64(t[2])<<16 | uint64(t[3])<<24 |
			uint64(t[4])<<32 | uint64(t[5])<<40 | uint64(t[6])<<48 | uint64(t[7])<<56
		// A byte's high bit is set in m when the byte needs attention. A borrow
		// can set it wrongly only above such a byte, and the lowest one counts.
		m := ((v ^ '"'*ones - ones) | (v ^ '\\'*ones - ones) | (v - ' '*ones) | v) & highs
		if m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
		i += 8
	}
	for i < len(text) {
		if c := text[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			break
		}
		i++
	}
	return i
}

// str reads the string whose opening quote is at pos.
func (s *jsonScanner) str() (t jsonText, ok bool) {
	from := s.pos + 1
	i := plainPrefix(s.text, from)
	if i < len(s.text) && s.text[i] == '"' {
		s.pos = i + 1
		return jsonText{raw: s.text[from:i]}, true
	}
	return s.strFrom(from, i)
}

// strFrom goes on with str at i, for strings that are not plain.
func (s *jsonScanner) strFrom(from, i int) (t jsonText, ok bool) {
	text := s.text
	for i < len(text) {
		switch c := text[i]; {
		case c == '"':
			t.raw = text[from:i]
			s.pos = i + 1
			return t, true
		case c == '\\':
			r, n := escapeAt(text, i)
			if n == 0 {
				return t, s.fail(i, "an escape in a string is not one that JSON knows")
			}
			t.escaped = true
			t.bad = t.bad || r < 0
			t.extra += n - 1
			i += n
		case c < ' ':
			return t, s.fail(i, "a control character in a string must be escaped")
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRuneInString(text[i:])
			t.bad = t.bad || r == utf8.RuneError && n == 1
			t.extra += n - 1
			i += n
		}
		i = plainPrefix(text, i)
	}
	return t, s.fail(len(text), "the text ends inside a string")
}

// escapeAt reads the escape at text[i] and returns its character and length; a
// pair of surrogates is one. The character is -1 for a lone surrogate and the
// length 0 for what is no escape.
func escapeAt(text string, i int) (r rune, n int) {
	if i+1 >= len(text) {
		return 0, 0
	}
	switch c := text[i+1]; c {
	case '"', '\\', '/':
		return rune(c), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		r := hexAt(text, i+2)
		if r < 0 {
			return 0, 0
		}
		if !utf16.IsSurrogate(r) {
			return r, 6
		}
		if i+7 < len(text) && text[i+6] == '\\' && text[i+7] == 'u' {
			if pair := utf16.DecodeRune(r, hexAt(text, i+8)); pair != utf8.RuneError {
				return pair, 12
			}
		}
		return -1, 6
	}
	return 0, 0
}

// hexAt reads four hexadecimal digits, -1 when they are not there.
func hexAt(text string, i int) rune {
	if len(text)-i < 4 {
		return -1
	}
	r := rune(0)
	for _, c := range []byte(text[i : i+4]) {
		switch {
		case c-'0' <= 9:
			r = r<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return -1
		}
	}
	return r
}

// appendUnescaped appends the characters of raw, the inside of a valid string.
func appendUnescaped(dst []byte, raw string) []byte {
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			dst = append(dst, raw[i])
			i++
			continue
		}
		r, n := escapeAt(raw, i)
		dst = utf8.AppendRune(dst, r)
		i += n
	}
	return dst
}

// shown is input as a detail may show it: quoted, at most 64 characters and
// about 96 bytes, with what is not valid or not visible replaced.
type shown string

func (s shown) String() string {
	const maxChars, maxBytes = 64, 96
	b := make([]byte, 0, maxBytes+8)
	b = append(b, '"')
	chars := 0
	for _, r := range string(s) {
		if chars == maxChars || len(b) >= maxBytes {
			b = append(b, "…"...)
			break
		}
		if !unicode.IsGraphic(r) {
			r = utf8.RuneError
		}
		b = utf8.AppendRune(b, r)
		chars++
	}
	return string(append(b, '"'))
}

// compactDigest is the hash of JSON text without the blanks between its tokens.
func compactDigest(text string) uint64 {
	var d xxhash.Digest
	d.Reset()
	from := 0
	for i := 0; i < len(text); {
		switch text[i] {
		case ' ', '\t', '\n', '\r':
			d.WriteString(text[from:i])
			i++
			from = i
		case '"':
			for i++; text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			i++
		default:
			i++
		}
	}
	d.WriteString(text[from:])
	return d.Sum64()
}
