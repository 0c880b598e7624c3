package schemas

import "bytes"

// ParseEntitlementCheck reads the body of POST /api/entitlements/check
// (contract §5.3). Without app_id it is empty. Errors are those of ParseManifest.
func ParseEntitlementCheck(body []byte) (appID string, c EntitlementCheck, err *Error) {
	v, err := readJSONValue(bytes.Clone(body))
	if err != nil {
		return "", c, err
	}
	c.Needed = 1
	r := fieldReader{}
	known := r.owner(&appID, &c.UserID, &c.TenantID)
	known["plugin"] = r.nameOf(&c.Plugin)
	known["action"] = r.nameOf(&c.Action)
	known["feature"] = r.nameOf(&c.Feature)
	known["limit"] = r.nameOf(&c.Limit)
	known["model"] = r.nameOf(&c.Model)
	known["needed"] = r.numberOf(&c.Needed, 0)
	for name, read := range r.tokensOf(&c.Tokens) {
		known[name] = func(at *fieldPath, v jsonValue) {
			c.Asked = true
			read(at, v)
		}
	}
	known["count"] = func(at *fieldPath, v jsonValue) { r.flag(at, v, &c.Count) }
	r.fields(nil, v, known)
	if err := r.err(); err != nil {
		return "", EntitlementCheck{}, err
	}
	return appID, c, nil
}

// ParseBudgetReserve reads the body of POST /api/budgets/reservations. An id that it
// does not name is empty.
func ParseBudgetReserve(body []byte) (appID string, b BudgetReserve, err *Error) {
	v, err := readJSONValue(bytes.Clone(body))
	if err != nil {
		return "", b, err
	}
	b.TTL = DefaultHoldSeconds
	r := fieldReader{}
	known := r.owner(&appID, &b.UserID, &b.TenantID)
	known["model"] = r.nameOf(&b.Model)
	known["reservation_id"] = func(at *fieldPath, v jsonValue) { r.text(at, v, &b.ReservationID, 1, MaxIDChars) }
	known["ttl_seconds"] = func(at *fieldPath, v jsonValue) { r.number(at, v, &b.TTL, 1, MaxHoldSeconds) }
	for name, read := range r.tokensOf(&b.Tokens) {
		known[name] = read
	}
	estimated, read := false, known["estimated_tokens"]
	known["estimated_tokens"] = func(at *fieldPath, v jsonValue) {
		estimated = true
		read(at, v)
	}
	if r.fields(nil, v, known) && !estimated {
		r.missing((*fieldPath)(nil).under("estimated_tokens"))
	}
	if err := r.err(); err != nil {
		return "", BudgetReserve{}, err
	}
	return appID, b, nil
}

// ParseBudgetExtend reads the body of …/extend.
func ParseBudgetExtend(body []byte) (appID string, b BudgetExtend, err *Error) {
	return parseBudgetExtend(body, false)
}

// parseBudgetExtend reads the body; named says that it names the reservation, which HTTP
// has in its path.
func parseBudgetExtend(body []byte, named bool) (appID string, b BudgetExtend, err *Error) {
	v, err := readJSONValue(bytes.Clone(body))
	if err != nil {
		return "", b, err
	}
	r := fieldReader{}
	given := false
	known := readers{
		"app_id": func(at *fieldPath, v jsonValue) { r.text(at, v, &appID, 1, MaxIDChars) },
		"ttl_seconds": func(at *fieldPath, v jsonValue) {
			given = true
			r.number(at, v, &b.TTL, 1, MaxHoldSeconds)
		},
	}
	if named {
		r.target(known, v, &b.ReservationID)
	}
	if r.fields(nil, v, known) && !given {
		r.missing((*fieldPath)(nil).under("ttl_seconds"))
	}
	if err := r.err(); err != nil {
		return "", BudgetExtend{}, err
	}
	return appID, b, nil
}

// parseBudgetRelease reads a body that names the reservation.
func parseBudgetRelease(body []byte) (appID string, b BudgetRelease, err *Error) {
	v, err := readJSONValue(bytes.Clone(body))
	if err != nil {
		return "", b, err
	}
	r := fieldReader{}
	known := readers{"app_id": func(at *fieldPath, v jsonValue) { r.text(at, v, &appID, 1, MaxIDChars) }}
	r.target(known, v, &b.ReservationID)
	r.fields(nil, v, known)
	return appID, b, r.err()
}

// target reads the reservation that a body must name.
func (r *fieldReader) target(known readers, v jsonValue, dst *string) {
	given := false
	if v.is() == '{' {
		v.each(func(name string, value jsonValue) { given = given || name == "reservation_id" && !value.null() })
		if !given {
			r.missing((*fieldPath)(nil).under("reservation_id"))
		}
	}
	known["reservation_id"] = func(at *fieldPath, v jsonValue) { r.text(at, v, dst, 1, MaxIDChars) }
}

