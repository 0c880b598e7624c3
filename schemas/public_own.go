package schemas

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of what others publish (contract §1, §8).
const (
	MaxPublicBytes = 8 << 20 // data of a message
	// MaxLetterBytes holds the whole of any message of MOZAIKS_IN as one command, which has
	// a group to itself.
	MaxLetterBytes = MaxGroupBytes + 128<<10
	// maxLetterHeaders is how much of headers a letter shows as they are, as JSON.
	maxLetterHeaders = 64 << 10
	maxLetterReason  = 1 << 10 // characters
)

// LetterHeadersBase64 is the one header of an original whose headers are no text, or too
// long to be shown: base64 of its header block as NATS has it.
const LetterHeadersBase64 = "Grout-Headers-Base64"

// SourceIn is the source of commands about messages that are none.
const SourceIn = "//mozaiks.ai/grout/in"

// CommandRefusal is the payload of command.refuse: the command of somebody else, whose id
// and source the frame has, is refused by what only a node knows, such as which plugins
// there are. Digest is that of the command, by which its repeat is recognised.
type CommandRefusal struct {
	Kind    string // of the command
	Digest  [16]byte
	Code    Code
	Detail  string
	Subject string // what it was about
}

// EncodePayload gives the stored form. Form 1: form, digest 16, kind, code, detail, subject.
func (p *CommandRefusal) EncodePayload(dst []byte) []byte {
	dst = append(append(dst, 1), p.Digest[:]...)
	for _, s := range [...]string{p.Kind, string(p.Code), ClipText(p.Detail, MaxRunTextChars), p.Subject} {
		dst = appendText(dst, s)
	}
	return dst
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (p *CommandRefusal) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	copy(p.Digest[:], r.Bytes(16))
	p.Kind, p.Code, p.Detail, p.Subject = r.name(), Code(r.name()), r.Text(), r.Text()
	return r.end()
}

// LetterFiling is the payload of letter.file: a message of MOZAIKS_IN that is no command
// goes to the dead letters, whole. The frame's id is that of the message, so that a
// message which is read twice is one letter.
type LetterFiling struct {
	Kind     string // of the command that it was to be; empty when it is none
	Code     Code
	Reason   string
	Cause    Cause // the command's id and source, as far as they could be read
	Original OriginalMessage
}

// EncodePayload gives the stored form. Form 1: form, kind, code, reason, id and source of
// the command, subject, sequence, time, headers × (name, values × value), data.
func (p *LetterFiling) EncodePayload(dst []byte) []byte {
	dst = append(dst, 1)
	for _, s := range [...]string{p.Kind, string(p.Code), ClipText(p.Reason, maxLetterReason), p.Cause.ID, p.Cause.Source, p.Original.Subject} {
		dst = appendText(dst, s)
	}
	dst = binary.AppendUvarint(dst, p.Original.Sequence)
	dst = binary.AppendVarint(dst, p.Original.Time)
	dst = binary.AppendUvarint(dst, uint64(len(p.Original.Headers)))
	for _, name := range slices.Sorted(maps.Keys(p.Original.Headers)) {
		values := p.Original.Headers[name]
		dst = binary.AppendUvarint(appendText(dst, name), uint64(len(values)))
		for _, v := range values {
			dst = appendText(dst, v)
		}
	}
	return appendBytes(dst, p.Original.Data)
}

// DecodePayload reads what EncodePayload wrote. Texts and data point into src.
func (p *LetterFiling) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	*p = LetterFiling{Kind: r.Text(), Code: Code(r.name()), Reason: r.Text(), Cause: Cause{r.Text(), r.Text()}}
	o := &p.Original
	o.Subject, o.Sequence, o.Time = r.name(), r.Uvarint(), r.Varint()
	if n := r.Count(2); n > 0 {
		o.Headers = make(map[string][]string, n)
		for range n {
			name := r.Text()
			values := make([]string, 0, 1)
			for range r.Count(1) {
				values = append(values, r.Text())
			}
			o.Headers[name] = values
		}
	}
	o.Data = r.Bytes(r.Uvarint())
	return r.end()
}

