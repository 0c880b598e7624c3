package schemas

import "strings"

// TraceParent gives the traceparent a caller sent in the form of version 00 (W3C
// Trace Context), or nothing when it is not valid.
func TraceParent(v string) string {
	const size = len("00-00112233445566778899aabbccddeeff-0011223344556677-01")
	if len(v) < size || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return ""
	}
	version, trace, span, flags := v[:2], v[3:35], v[36:52], v[53:size]
	if !hexText(version) || !hexText(trace) || !hexText(span) || !hexText(flags) || version == "ff" {
		return ""
	}
	if strings.Trim(trace, "0") == "" || strings.Trim(span, "0") == "" {
		return ""
	}
	if len(v) > size && (version == "00" || v[size] != '-') {
		return ""
	}
	return "00" + v[2:size]
}

func hexText(s string) bool {
	for i := range len(s) {
		if (s[i] < '0' || s[i] > '9') && (s[i] < 'a' || s[i] > 'f') {
			return false
		}
	}
	return true
}
