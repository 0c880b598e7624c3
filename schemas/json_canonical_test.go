package schemas

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

func TestCanonicalJSON(t *testing.T) {
	const room = 1 << 20
	for _, c := range [][2]string{
		{" { } ", "{}"},
		{`[ 1 , "a" , [ ] , null , true , false ]`, `[1,"a",[],null,true,false]`},
		{`{"b":1,"a":{"d":2.0,"c":[{"y":1,"x":2}]},"":3}`, `{"":3,"a":{"c":[{"x":2,"y":1}],"d":2},"b":1}`},
		{`{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}`, "{\"\\r\":2,\"1\":4,\"\u0080\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\ufb33\":3}"},
		{`"\u0000\u0008\u0009\u000a\u000b\u000c\u000d\u001F\u007f\u0022\u005c\/\u2028"`, "\"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f\x7f\\\"\\\\/\u2028\""},
		{`{"ab":1,"a":2,"a\u0000":3}`, `{"a":2,"a\u0000":3,"ab":1}`},
		{"{\"\U00010001\":1,\"\U00010000\":2,\"\ue000\":3,\"\ud7ff\":4,\"a\U00010000\":5,\"a\uffff\":6}", "{\"a\U00010000\":5,\"a\uffff\":6,\"\ud7ff\":4,\"\U00010000\":2,\"\U00010001\":1,\"\ue000\":3}"},
	} {
		got, ok := canonicalJSON(c[0], room)
		if !ok || string(got) != c[1] {
			t.Errorf("%s:\n got %s\nwant %s", c[0], got, c[1])
		}
		again, ok := canonicalJSON(string(got), len(got))
		if !ok || string(again) != string(got) {
			t.Errorf("%s: not a fixed point: %s", got, again)
		}
		if _, ok := canonicalJSON(c[0], len(got)-1); ok {
			t.Errorf("%s: taken although longer than %d", got, len(got)-1)
		}
		rfc := jsontext.Value(c[0])
		if err := rfc.Canonicalize(); err != nil || string(rfc) != c[1] {
			t.Errorf("RFC 8785: %s %v", rfc, err)
		}
	}
}
