package schemas

import (
	"encoding/hex"
	"unsafe"
)

// viewString looks at bytes as text without copying them; the bytes must not
// change while the text lives.
func viewString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// parseUUID reads the canonical lower-case form and nothing else, so that
// appendUUID gives back the very same text.
func parseUUID(dst *[16]byte, s string) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	n := 0
	for i := 0; i < 36; i += 2 {
		if s[i] == '-' {
			i++
		}
		hi, lo := lowerHex[s[i]], lowerHex[s[i+1]]
		if hi|lo > 15 {
			return false
		}
		dst[n] = hi<<4 | lo
		n++
	}
	return true
}

func appendUUID(dst, id []byte) []byte {
	dst = hex.AppendEncode(dst, id[0:4])
	dst = append(dst, '-')
	dst = hex.AppendEncode(dst, id[4:6])
	dst = append(dst, '-')
	dst = hex.AppendEncode(dst, id[6:8])
	dst = append(dst, '-')
	dst = hex.AppendEncode(dst, id[8:10])
	dst = append(dst, '-')
	return hex.AppendEncode(dst, id[10:16])
}

var lowerHex = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i, c := range "0123456789abcdef" {
		t[c] = byte(i)
	}
	return t
}()
