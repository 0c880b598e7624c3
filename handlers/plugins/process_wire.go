package plugins

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// Frames between grout and the supervisor of a worker, on one socket: a kind, the
// length of the body in four bytes, the body. The end of the stream is the order to
// end the worker with everything that it started.
const (
	frameStart  byte = 'S' // to the supervisor: workerSpec as JSON; the first one
	frameCall   byte = 'C' // to the supervisor: time limit, processor time, a line for the plugin
	frameLine   byte = 'L' // to the supervisor: a line for the plugin while a call runs
	framePlugin byte = 'P' // from it: a line of the plugin that does not end the call
	frameAnswer byte = 'A' // from it: the line of the plugin that ends the handshake or the call
	frameIdle   byte = 'I' // from it: nothing runs any more of what the call had started
	frameLog    byte = 'O' // from it: a stream (1 byte), then lines that the worker printed
	frameLeader byte = 'N' // from it: leaderID as JSON
	frameEnd    byte = 'D' // from it, the last one: why the worker ended, as JSON
)

const (
	frameHeader = 5
	callHeader  = 16
	// maxFrame bounds what either side takes. A line is bounded by the plugin's own limits
	// before.
	maxFrame = 64 << 20
	// lineRoom is what a line may hold beside the input or the result.
	lineRoom = 64 << 10
)

// Streams of frameLog.
const (
	streamStdout byte = iota
	streamStderr
	streamWorker
)

var streamNames = [...]string{"stdout", "stderr", "worker"}

// workerSpec is all that a supervisor is told.
type workerSpec struct {
	Plugin   string
	Command  []string
	Dir      string
	Env      []string
	Home     string
	Readable []string // readable although they lie below what is hidden
	Writable []string
	Hide     []string
	User     *Credential

	MaxLine int64
	Memory  int64
}

// leaderID is the first process of a worker, for when its supervisor is gone.
type leaderID struct {
	PID   int
	Start uint64
}

// workerEnd is why a worker ended.
type workerEnd struct {
	Text    string
	Expired bool // the supervisor's own time limit
	Left    int  // processes that had not gone yet
}

func writeFrame(w io.Writer, kind byte, parts ...[]byte) error {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if size > maxFrame {
		return fmt.Errorf("a frame of %d bytes is too long", size)
	}
	var header [frameHeader]byte
	header[0] = kind
	binary.BigEndian.PutUint32(header[1:], uint32(size))
	if size <= 4<<10 {
		small := append(make([]byte, 0, frameHeader+size), header[:]...)
		for _, p := range parts {
			small = append(small, p...)
		}
		_, err := w.Write(small)
		return err
	}
	buffers := net.Buffers{header[:]}
	for _, p := range parts {
		if len(p) > 0 {
			buffers = append(buffers, p)
		}
	}
	_, err := buffers.WriteTo(w)
	return err
}

// readFrame reads into a buffer of its own. io.EOF is the end between two frames.
func readFrame(r *bufio.Reader) (kind byte, body []byte, err error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(header[1:])
	if size > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes is too long", size)
	}
	body = make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, fmt.Errorf("read a frame: %w", err)
	}
	return header[0], body, nil
}

// callLimits opens the body of frameCall.
func callLimits(timeout, cpu time.Duration) []byte {
	header := make([]byte, callHeader)
	binary.BigEndian.PutUint64(header, uint64(timeout))
	binary.BigEndian.PutUint64(header[8:], uint64(cpu))
	return header
}

func readCall(body []byte) (timeout, cpu time.Duration, line []byte, err error) {
	if len(body) < callHeader {
		return 0, 0, nil, fmt.Errorf("a call of %d bytes is too short", len(body))
	}
	timeout = time.Duration(binary.BigEndian.Uint64(body))
	cpu = time.Duration(binary.BigEndian.Uint64(body[8:]))
	return timeout, cpu, body[callHeader:], nil
}