// LetterHeaders are the headers of an original as a letter has them: as they are when they
// are text and not too long, else their block in base64, so that a letter always fits
// into its stream and nothing of the original is lost.
func LetterHeaders(headers map[string][]string) map[string][]string {
	if len(headers) == 0 {
		return nil
	}
	text := true
	for name, values := range headers {
		text = text && utf8.ValidString(name)
		for _, v := range values {
			text = text && utf8.ValidString(v)
		}
	}
	if text && headerBytes(headers) <= maxLetterHeaders {
		if shown, err := json.Marshal(headers); err == nil && len(shown) <= maxLetterHeaders {
			return headers
		}
	}
	return map[string][]string{LetterHeadersBase64: {base64.StdEncoding.EncodeToString(headerBlock(headers))}}
}

func headerBytes(headers map[string][]string) (n int) {
	for name, values := range headers {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}

// headerBlock is how NATS writes headers.
func headerBlock(headers map[string][]string) []byte {
	b := append(make([]byte, 0, headerBytes(headers)+16), "NATS/1.0\r\n"...)
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		for _, v := range headers[name] {
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	return append(b, "\r\n"...)
}

// OriginalHeaders reverses LetterHeaders.
func OriginalHeaders(headers map[string][]string) (map[string][]string, error) {
	packed, ok := headers[LetterHeadersBase64]
	if !ok || len(headers) != 1 || len(packed) != 1 {
		return headers, nil
	}
	block, err := base64.StdEncoding.DecodeString(packed[0])
	if err != nil {
		return nil, err
	}
	return readHeaderBlock(block)
}

func readHeaderBlock(block []byte) (map[string][]string, error) {
	text, ok := strings.CutPrefix(string(block), "NATS/1.0\r\n")
	if !ok {
		return nil, ErrDamaged
	}
	headers := map[string][]string{}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\r\n\r\n"), "\r\n") {
		name, value, ok := strings.Cut(line, ": ")
		if !ok {
			return nil, ErrDamaged
		}
		headers[name] = append(headers[name], value)
	}
	return headers, nil
}

// CommandDigest covers what the command of somebody else says, so that its repeat can be
// told from another command with the same id. What its node has added is left out.
func CommandDigest(kind string, payload any, raw []byte) [16]byte {
	b := appendText(nil, kind)
	switch p := payload.(type) {
	case *CommandRefusal:
		return p.Digest
	case *LetterFiling:
		b = append(appendText(b, p.Original.Subject), p.Original.Data...)
	case *UsageBatch:
		b = appendText(b, p.BatchID)
		for _, part := range p.Parts {
			b = append(appendText(b, part.AppID), part.Digest[:]...)
		}
	case *PluginExecution:
		b = appendText(appendText(b, p.Plugin), p.UserID)
		b = append(b, p.BodyDigest[:]...)
	case *RunReport:
		for i := range p.Events {
			b = appendRunEvent(b, &p.Events[i])
		}
		for i := range p.Rejected {
			b = binary.AppendUvarint(b, uint64(p.Rejected[i].Index))
			b = appendText(appendText(b, p.Rejected[i].EventID), string(p.Rejected[i].Code))
		}
	default:
		b = append(b, raw...)
	}
	return digest16(b)
}

// OwnSource tells what grout itself says: its commands and its facts. Nobody else may use
// such a source.
func OwnSource(source string) bool {
	part := partOfApp(source)
	return strings.HasPrefix(source, ownSource) || part == "grout" || strings.HasPrefix(part, "grout/")
}

// plainSource tells a source that stands for what somebody publishes as plain JSON.
func plainSource(source string) bool { return strings.HasPrefix(partOfApp(source), "nats/") }

// partOfApp is what follows the app in a source of AppSource; empty when it is none.
func partOfApp(source string) string {
	rest, _ := strings.CutPrefix(source, appSources)
	if len(rest) == len(source) {
		return ""
	}
	_, part, _ := strings.Cut(rest, "/")
	return part
}

const (
	ownSource  = "//mozaiks.ai/grout"
	appSources = "//mozaiks.ai/app/"
)

// Published reports whether a command is known by its source and id: that of somebody
// else, or one about a message of theirs, which may be read again.
func (c *CommandFrame) Published() bool { return !OwnSource(c.Source) || c.Kind == FileLetter.Name }
