package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"grout/schemas"
)

// judgeManifest gives the content of a manifest that is to lie below all that are
// synced: of this app, and of the app as a whole.
func judgeManifest(text []byte, appID string) ([]byte, error) {
	m, err := schemas.ParseManifest(text)
	switch {
	case err != nil:
		return nil, err
	case m.AppID != appID:
		return nil, fmt.Errorf("app_id is %q, and this instance belongs to %q", m.AppID, appID)
	case m.UserID != "" || m.TenantID != "":
		return nil, errors.New("it is of one user or tenant; a manifest below the synced ones is of the app")
	}
	return m.Content, nil
}

// neverSynced reports whether a text is what contract §5.1 answers for an app that was
// never synced, which is no manifest.
func neverSynced(text []byte) bool {
	var fields map[string]json.RawMessage
	if json.Unmarshal(text, &fields) != nil {
		return false
	}
	_, version := fields["version"]
	return !version && string(fields["synced_at"]) == "null"
}

// judgeCatalogue gives the content of a catalogue of plans.
func judgeCatalogue(text []byte) ([]byte, error) {
	c, fault := schemas.ParseCatalogue(text)
	switch {
	case fault != nil:
		return nil, fault
	case c == nil:
		return nil, errors.New("it says nothing")
	}
	var content bytes.Buffer
	err := json.Compact(&content, text)
	return content.Bytes(), err
}

// judgePlugin gives the JSON of the rules of a plugin.
func judgePlugin(name string, text []byte) ([]byte, error) {
	content, err := yamlToJSON(text)
	if err != nil {
		return nil, err
	}
	if _, fault := schemas.ParsePluginEntitlements(name, content); fault != nil {
		return nil, fault
	}
	return content, nil
}