// owner reads whom a request is about.
func (r *fieldReader) owner(app, user, tenant *string) readers {
	return readers{
		"app_id":    func(at *fieldPath, v jsonValue) { r.text(at, v, app, 1, MaxIDChars) },
		"user_id":   func(at *fieldPath, v jsonValue) { r.text(at, v, user, 1, MaxIDChars) },
		"tenant_id": func(at *fieldPath, v jsonValue) { r.text(at, v, tenant, 1, MaxIDChars) },
	}
}

func (r *fieldReader) nameOf(dst *string) func(*fieldPath, jsonValue) {
	return func(at *fieldPath, v jsonValue) { r.text(at, v, dst, 1, MaxNameChars) }
}

func (r *fieldReader) numberOf(dst *int64, least int64) func(*fieldPath, jsonValue) {
	return func(at *fieldPath, v jsonValue) { r.number(at, v, dst, least, MaxLimit) }
}

// tokensOf reads estimates.
func (r *fieldReader) tokensOf(t *Tokens) readers {
	return readers{
		"estimated_tokens":        r.numberOf(&t.Total, 0),
		"estimated_input_tokens":  r.numberOf(&t.Input, 0),
		"estimated_output_tokens": r.numberOf(&t.Output, 0),
	}
}

// ParseBudgetSettle reads the body of …/settle: an event of contract §7 of which
// event_id, input_tokens and output_tokens are required. Texts of the result may be
// parts of body. Faults name the field, with the code VALIDATION_ERROR,
// TOTAL_BELOW_SUM for that one.
func ParseBudgetSettle(body []byte) (appID string, b BudgetSettle, err *Error) {
	return newAdjustmentParser(body).settlementOf()
}

func (p *adjustmentParser) settlementOf() (appID string, b BudgetSettle, err *Error) {
	if err := p.parse(p.settled); err != nil {
		return "", b, err
	}
	e := &p.event
	if missing := requiredToSettle &^ p.given; missing != 0 {
		err := &Error{Code: CodeValidation, Detail: "required and missing: " + missing.names()}
		for i, name := range requiredNames {
			if missing&(1<<i) != 0 {
				err.Fields = append(err.Fields, FieldError{Loc: []any{"body", name}, Msg: name + " is required and missing", Type: "missing"})
			}
		}
		return "", b, err
	}
	if sum := e.InputTokens + e.OutputTokens; p.given&fieldTotalTokens == 0 {
		e.TotalTokens = sum
	} else if e.TotalTokens < sum {
		err := Errorf(CodeTotalBelowSum, "total_tokens is %d, below input_tokens + output_tokens = %d", e.TotalTokens, sum)
		err.Fields = []FieldError{{Loc: []any{"body", "total_tokens"}, Msg: err.Detail, Type: "total_below_sum"}}
		return "", b, err
	}
	appID = e.AppID
	b = BudgetSettle{ReservationID: p.target, Event: *e, Timed: p.given&fieldTimestamp != 0}
	b.Event.AppID = ""
	return appID, b, nil
}

const requiredToSettle = fieldEventID | fieldInputTokens | fieldOutputTokens

// settled reads a field of a settlement: those of an event, except that what the hold
// and the command know may be null.
func (p *adjustmentParser) settled(name string) (known, ok bool) {
	if f := fromElsewhere[name]; f != 0 && p.peek() == 'n' {
		p.again(f)
		return true, p.word("null")
	}
	if p.named && name == "reservation_id" {
		return true, p.id(fieldTarget, &p.target, MaxIDChars)
	}
	if _, event := eventFieldNames[name]; !event {
		return false, false
	}
	return true, p.eventMember(&p.event, name)
}

// fromElsewhere are required fields of an event that a settlement may leave out.
var fromElsewhere = map[string]usageFields{
	"timestamp": fieldTimestamp, "app_id": fieldAppID, "user_id": fieldUserID, "model": fieldModel,
}

var eventFieldNames = map[string]struct{}{
	"event_id": {}, "timestamp": {}, "app_id": {}, "user_id": {}, "model": {}, "input_tokens": {}, "output_tokens": {},
	"workflow_id": {}, "total_tokens": {}, "tenant_id": {}, "chat_id": {}, "run_id": {}, "agent_name": {}, "invocation_id": {},
	"cached": {}, "cached_tokens": {}, "reasoning_tokens": {}, "cost": {}, "duration_sec": {}, "metadata": {},
}
