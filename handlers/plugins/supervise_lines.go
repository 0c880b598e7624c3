package plugins

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"time"
)

const (
	// largeLine is from where on memory is given back to the system after a call.
	largeLine = 1 << 20
	// restWithin bounds how long the end of a call looks for what it has left running.
	restWithin = time.Second
)

var errLineTooLong = errors.New("the line is too long")

// lineReader reads lines of bounded length. A line is valid until the next one is read.
type lineReader struct {
	r    *bufio.Reader
	most int64
	long []byte
}

// next gives a line without its end. What is not ended by a line feed is no line.
func (l *lineReader) next() ([]byte, error) {
	if cap(l.long) > largeLine {
		l.long = nil
	}
	l.long = l.long[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		if int64(len(l.long)+len(part)) > l.most {
			return nil, errLineTooLong
		}
		if err == nil && len(l.long) == 0 {
			return bytes.TrimRight(part, "\r\n"), nil
		}
		l.long = append(l.long, part...)
		switch {
		case err == nil:
			return bytes.TrimRight(l.long, "\r\n"), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			if errors.Is(err, io.EOF) && len(l.long) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// isPublication reports whether a line is an object whose first member is "publish".
func isPublication(line []byte) bool {
	rest, ok := bytes.CutPrefix(bytes.TrimLeft(line, " \t"), []byte("{"))
	return ok && bytes.HasPrefix(bytes.TrimLeft(rest, " \t"), []byte(`"publish"`))
}
