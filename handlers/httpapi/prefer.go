package httpapi

import "strings"

// prefersAsync tells whether the Prefer headers of a request hold respond-async
// (RFC 7240). Quoted values and parameters of other preferences do not count.
func prefersAsync(headers []string) bool {
	for _, h := range headers {
		for h != "" {
			var preference string
			preference, h = cutUnquoted(h, ',')
			token, _ := cutUnquoted(preference, ';')
			name, value, _ := strings.Cut(token, "=")
			value = strings.TrimSpace(value)
			if strings.EqualFold(strings.TrimSpace(name), "respond-async") && (value == "" || value == `""`) {
				return true
			}
		}
	}
	return false
}

// cutUnquoted splits at the first sep outside of a quoted string.
func cutUnquoted(s string, sep byte) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}
