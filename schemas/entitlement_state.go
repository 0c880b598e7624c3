package schemas

import "bytes"

// Switches is the content of the configuration enforcement.
type Switches struct {
	Monetization bool `json:"monetization"`
	Enforce      bool `json:"enforce"`
	// RunSilence is after how many seconds without an event a reported run is lost; 0:
	// schemas.RunSilence.
	RunSilence int64 `json:"run_silence_seconds,omitzero"`
}

// Names of the configuration that decides about entitlements. A plugin's own rules are
// under ConfigPluginPrefix and its name.
const (
	ConfigManifest     = "entitlements"
	ConfigCatalogue    = "subscriptions"
	ConfigSwitches     = "enforcement"
	ConfigPluginPrefix = "plugin."
)

// Below is the content of the configuration entitlements: the manifest that lies below
// the app's own, and where it came from.
type Below struct {
	Source   string
	Manifest *Manifest // nil: there is none
}

// ParseBelow reads the content of ConfigManifest.
func ParseBelow(content []byte) (Below, *Error) {
	var b Below
	v, err := readJSONValue(bytes.Clone(content))
	if err != nil {
		return b, err
	}
	r := fieldReader{}
	var manifest jsonValue
	r.fields(nil, v, readers{
		"source":   func(at *fieldPath, v jsonValue) { r.text(at, v, &b.Source, 0, MaxNameChars) },
		"manifest": func(_ *fieldPath, v jsonValue) { manifest = v },
	})
	if err := r.err(); err != nil || manifest.null() {
		return b, err
	}
	b.Manifest, err = manifestOf(manifest)
	return b, err
}

// ParseSwitches reads the content of ConfigSwitches. Everything is enforced unless it
// says otherwise; money is not.
func ParseSwitches(content []byte) (Switches, *Error) {
	s := Switches{Enforce: true}
	v, err := readJSONValue(bytes.Clone(content))
	if err != nil {
		return s, err
	}
	r := fieldReader{}
	r.fields(nil, v, readers{
		"monetization": func(at *fieldPath, v jsonValue) { r.flag(at, v, &s.Monetization) },
		"enforce":      func(at *fieldPath, v jsonValue) { r.flag(at, v, &s.Enforce) },
		"run_silence_seconds": func(at *fieldPath, v jsonValue) {
			r.number(at, v, &s.RunSilence, 1, MaxRunSilence/1e9)
		},
	})
	return s, r.err()
}
