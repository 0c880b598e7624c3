package handlers

import (
	"slices"

	"grout/schemas"
	"grout/store"
)

// RulesVersion is that of the rules in this release. It rises when a release decides
// something otherwise than the one before it: commands that were logged under an
// older version are replayed by that version's rules (architecture §2.4).
const RulesVersion = 1

// setConfig lets a name stand for other content from here on.
func (e *engine) setConfig(tx *store.Tx, c Command, change *schemas.ConfigChange) (Result, error) {
	if change.Name == schemas.ConfigRules {
		next, err := schemas.ParseRules(change.Content)
		if err != nil {
			return Result{}, err
		}
		have, err := RulesOf(tx.Config(schemas.ConfigRules))
		if err != nil {
			return Result{}, err
		}
		if next.Version < have {
			return refused(schemas.Errorf(schemas.CodeConfigKept, "the rules are at version %d, which %d does not follow", have, next.Version)), nil
		}
		if next.Version > RulesVersion {
			return Result{}, RulesNewer(next.Version)
		}
	}
	if change.Name == schemas.ConfigManifest {
		return done(), e.setBelow(tx, c, change)
	}
	_, err := tx.SetConfig(c.Index, change)
	if err != nil {
		return Result{}, err
	}
	return done(), nil
}

// setBelow puts another manifest below that of its app, whose budget may follow from it.
// Every partition is told of it; only that of the app has counters.
func (e *engine) setBelow(tx *store.Tx, c Command, change *schemas.ConfigChange) error {
	next, fault := schemas.ParseBelow(change.Content)
	if fault != nil {
		return fault
	}
	have, _, err := e.below(txState{tx}, store.Newest)
	if err != nil {
		return err
	}
	var apps []string
	for _, m := range [...]*schemas.Manifest{have, next.Manifest} {
		if m != nil && tx.Owns(m.AppID) && !slices.Contains(apps, m.AppID) {
			apps = append(apps, m.AppID)
		}
	}
	books := e.open(tx, c)
	whole := schemas.Scope{Kind: schemas.ScopeApp}
	for _, app := range apps {
		if _, err := books.budget(app, whole); err != nil { // what is carried over follows from the old one
			return err
		}
	}
	changed, err := tx.SetConfig(c.Index, change)
	if err != nil {
		return err
	}
	if !changed {
		return books.close()
	}
	for _, app := range apps {
		if err := books.reconcile(app, whole, true); err != nil {
			return err
		}
	}
	return books.close()
}

// RulesOf gives the version of the rules that a configuration names; 0 when there is
// none, as before the first release that had one.
func RulesOf(v *store.ConfigVersion) (int, error) {
	if v == nil {
		return 0, nil
	}
	r, err := schemas.ParseRules(v.Content)
	return r.Version, err
}

// RulesNewer ends a partition whose log or store follows rules that this release does
// not know.
func RulesNewer(version int) error {
	return schemas.Guardf("RULES_NEWER", "the log follows version %d of the rules and this release knows version %d: use the release that wrote it, or a newer one", version, RulesVersion)
}
