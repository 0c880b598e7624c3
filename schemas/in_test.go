package schemas

import "testing"

func TestInSubjects(t *testing.T) {
	for subject, want := range map[string]InSubject{
		"mozaiks.v1.in.platform.0.app.usage.ingest": {"platform", 0, "app", "usage.ingest"},
		"mozaiks.v1.in.meter.63.my%2Eapp.x":         {"meter", 63, "my%2Eapp", "x"},
		"mozaiks.v1.in.a.7.%.a.b.c.d":               {"a", 7, "%", "a.b.c.d"},
	} {
		if got, err := ParseInSubject(subject); err != nil || got != want {
			t.Errorf("%s: %+v, %v", subject, got, err)
		}
	}
	for _, subject := range []string{
		"", "mozaiks.v1.in", "mozaiks.v1.in.platform.0.app", "mozaiks.v1.in.platform.0.app.", "mozaiks.v1.in.platform.x.app.usage.ingest",
		"mozaiks.v1.in.platform.-1.app.usage.ingest", "mozaiks.v1.in..0.app.usage.ingest", "mozaiks.v1.in.platform.0..usage.ingest",
		"mozaiks.v1.from.platform.app.*", "mozaiks.v1.from.platform.0.app.usage.ingest", "mozaiks.v1.cmd.platform.0.app.usage.ingest",
	} {
		if got, err := ParseInSubject(subject); err == nil {
			t.Errorf("%s: %+v", subject, got)
		}
	}
	if got := CommandSubject("my.app", "usage.ingest"); got != "mozaiks.v1.cmd.my%2Eapp.usage.ingest" {
		t.Error(got)
	}
	if from, to := InTransform(4); from != "mozaiks.v1.from.*.*.>" || to != "mozaiks.v1.in.{{wildcard(1)}}.{{partition(4,2)}}.{{wildcard(2)}}.>" {
		t.Error(from, to)
	}
}
