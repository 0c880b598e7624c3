package schemas

import (
	"fmt"
	"strconv"
)

// maxScanDepth bounds the memory of the scanner: an event deeper than
// MaxJSONDepth is still read to its end, text deeper than this is not.
const maxScanDepth = 10_000

// keysInLine is how many keys of one object are compared one by one before a
// map takes over, so that an object of a million keys stays linear.
const keysInLine = 16

// jsonScanner reads RFC 8259 text once, from left to right and without recursion.
//
// Faults are of two kinds. Text that cannot be read any further sets err, and
// whatever reports ok then reports false. A fault that leaves the structure
// readable (a repeated key, bad Unicode, too much depth) belongs to the item
// being read while inItem is set, where the first one is kept and reading goes
// on; outside of items it refuses the whole text.
type jsonScanner struct {
	text    string
	pos     int
	frames  []jsonFrame // containers open at pos, outermost first
	keys    []string    // keys seen so far in the open objects, innermost last
	inItem  bool
	fault   jsonFault
	tooDeep bool   // outside of items
	at      string // key in whose value pos is, for details
	err     *Error
}

// jsonFrame is an open object or array.
type jsonFrame struct {
	closer byte
	keys   int                 // where its keys begin in jsonScanner.keys
	many   map[string]struct{} // its keys, once they are more than keysInLine
}

// jsonFault is the first fault of an item; a zero code means none.
type jsonFault struct {
	code   Code
	detail string
}

// peek moves to the next byte that is not blank and returns it, 0 at the end.
func (s *jsonScanner) peek() byte {
	if s.pos < len(s.text) {
		if c := s.text[s.pos]; c > ' ' {
			return c
		}
	}
	return s.peekFar()
}

