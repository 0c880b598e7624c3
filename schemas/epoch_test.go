package schemas

import (
	"testing"

	"pgregory.net/rapid"
)

func TestEpochBeginRoundTrip(t *testing.T) {
	goldenBytes(t, "epoch_start_payload_v1.golden", (&EpochBegin{
		N: 2, From: 71, After: AppliedMessage{Epoch: 1, Seq: 100, StoredAt: 1_700_000_000_123_456_789, Digest: [16]byte{1, 15: 255}},
	}).EncodePayload(nil))
	rapid.Check(t, func(t *rapid.T) {
		e := EpochBegin{
			N: rapid.Uint32().Draw(t, "n"), From: rapid.Uint64().Draw(t, "from"),
			After: AppliedMessage{
				Epoch: rapid.Uint32().Draw(t, "epoch"), Seq: rapid.Uint64().Draw(t, "seq"), StoredAt: rapid.Int64().Draw(t, "at"),
				Digest: [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "digest")),
			},
		}
		b := e.EncodePayload(nil)
		var got EpochBegin
		if err := got.DecodePayload(b); err != nil || got != e {
			t.Fatalf("%+v, %v; want %+v", got, err, e)
		}
		if got.DecodePayload(append(b, 0)) == nil || got.DecodePayload(b[:len(b)-1]) == nil {
			t.Fatal("another length was read")
		}
	})
}
