package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// maxLine bounds a line, of which an event takes a few kilobytes at most.
const maxLine = 1 << 20

// lineReader gives the lines that are not blank.
type lineReader struct {
	in     *bufio.Reader
	buf    []byte
	number int
}

func (l *lineReader) next() (piece, error) {
	var p piece
	for {
		n, err := l.line()
		if n == 0 && errors.Is(err, io.EOF) {
			return p, io.EOF
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return p, err
		}
		l.number++
		p.bytes += n
		p.number = l.number
		if n > maxLine {
			return p, &badRow{line: l.number, err: fmt.Errorf("is longer than %d bytes", maxLine)}
		}
		if p.text = bytes.Trim(l.buf, " \t\r\n"); len(p.text) > 0 {
			return p, nil
		}
	}
}

// line reads one line into buf, of a long one only the beginning.
func (l *lineReader) line() (n int64, err error) {
	l.buf = l.buf[:0]
	for {
		part, err := l.in.ReadSlice('\n')
		n += int64(len(part))
		if n <= maxLine {
			l.buf = append(l.buf, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return n, err
		}
	}
}

// listReader gives the events of {"events":[…]} or […].
type listReader struct {
	in     *jsontext.Decoder
	inside bool // of an object
	ended  bool
	number int
	offset int64
}

// open reads up to the first event.
func (l *listReader) open() error {
	if l.in.PeekKind() == '{' {
		l.inside = true
		if _, err := l.in.ReadToken(); err != nil {
			return err
		}
		for {
			name, err := l.in.ReadToken()
			switch {
			case err != nil:
				return notJSON(err)
			case name.Kind() == '}':
				return errors.New(`holds neither a list of events nor an object with the list "events"; for an object a line give --format ndjson`)
			}
			if name.String() == "events" {
				break
			}
			if err := l.in.SkipValue(); err != nil {
				return notJSON(err)
			}
		}
	}
	open, err := l.in.ReadToken()
	if err != nil {
		return notJSON(err)
	}
	if open.Kind() != '[' {
		return errors.New("the events are no list")
	}
	return nil
}

func notJSON(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("is empty or ends early")
	}
	return fmt.Errorf("is not JSON: %w", err)
}

func (l *listReader) next() (piece, error) {
	if l.ended {
		return piece{}, io.EOF
	}
	if l.in.PeekKind() == ']' {
		l.ended = true
		return piece{}, l.close()
	}
	text, err := l.in.ReadValue()
	if err != nil {
		return piece{}, notJSON(err)
	}
	l.number++
	p := piece{text, l.number, l.in.InputOffset() - l.offset}
	l.offset = l.in.InputOffset()
	return p, nil
}

// close reads what follows the list: nothing but other members of its object.
func (l *listReader) close() error {
	if _, err := l.in.ReadToken(); err != nil {
		return notJSON(err)
	}
	for l.inside {
		name, err := l.in.ReadToken()
		if err != nil {
			return notJSON(err)
		}
		if name.Kind() == '}' {
			break
		}
		if name.String() == "events" {
			return errors.New("holds two lists of events")
		}
		if err := l.in.SkipValue(); err != nil {
			return notJSON(err)
		}
	}
	if _, err := l.in.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("holds something behind the list of events")
	}
	return io.EOF
}
