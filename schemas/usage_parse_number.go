package schemas

import "strconv"

// maxCount is the greatest count of what is being read.
func (p *usageParser) maxCount() int64 {
	if p.summed {
		return MaxSummaryCount
	}
	return MaxTokenCount
}

// count reads a whole number from 0 to maxCount, written with digits only.
func (p *usageParser) count(f usageFields, dst *int64) bool {
	c := p.peek()
	if p.again(f) || c != '-' && c-'0' > 9 {
		return p.other(f, "a whole number")
	}
	text, whole, ok := p.number()
	if !ok {
		return false
	}
	if !whole || text == "-0" {
		p.refuse(CodeInvalidNumber, "%s must be written with digits only, without sign, fraction or exponent, not %v", p.at, shown(text))
		return true
	}
	n, ok := smallCount(text, p.maxCount())
	if !ok {
		p.refuse(CodeOutOfRange, "%s must be 0 to %d, not %v", p.at, p.maxCount(), shown(text))
		return true
	}
	*dst = n
	p.given |= f
	return true
}

// smallCount reads the digits of a JSON number up to most, of at most 13 digits.
func smallCount(text string, most int64) (n int64, ok bool) {
	if len(text) > len("1000000000000") || text[0] == '-' {
		return 0, false
	}
	for i := range len(text) {
		n = n*10 + int64(text[i]-'0')
	}
	return n, n <= most
}

// cost reads a decimal, as a number or as a text that holds one.
func (p *usageParser) cost(e *UsageEvent) bool {
	c := p.peek()
	if p.again(fieldCost) || c != '"' && c != '-' && c-'0' > 9 {
		return p.other(fieldCost, "a number or a string that holds one")
	}
	text, good, ok := p.numberOrText(c)
	if !good {
		return ok
	}
	if n, _, number := scanNumber(text); !number || n != len(text) {
		p.refuse(CodeInvalidNumber, "cost must hold a number as JSON writes it, not %v", shown(text))
		return true
	}
	nanos, code := parseCost(text)
	switch code {
	case "":
		e.Cost = nanos
		p.given |= fieldCost
	case CodeOutOfRange:
		p.refuse(code, "cost must be 0 to %d, not %v", MaxCostNanos/NanosPerUnit, shown(text))
	default:
		p.refuse(code, "cost must have at most 9 decimal places, not %v", shown(text))
	}
	return true
}

// numberOrText reads a number, or a string which is to hold one.
func (p *usageParser) numberOrText(c byte) (text string, good, ok bool) {
	if c != '"' {
		text, _, ok = p.number()
		return text, ok, ok
	}
	t, good, ok := p.plainText()
	if good {
		text = t.decoded()
	}
	return text, good, ok
}

// duration reads seconds, rounded to the nearest float64.
func (p *usageParser) duration(e *UsageEvent) bool {
	c := p.peek()
	if p.again(fieldDuration) || c != '-' && c-'0' > 9 {
		return p.other(fieldDuration, "a number of seconds")
	}
	text, _, ok := p.number()
	if !ok {
		return false
	}
	d := parseDecimal(text)
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || seconds > MaxDurationSeconds || d.negative && d.len() > 0 {
		p.refuse(CodeOutOfRange, "duration_sec must be 0 to %d seconds, not %v", MaxDurationSeconds, shown(text))
		return true
	}
	if seconds > 0 { // -0 is stored as 0
		e.DurationSec = seconds
	}
	p.given |= fieldDuration
	return true
}
