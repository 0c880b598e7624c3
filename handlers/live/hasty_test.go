package live

import "testing"

// A client may resume before anything was looked for to send it.
func TestWhoResumesAtOnce(t *testing.T) {
	s := &script{}
	transports := newTransports(s.open, TransportOptions{})
	one := newSocket(transports, Socket{App: "a", Chat: "c", User: "u"}, nil, nil, nil)
	fault, err := one.heed(t.Context(), []byte(`{"type":"client.resume","last_sequence":0}`))
	if fault != nil || err != nil {
		t.Fatalf("%v, %v", fault, err)
	}
	if one.cursor = s.reader(t, 0); !one.swapped() {
		t.Error("the reader is not taken over")
	}
}
