package plugins

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"grout/schemas"
)

// heard takes a line of the plugin. One that is not a publication ends the call.
func (s *supervisor) heard(l pluginLine) (workerEnd, bool) {
	switch {
	case errors.Is(l.err, errLineTooLong):
		return workerEnd{Text: fmt.Sprintf("it wrote an answer of more than %d bytes", s.spec.MaxLine-lineRoom)}, true
	case l.err != nil:
		return s.closed()
	}
	if isPublication(l.text) {
		if end, ended := s.published(l.text); ended {
			return end, true
		}
		return s.rested()
	}
	if !s.calling {
		return workerEnd{Text: "it answered when nothing was asked"}, true
	}
	s.calling = false
	s.sampler.end()
	s.large = s.large || len(l.text) > largeLine
	if s.tell(frameAnswer, l.text) != nil {
		return workerEnd{Text: "grout has gone"}, true
	}
	if !s.rest() {
		return workerEnd{Text: "what a call had left running could not be ended"}, true
	}
	s.resting = true
	return s.rested()
}

// rested tells grout that nothing is left of a call, once that is so of what was written,
// too: a line that waits would be taken for the answer of the next call.
func (s *supervisor) rested() (workerEnd, bool) {
	if !s.resting || s.said.more() {
		return workerEnd{}, false
	}
	s.resting = false
	if s.tell(frameIdle) != nil {
		return workerEnd{Text: "grout has gone"}, true
	}
	return workerEnd{}, false
}

// published hands on what the plugin publishes while a call runs.
func (s *supervisor) published(line []byte) (workerEnd, bool) {
	if s.calling && s.began {
		if s.told++; s.told > maxPublished {
			return workerEnd{Text: fmt.Sprintf("it published more than %d times", maxPublished)}, true
		}
		if len(line) > schemas.MaxPublishedBytes+publicationRoom {
			return s.refuseLarge(line)
		}
		return workerEnd{Text: "grout has gone"}, s.tell(framePlugin, line) != nil
	}
	if s.stray++; s.stray > maxStray {
		return workerEnd{Text: fmt.Sprintf("it published more than %d times while no call ran", maxStray)}, true
	}
	s.note("it published something while no call ran, which is dropped")
	return s.refuse(line, "no call runs")
}

// refuseLarge refuses what grout would only read to refuse it.
func (s *supervisor) refuseLarge(line []byte) (workerEnd, bool) {
	if s.tooLarge++; s.tooLarge > maxTooLarge {
		return workerEnd{Text: fmt.Sprintf("it published more than is taken at once %d times", s.tooLarge)}, true
	}
	text := fmt.Sprintf("data must have at most %d bytes", schemas.MaxPublishedBytes)
	s.note("not published: %s", text)
	return s.refuse(line, text)
}

// refuse answers a publication, when that was asked for.
func (s *supervisor) refuse(line []byte, why string) (workerEnd, bool) {
	if _, _, ack, _ := readPublication(line); !ack {
		return workerEnd{}, false
	}
	text, _ := json.Marshal(why)
	return s.pass(fmt.Appendf(nil, `{"published":false,"error":%s}`+"\n", text))
}

// pass gives the plugin a line.
func (s *supervisor) pass(line []byte) (workerEnd, bool) {
	select {
	case s.feed <- line:
		return workerEnd{}, false
	default:
		return workerEnd{Text: "it does not read what it is told"}, true
	}
}

// closed waits a moment for the end of the worker, which tells more than that it has
// closed its answers.
func (s *supervisor) closed() (workerEnd, bool) {
	moment := time.NewTimer(lastMoment)
	defer moment.Stop()
	select {
	case status := <-s.tree.died:
		return workerEnd{Text: s.death(status)}, true
	case <-moment.C:
		return workerEnd{Text: "it closed its answers"}, true
	}
}

// after takes what the worker had written before it ended.
func (s *supervisor) after(status unix.WaitStatus) workerEnd {
	moment := time.NewTimer(lastMoment)
	defer moment.Stop()
	for {
		select {
		case l := <-s.lines:
			if l.err != nil {
				return workerEnd{Text: s.death(status)}
			}
			if end, ended := s.heard(l); ended {
				return end
			}
			s.again <- struct{}{}
		case <-moment.C:
			return workerEnd{Text: s.death(status)}
		}
	}
}

func (s *supervisor) death(status unix.WaitStatus) string {
	text := fmt.Sprintf("its process ended with exit status %d", status.ExitStatus())
	if status.Signaled() {
		text = fmt.Sprintf("its process was ended by signal %d (%s)", int(status.Signal()), status.Signal())
	}
	if s.calling {
		text += " before it had answered"
	}
	return text
}

// rest ends what the call has left running. What was there when the worker said that it is
// ready stays. False: it could not be ended.
func (s *supervisor) rest() bool {
	s.sampler.relax()
	if !s.began {
		prefer(0)
		s.began, s.keep = true, map[procID]bool{}
		for _, p := range s.tree.walk(maxProcesses) {
			s.keep[p.id()] = true
		}
		return true
	}
	if len(s.keep) == 1 && s.tree.alone() {
		s.forget()
		return true
	}
	ended, quiet := map[procID]bool{}, false
	limit := time.Now().Add(restWithin)
	for time.Now().Before(limit) {
		if s.tree.kill(func(p *proc) bool {
			if p.pid == s.tree.leader || s.keep[p.id()] {
				return true
			}
			ended[p.id()] = true
			return false
		}) == 0 && s.tree.none(func(pid int) bool {
			if pid == s.tree.leader {
				return true
			}
			p, ok := readProc(pid)
			return ok && s.keep[p.id()]
		}) {
			quiet = true
			break
		}
		pause := time.NewTimer(200 * time.Microsecond)
		<-pause.C
	}
	if len(ended) > 0 {
		s.note("ended %d processes that a call had left running", len(ended))
	}
	s.forget()
	return quiet
}

// forget gives back the memory of a long line.
func (s *supervisor) forget() {
	if s.large {
		debug.FreeOSMemory()
	}
}
