package schemas

import "bytes"

// ParsedReport is a body of POST /api/orchestration/events as read: every event is in
// Events or in Rejected.
type ParsedReport struct {
	Events   []RunEvent
	Rejected []EventError
	Single   bool // it was one event, and no list
}

// AppReport is the share of a report that is about the runs of one app.
type AppReport struct {
	AppID  string
	Report RunReport
}

// ByApp gives the commands of a report, by app in the order of their first events. An
// event that names no app is about a run of the given one.
func (p *ParsedReport) ByApp(app string) (list []AppReport) {
	places := map[string]int{}
	for _, e := range p.Events {
		if e.AppID == "" {
			e.AppID = app
		}
		at, ok := places[e.AppID]
		if !ok {
			at = len(list)
			places[e.AppID] = at
			list = append(list, AppReport{AppID: e.AppID})
		}
		list[at].Report.Events = append(list[at].Report.Events, e)
	}
	return list
}

// ParseRunReport reads a body of POST /api/orchestration/events (contract §6): one event, a
// list of them, or CloudEvents with one as data each. What is wrong with an element of a
// readable list is in Rejected; the error refuses the whole request, with the codes of
// ParseUsageBatch.
func ParseRunReport(body []byte) (report ParsedReport, err *Error) {
	body = bytes.Clone(body)
	p := runParser{usageParser{jsonScanner: jsonScanner{text: viewString(body), at: "body"}}}
	if p.peek() != '[' {
		return p.single()
	}
	more, ok := p.enter()
	if ok && !more {
		err := Errorf(CodeValidation, "the list must hold at least one event")
		err.Fields = []FieldError{{[]any{"body"}, err.Detail, "too_short"}}
		return report, err
	}
	for ok && more {
		if len(report.Events)+len(report.Rejected) == MaxRunEvents {
			return ParsedReport{}, tooManyEvents()
		}
		if ok = p.item(&report); ok {
			more, ok = p.next()
		}
	}
	if !ok || !p.end() {
		return ParsedReport{}, p.err
	}
	return report, nil
}

// runParser reads reports.
type runParser struct{ usageParser }

func (p *runParser) single() (report ParsedReport, err *Error) {
	v, err := readJSONValue([]byte(p.text))
	if err != nil {
		return report, err
	}
	r, e := runReader{}, RunEvent{}
	r.element(nil, v, &e)
	if err := r.err(); err != nil {
		return report, err
	}
	return ParsedReport{Events: []RunEvent{e}, Single: true}, nil
}

// item reads one element of a list.
func (p *runParser) item(report *ParsedReport) bool {
	p.peek()
	start := p.pos
	p.inItem, p.fault, p.at = true, jsonFault{}, "the event"
	ok := p.skip()
	p.inItem = false
	if !ok {
		return false
	}
	r := runReader{}
	e := RunEvent{Index: uint32(len(report.Events) + len(report.Rejected))}
	fault := p.fault
	switch p.fault = (jsonFault{}); fault.code {
	case "":
		r.element(nil, jsonValue{p.text[start:p.pos]}, &e)
		if len(r.faults) > 0 {
			fault = jsonFault{r.code(), r.faults[0].Msg}
		}
	case CodeRepeatedKey:
		e.identify(jsonValue{p.text[start:p.pos]})
	}
	if fault.code == "" {
		report.Events = append(report.Events, e)
		return true
	}
	report.Rejected = append(report.Rejected, EventError{e.Index, e.EventID, e.AppID, fault.code, fault.detail})
	return true
}

// identify reads what an event that is refused is known by, as far as it can be read.
func (e *RunEvent) identify(v jsonValue) {
	if v.is() != '{' {
		return
	}
	v.each(func(name string, value jsonValue) {
		if value.is() != '"' {
			return
		}
		t := value.string()
		for _, f := range [...]struct {
			name string
			dst  *string
		}{{"event_id", &e.EventID}, {"app_id", &e.AppID}} {
			if n := t.chars(); f.name == name && n >= 1 && n <= MaxIDChars {
				*f.dst = t.decoded()
			}
		}
	})
}
