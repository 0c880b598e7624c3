package plugins

import (
	"bufio"
	"os"

	"golang.org/x/sys/unix"
)

// pending is the lines of a worker, of which one can tell whether more has been written.
type pending struct {
	file *os.File
	lineReader
}

func newPending(file *os.File, most int64) pending {
	return pending{file, lineReader{r: bufio.NewReaderSize(file, 64<<10), most: most}}
}

// more reports whether something was written behind the last line. It is called while
// nobody reads the next one.
func (p *pending) more() bool {
	if p.r.Buffered() > 0 {
		return true
	}
	raw, err := p.file.SyscallConn()
	if err != nil {
		return false
	}
	waiting := 0
	_ = raw.Control(func(fd uintptr) { waiting, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return waiting > 0
}