func (s *jsonScanner) peekFar() byte {
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// fail refuses the whole text as not being JSON. It returns false.
func (s *jsonScanner) fail(at int, what string) bool {
	if s.err == nil {
		s.err = Errorf(CodeInvalidJSON, "not valid JSON at byte %d: %s", at, what)
	}
	return false
}

// unexpected fails because of what is at pos. It returns false.
func (s *jsonScanner) unexpected(want string) bool {
	if s.pos >= len(s.text) {
		return s.fail(s.pos, "the text ends where "+want+" should follow")
	}
	if c := s.text[s.pos]; c < 0x80 {
		return s.fail(s.pos, "found "+strconv.QuoteRune(rune(c))+" where "+want+" should be")
	}
	return s.fail(s.pos, "found a byte outside ASCII where "+want+" should be")
}

// refuse records a fault that leaves the structure readable and returns whether
// reading goes on. The detail is only made for the first fault of an item.
func (s *jsonScanner) refuse(code Code, format string, args ...any) bool {
	if s.inItem {
		if s.fault.code == "" {
			s.fault = jsonFault{code: code, detail: fmt.Sprintf(format, args...)}
		}
		return true
	}
	if code == CodeTooDeep {
		s.tooDeep = true
		return true
	}
	return s.fail(s.pos, fmt.Sprintf(format, args...))
}

// enter opens the object or array at pos and tells whether it has an element.
func (s *jsonScanner) enter() (more, ok bool) {
	closer := s.text[s.pos] + 2 // '[' and ']', '{' and '}' are two apart in ASCII
	if len(s.frames) >= maxScanDepth {
		s.err = depthError()
		return false, false
	}
	s.frames = append(s.frames, jsonFrame{closer: closer, keys: len(s.keys)})
	s.pos++
	if len(s.frames) > MaxJSONDepth {
		s.refuse(CodeTooDeep, "%v is nested too deeply: at most %d levels, counted from the request", shown(s.at), MaxJSONDepth)
	}
	if s.peek() == closer {
		s.leave()
		return false, true
	}
	return true, true
}

// next reads what follows an element of the innermost container: a comma, or
// its end.
func (s *jsonScanner) next() (more, ok bool) {
	c := s.peek()
	if c == ',' {
		s.pos++
		return true, true
	}
	if c == s.frames[len(s.frames)-1].closer {
		s.leave()
		return false, true
	}
	return false, s.unexpected("a comma or " + strconv.QuoteRune(rune(s.frames[len(s.frames)-1].closer)))
}

func (s *jsonScanner) leave() {
	s.pos++
	top := len(s.frames) - 1
	s.keys = s.keys[:s.frames[top].keys]
	s.frames = s.frames[:top]
}

// name reads a key and its colon. good is false when the key is no valid text,
// which has been recorded then.
func (s *jsonScanner) name() (name string, good, ok bool) {
	if s.peek() != '"' {
		return "", false, s.unexpected("a key in double quotes")
	}
	t, ok := s.str()
	if !ok {
		return "", false, false
	}
	if s.peek() != ':' {
		return "", false, s.unexpected("a colon")
	}
	s.pos++
	if t.bad {
		return "", false, s.refuse(CodeInvalidText, "a key is not valid Unicode: send UTF-8 without lone surrogates")
	}
	return t.decoded(), true, true
}

// note remembers a key of the innermost object and refuses one that was there
// before. An item that has a fault already is not searched for another.
func (s *jsonScanner) note(name string) bool {
	if s.fault.code != "" {
		return true
	}
	f := &s.frames[len(s.frames)-1]
	if f.many != nil {
		if _, ok := f.many[name]; ok {
			return s.repeated(name)
		}
		f.many[name] = struct{}{}
		return true
	}
	for _, k := range s.keys[f.keys:] {
		if k == name {
			return s.repeated(name)
		}
	}
	s.keys = append(s.keys, name)
	if len(s.keys)-f.keys > keysInLine {
		f.many = make(map[string]struct{}, 2*keysInLine)
		for _, k := range s.keys[f.keys:] {
			f.many[k] = struct{}{}
		}
		s.keys = s.keys[:f.keys]
	}
	return true
}

func (s *jsonScanner) repeated(name string) bool {
	return s.refuse(CodeRepeatedKey, "the key %v is there twice: send it once", shown(name))
}

// skip reads the value at pos to its end and checks everything inside.
func (s *jsonScanner) skip() bool {
	base := len(s.frames)
	for {
		more, ok := false, true
		switch c := s.peek(); c {
		case '{', '[':
			more, ok = s.enter()
		default:
			ok = s.scalar(c)
		}
		for ok && !more && len(s.frames) > base {
			more, ok = s.next()
		}
		if !ok {
			return false
		}
		if !more {
			return true
		}
		if s.frames[len(s.frames)-1].closer == '}' {
			name, good, ok := s.name()
			if !ok || good && !s.note(name) {
				return false
			}
		}
	}
}

// scalar reads the string, number or word at pos, which begins with c.
func (s *jsonScanner) scalar(c byte) bool {
	switch {
	case c == '"':
		t, ok := s.str()
		if ok && t.bad {
			ok = s.refuse(CodeInvalidText, "%v is not valid Unicode: send UTF-8 without lone surrogates", shown(s.at))
		}
		return ok
	case c == '-' || c-'0' <= 9:
		_, _, ok := s.number()
		return ok
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	}
	return s.unexpected("a value")
}

// word reads true, false or null.
func (s *jsonScanner) word(w string) bool {
	if rest := s.text[s.pos:]; len(rest) < len(w) || rest[:len(w)] != w {
		return s.unexpected("a value (" + w + ")")
	}
	s.pos += len(w)
	return true
}

// number reads the number at pos; whole tells that it has neither fraction nor
// exponent.
func (s *jsonScanner) number() (text string, whole, ok bool) {
	n, whole, ok := scanNumber(s.text[s.pos:])
	if !ok {
		return "", false, s.fail(s.pos+n, "a number is not written as JSON writes it")
	}
	text = s.text[s.pos : s.pos+n]
	s.pos += n
	return text, whole, true
}
