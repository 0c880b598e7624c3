package entitlements

import (
	"crypto/sha256"

	"grout/schemas"
)

// Stored is the newest manifest of a scope.
type Stored struct {
	Revision int64
	Digest   [sha256.Size]byte // schemas.Manifest.Digest
}

// DecideSync judges a manifest against the one its scope has, nil for none
// (contract §5.2.2). Again: it is the same one, and nothing changes.
func DecideSync(have *Stored, m *schemas.Manifest) (revision int64, again bool, err *schemas.Error) {
	switch {
	case have != nil && have.Digest == m.Digest && (m.Revision == nil || *m.Revision == have.Revision):
		return have.Revision, true, nil
	case have == nil && m.Revision == nil:
		return 1, false, nil
	case have == nil:
		return *m.Revision, false, nil
	case m.Revision == nil:
		return have.Revision + 1, false, nil
	case *m.Revision <= have.Revision:
		return have.Revision, false, schemas.Errorf(schemas.CodeStaleRevision,
			"revision %d is not higher than the stored revision %d", *m.Revision, have.Revision)
	}
	return *m.Revision, false, nil
}
