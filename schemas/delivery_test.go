package schemas

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

func goldenStand() DeliveryStand {
	return DeliveryStand{
		Name: "webhook.crm", Source: DeliverFacts, Seq: 70_000, Index: 3, Stream: 1_774_000_000_123_456_789, Delivered: 900, Refused: 2,
		Stopped: "410 Gone", StoppedAt: 7, Gaps: 1, Gap: DeliveryGap{From: 10, To: 20, At: -5, Until: 7}, MarkedAt: 9,
	}
}

func TestMarksThatAreNone(t *testing.T) {
	fine := DeliveryMark{DeliverySet, goldenStand()}
	if err := fine.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*DeliveryMark){
		"no op":         func(m *DeliveryMark) { m.Op = 0 },
		"another op":    func(m *DeliveryMark) { m.Op = DeliveryRemove + 1 },
		"no name":       func(m *DeliveryMark) { m.Stand.Name = "" },
		"a long name":   func(m *DeliveryMark) { m.Stand.Name = strings.Repeat("a", MaxConfigName+1) },
		"an odd name":   func(m *DeliveryMark) { m.Stand.Name = "Web hook" },
		"no source":     func(m *DeliveryMark) { m.Stand.Source = 0 },
		"a long reason": func(m *DeliveryMark) { m.Stand.Stopped = strings.Repeat("x", MaxDeliveryReason+1) },
	} {
		m := fine
		spoil(&m)
		if m.Validate() == nil || new(DeliveryMark).DecodePayload(m.EncodePayload(nil)) == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func FuzzDecodeDelivery(f *testing.F) {
	stand := goldenStand()
	for _, whole := range [][]byte{stand.AppendStand(nil), (&DeliveryMark{DeliveryBegin, stand}).EncodePayload(nil)} {
		for _, b := range hostileSeeds(whole) {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var d, again DeliveryStand
		if d.DecodeStand(data) == nil && (again.DecodeStand(d.AppendStand(nil)) != nil || again != d) {
			t.Fatalf("%+v, again %+v", d, again)
		}
		var m, mark DeliveryMark
		if m.DecodePayload(data) == nil && (mark.DecodePayload(m.EncodePayload(nil)) != nil || mark != m) {
			t.Fatalf("%+v, again %+v", m, mark)
		}
	})
}

func FuzzParseFlagContext(f *testing.F) {
	for _, text := range []string{
		`{"context":{"targetingKey":"ann","app_id":"a","tenant_id":"t","x":[{}]}}`, `{"context":{"targetingKey":null}}`, `{}`, `[]`, `{"context":[`, "{\"context\":{\"app_id\":\"\xff\"}}",
		`{"context":{"targetingKey":"\ud83d\ude00"},"context":{}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		was := bytes.Clone(body)
		c, fault, detail := ParseFlagContext(body)
		if !bytes.Equal(was, body) || (fault == "") != (detail == "") {
			t.Fatalf("%q: %q %q", was, fault, detail)
		}
		for _, text := range []string{c.AppID, c.TenantID, c.UserID} {
			if fault == "" && (!utf8.ValidString(text) || utf8.RuneCountInString(text) > MaxIDChars) {
				t.Fatalf("%q names %q", was, text)
			}
		}
	})
}
