package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"grout/cmd/grout/app"
	"grout/store"
)

func TestPrintVerifications(t *testing.T) {
	list := []app.Verification{
		{
			Partition: 0, Verdict: app.VerdictEqual, Snapshot: "s.db", From: 40, To: 1163, Messages: 1123, Compared: "newest.db", SHA256: "abc",
			Comparison: store.Comparison{Rows: 5000, Buckets: []store.BucketComparison{
				{Bucket: "hours", Rows: 5000, Store: store.BucketDigest{Rows: 5000, Digest: "00ff"}, Replica: store.BucketDigest{Rows: 5000, Digest: "00ff"}},
			}},
		},
		{
			Partition: 1, Verdict: app.VerdictDiffers, To: 9, Messages: 9, Compared: "p1.db", Notes: []string{"a note"},
			Comparison: store.Comparison{
				Rows: 20, Differing: 3, Diverges: &store.Divergence{Position: 1<<40 | 7, Epoch: 2, Sequence: 7, StoredAt: time.Unix(0, 0).UTC()},
				Differences: []store.Difference{{Bucket: "positions", Name: "message 7 of epoch 2", Key: "0a", What: "different"}},
			},
		},
		{Partition: 2, Verdict: app.VerdictDamaged, Damage: &store.Checkup{Path: "p2.db", Damaged: 2, Damage: []store.Damage{{Bucket: "ids", Key: "00", What: "the row's seal is broken"}}}},
		{Partition: 3, Verdict: app.VerdictUnverified, Reason: "no stream"},
	}
	var b strings.Builder
	if err := printVerifications(&b, list); err != nil {
		t.Fatal(err)
	}
	want := `partition 0: replayed 1,123 groups from the snapshot at 40 to 1163, compared 5,000 rows with the running store (snapshot newest.db, SHA-256 abc): nothing differs
  BUCKET  ROWS  DIFFERING  DIGEST OF THE STORE  OF THE REPLAY
  hours   5000  0          00ff                 00ff
partition 1: replayed 9 groups from an empty store to 9, compared 20 rows: 3 DIFFER
  note: a note
  the state diverges from message 7 of epoch 2, stored 1970-01-01T00:00:00Z, on
  different: message 7 of epoch 2 (positions 0a)
  and 2 more rows
partition 2: DAMAGED: 2 places of p2.db are not what was written
  bucket ids, key 00, the row's seal is broken
  and 1 more
partition 3: COULD NOT BE VERIFIED: no stream
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	for n, want := range []int{0, exitFailure, exitFailure, exitUnverified} {
		var coded exitError
		if err := judgeVerifications(list[n : n+1]); errors.As(err, &coded) != (want != 0) || coded.code != want {
			t.Errorf("partition %d: %v, want code %d", n, err, want)
		}
	}
	var coded exitError
	if err := judgeVerifications(list); !errors.As(err, &coded) || coded.code != exitFailure {
		t.Errorf("all of them: %v", err)
	}
}
