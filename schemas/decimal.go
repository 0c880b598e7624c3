package schemas

import "strconv"

// scanNumber returns the length of the JSON number that text begins with, or
// how far it could be read. What follows the number is the caller's to judge.
func scanNumber(text string) (n int, whole, ok bool) {
	i := 0
	if i < len(text) && text[i] == '-' {
		i++
	}
	if i < len(text) && text[i] == '0' {
		i++
		if i < len(text) && text[i]-'0' <= 9 {
			return i, false, false
		}
	} else if i, ok = scanDigits(text, i); !ok {
		return i, false, false
	}
	whole = true
	if i < len(text) && text[i] == '.' {
		whole = false
		if i, ok = scanDigits(text, i+1); !ok {
			return i, false, false
		}
	}
	if i < len(text) && text[i]|0x20 == 'e' {
		whole = false
		i++
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		if i, ok = scanDigits(text, i); !ok {
			return i, false, false
		}
	}
	return i, whole, true
}

func scanDigits(text string, i int) (end int, ok bool) {
	from := i
	for i < len(text) && text[i]-'0' <= 9 {
		i++
	}
	return i, i > from
}

// hugeExponent is where exponents stop being counted: far beyond what the
// digits of any text that fits into memory could bring back.
const hugeExponent = 1 << 40

// decimal is a JSON number taken apart without rounding: 0.d₁d₂…dₙ × 10^point,
// where d is high followed by low, without leading or trailing zeros. Zero has
// no digits.
type decimal struct {
	negative  bool
	high, low string
	point     int64
}

// parseDecimal takes apart text, which must be a JSON number.
func parseDecimal(text string) decimal {
	var d decimal
	if text[0] == '-' {
		d.negative = true
		text = text[1:]
	}
	i, _ := scanDigits(text, 0)
	d.high, text = text[:i], text[i:]
	if text != "" && text[0] == '.' {
		i, _ = scanDigits(text, 1)
		d.low, text = text[1:i], text[i:]
	}
	exponent := int64(0)
	if text != "" {
		exponent = parseExponent(text[1:])
	}
	d.point = int64(len(d.high)) + exponent
	d.trim()
	return d
}

// parseExponent reads what follows the letter e.
func parseExponent(text string) int64 {
	negative := text[0] == '-'
	if negative || text[0] == '+' {
		text = text[1:]
	}
	n := int64(0)
	for i := 0; i < len(text) && n < hugeExponent; i++ {
		n = n*10 + int64(text[i]-'0')
	}
	n = min(n, hugeExponent)
	if negative {
		return -n
	}
	return n
}

// trim drops leading and trailing zeros, which leave the value as it is.
func (d *decimal) trim() {
	d.high, d.point = trimLeft(d.high, d.point)
	if d.high == "" {
		d.low, d.point = trimLeft(d.low, d.point)
	}
	d.low = trimRight(d.low)
	if d.low == "" {
		d.high = trimRight(d.high)
	}
}

func trimLeft(digits string, point int64) (string, int64) {
	for digits != "" && digits[0] == '0' {
		digits = digits[1:]
		point--
	}
	return digits, point
}

func trimRight(digits string) string {
	for digits != "" && digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
	}
	return digits
}

func (d *decimal) len() int64 { return int64(len(d.high) + len(d.low)) }

// parseCost reads a JSON number as nano-units, exactly: there is no rounding,
// so more than nine decimal places are refused. The code is empty when it fits.
func parseCost(text string) (nanos int64, code Code) {
	d := parseDecimal(text)
	switch {
	case d.len() == 0:
		return 0, ""
	case d.negative:
		return 0, CodeOutOfRange
	case d.len()-d.point > 9:
		return 0, CodeInvalidNumber
	case d.point > 10:
		return 0, CodeOutOfRange
	}
	n := uint64(0) // at most 10 digits before the point and 9 behind it
	for _, digits := range [2]string{d.high, d.low} {
		for _, c := range []byte(digits) {
			n = n*10 + uint64(c-'0')
		}
	}
	for range d.point + 9 - d.len() {
		n *= 10
	}
	if n > MaxCostNanos {
		return 0, CodeOutOfRange
	}
	return int64(n), ""
}

// appendCanonicalNumber appends a JSON number with the layout of RFC 8785, but
// with all of its digits instead of those a float64 would keep. Both are the
// same for what a float64 holds; 9007199254740993 stays what it is.
func appendCanonicalNumber(dst []byte, text string) []byte {
	d := parseDecimal(text)
	n, point := d.len(), d.point
	if n == 0 {
		return append(dst, '0')
	}
	if point > hugeExponent/2 || point < -hugeExponent/2 {
		return append(dst, text...)
	}
	if d.negative {
		dst = append(dst, '-')
	}
	switch {
	case n <= point && point <= 21:
		return appendZeros(d.appendDigits(dst, 0, n), point-n)
	case 0 < point && point <= 21:
		return d.appendDigits(append(d.appendDigits(dst, 0, point), '.'), point, n)
	case -6 < point && point <= 0:
		return d.appendDigits(appendZeros(append(dst, "0."...), -point), 0, n)
	}
	dst = d.appendDigits(dst, 0, 1)
	if n > 1 {
		dst = d.appendDigits(append(dst, '.'), 1, n)
	}
	dst = append(dst, 'e')
	if point > 0 {
		dst = append(dst, '+')
	}
	return strconv.AppendInt(dst, point-1, 10)
}

func (d *decimal) appendDigits(dst []byte, from, to int64) []byte {
	high := int64(len(d.high))
	dst = append(dst, d.high[min(from, high):min(to, high)]...)
	return append(dst, d.low[max(from-high, 0):max(to-high, 0)]...)
}

func appendZeros(dst []byte, n int64) []byte {
	for range n {
		dst = append(dst, '0')
	}
	return dst
}
