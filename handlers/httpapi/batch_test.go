package httpapi

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
)

func TestBatchByID(t *testing.T) {
	s := serve(t)
	var asked []string
	s.reads.byID = func(app, id string) (schemas.BatchStatus, bool, error) {
		asked = append(asked, app+" "+id)
		return schemas.BatchStatus{BatchID: id, Applied: true, Outcome: schemas.IngestOutcome{
			Accepted: 3, Duplicates: 2, Rejected: 1, Errors: []schemas.EventError{{Index: 4, EventID: "e", Code: "conflict", Detail: "d"}},
		}}, true, nil
	}
	const rest = `,"status":"applied","accepted":3,"duplicates":2,"rejected":1,"failed":1,"errors":[{"index":4,"event_id":"e","code":"conflict","detail":"d"}]}`
	s.do("GET", "/api/usage/batches/b-1", nil).is(200).body(`{"batch_id":"b-1"` + rest)
	s.do("GET", "/api/usage/batches/b-1?app_id=other", nil).is(200)
	s.do("GET", "/api/usage/batches/a%2Fb%20%252F", nil).is(200).body(`{"batch_id":"a/b %2F"` + rest)
	s.do("GET", "/api/usage/batches/100%25", nil).is(200).body(`{"batch_id":"100%"` + rest)
	s.do("GET", "/api/usage/batches/..", nil).is(200)
	s.do("HEAD", "/api/usage/batches/b-1", nil).is(200)
	want := []string{"app_1 b-1", "other b-1", "app_1 a/b %2F", "app_1 100%", "app_1 ..", "app_1 b-1"}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBatchNotFound(t *testing.T) {
	s := serve(t)
	s.reads.byID = func(string, string) (schemas.BatchStatus, bool, error) { return schemas.BatchStatus{}, false, nil }
	s.do("GET", "/api/usage/batches/b", nil).is(404, schemas.CodeNotFound).detail("Batch not found")
	s.reads.byRef = func([]schemas.CommandRef) (schemas.BatchStatus, bool, error) {
		return schemas.BatchStatus{BatchID: "another", Applied: true}, true, nil
	}
	s.do("GET", "/api/usage/batches/b?request=0.1.0", nil).is(404, schemas.CodeNotFound)
	s.do("GET", "/api/usage/batches/another?request=0.1.0", nil).is(200)
	s.reads.byRef = func([]schemas.CommandRef) (schemas.BatchStatus, bool, error) {
		return schemas.BatchStatus{Applied: true}, true, nil
	}
	s.do("GET", "/api/usage/batches/b?request=0.1.0", nil).is(404)
}

// TestBatchThatWaits: its command has not been read again, so its id is not known.
func TestBatchThatWaits(t *testing.T) {
	const waits = `{"batch_id":"b","status":"accepted","accepted":0,"duplicates":0,"rejected":0,"failed":0,"errors":[]}`
	s := serve(t)
	s.reads.byRef = func([]schemas.CommandRef) (schemas.BatchStatus, bool, error) { return schemas.BatchStatus{}, true, nil }
	s.do("GET", "/api/usage/batches/b?request=0.1.0", nil).is(200).
		body(waits)
	s.reads.byRef = func([]schemas.CommandRef) (schemas.BatchStatus, bool, error) { // one of several commands is applied
		return schemas.BatchStatus{BatchID: "b", Outcome: schemas.IngestOutcome{Accepted: 1}}, true, nil
	}
	s.do("GET", "/api/usage/batches/b?request=0.1.0", nil).is(200).body(waits)
}

func TestBatchByRef(t *testing.T) {
	s := serve(t, two)
	var got []schemas.CommandRef
	calls := 0
	s.reads.byRef = func(refs []schemas.CommandRef) (schemas.BatchStatus, bool, error) {
		calls++
		got = refs
		return schemas.BatchStatus{BatchID: "b"}, true, nil
	}
	s.do("GET", "/api/usage/batches/b?request=0.18446744073709551615.4294967295,1.1.0&app_id=a", nil).is(200)
	want := []schemas.CommandRef{{Partition: 0, Seq: 1<<64 - 1, Index: 1<<32 - 1}, {Partition: 1, Seq: 1}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	refs := make([]string, 65)
	for i := range refs {
		refs[i] = fmt.Sprintf("0.%d.0", i+1)
	}
	s.do("GET", "/api/usage/batches/b?request="+strings.Join(refs[:64], ","), nil).is(200)
	s.do("GET", "/api/usage/batches/b?request=2.1.0", nil).is(404) // no such partition
	calls = 0
	for _, bad := range []string{
		"", "1", "0.1", "0.1.0.0", "a.1.0", "0.-1.0", "0.1.+0", "0.0.0", "0.1.4294967296", "0.18446744073709551616.0",
		"99999999999.1.0", "0.1.0,", ",0.1.0", "0.1.0,0.1.0", "0.1.0%20", strings.Join(refs, ","),
	} {
		a := s.do("GET", "/api/usage/batches/b?request="+bad, nil).is(422, schemas.CodeValidation)
		loc := a.json()["errors"].([]any)[0].(map[string]any)["loc"]
		if fmt.Sprint(loc) != "[query request]" {
			t.Errorf("%q: loc %v", bad, loc)
		}
	}
	if calls != 0 {
		t.Error("a malformed reference was looked up")
	}
}

func TestBatchErrors(t *testing.T) {
	s := serve(t)
	s.do("GET", "/api/usage/batches/b?app=x", nil).is(422, schemas.CodeValidation)
	s.do("GET", "/api/usage/batches/b?app_id=", nil).is(422, schemas.CodeValidation)
	s.do("GET", "/api/usage/batches/b?app_id=a&app_id=b", nil).is(422, schemas.CodeValidation)
	s.reads.byID = func(string, string) (schemas.BatchStatus, bool, error) {
		return schemas.BatchStatus{}, false, errors.New("broken")
	}
	s.do("GET", "/api/usage/batches/b", nil).is(500, schemas.CodeInternal)
}
