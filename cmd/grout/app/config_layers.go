package app

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"grout/schemas"
)

// layer is one place settings come from; the first layer that has one wins.
type layer struct {
	values *koanf.Koanf
	origin func(s *setting) string
}

func newLayer(values map[string]any, origin func(*setting) string) layer {
	k := koanf.New("\x00") // no key is a path
	// A map in memory cannot fail to load.
	_ = k.Load(confmap.Provider(values, ""), nil)
	return layer{k, origin}
}

func (l layer) set(c *Config, s *setting) error {
	switch v := l.values.Get(s.key).(type) {
	case nil:
		return errors.New(`has no value; give one, or "" for the empty text`)
	case string:
		if v == "" && !s.empty {
			return errors.New("is empty; give a value or leave it out")
		}
		return s.value.set(c, v)
	case int, int64, uint64, float64:
		if !s.value.number {
			return errors.New("is a number where text belongs; put it in quotes")
		}
		return s.value.set(c, fmt.Sprint(v))
	case bool:
		if !s.value.toggle {
			return errors.New("is true or false where text belongs; put it in quotes")
		}
		return s.value.set(c, strconv.FormatBool(v))
	default:
		return fmt.Errorf("has a value of the wrong kind (%T); put it in quotes", v)
	}
}

func origin(place, name string) string { return place + " " + name }

func flagLayer(flags *pflag.FlagSet) layer {
	values := map[string]any{}
	for i := range settings {
		s := &settings[i]
		if f := flags.Lookup(s.flag()); f != nil && f.Changed {
			values[s.key] = f.Value.String()
		}
	}
	return newLayer(values, func(s *setting) string { return origin("flag", "--"+s.flag()) })
}

func envLayer(vars map[string]string) layer {
	values, from := map[string]any{}, map[string]string{}
	for i := range settings {
		s := &settings[i]
		for _, name := range s.envNames() {
			t, ok := vars[name]
			if !ok || t == "" && (!s.empty || len(fallbacks[s.key]) > 0) {
				continue
			}
			values[s.key], from[s.key] = t, name
			break
		}
	}
	return newLayer(values, func(s *setting) string { return origin("environment", from[s.key]) })
}

func fileLayer(path string, must bool) (layer, error) {
	from := func(s *setting) string { return path + ": " + s.key }
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !must {
		return newLayer(nil, from), nil
	}
	if err != nil {
		return layer{}, fmt.Errorf("read settings file: %w", err)
	}
	k := koanf.New("\x00")
	if err := k.Load(rawbytes.Provider(text), yaml.Parser()); err != nil {
		return layer{}, fmt.Errorf("settings file %s: %w", path, err)
	}
	known := make([]string, 0, len(settings)+1)
	for i := range settings {
		known = append(known, settings[i].key)
	}
	known = append(known, webhooksKey)
	for _, key := range slices.Sorted(maps.Keys(k.Raw())) {
		if slices.Contains(known, key) {
			continue
		}
		for _, s := range allSecrets() {
			if strings.EqualFold(s.env, key) || strings.EqualFold(s.key(), key) {
				return layer{}, fmt.Errorf("%s: %s is a secret and does not belong in the settings file; set %s in the environment", path, key, s.env)
			}
		}
		return layer{}, fmt.Errorf("%s: unknown setting %q%s", path, key, suggest(key, known))
	}
	return layer{k, from}, nil
}

// unknownVariables warns of MOZAIKS_ variables that nothing reads.
func unknownVariables(vars map[string]string) (warnings []string) {
	known := []string{envConfigFile, EnvToken}
	for i := range settings {
		known = append(known, settings[i].envNames()...)
	}
	for _, s := range allSecrets() {
		known = append(known, s.env, s.env+fileSuffix)
	}
	for name := range vars {
		if strings.HasPrefix(name, "MOZAIKS_") && !slices.Contains(known, name) {
			warnings = append(warnings, fmt.Sprintf("environment %s is not a setting of this version%s", name, suggest(name, known)))
		}
	}
	slices.Sort(warnings)
	return warnings
}

// suggest names the known name that was probably meant.
func suggest(name string, known []string) string {
	if best := schemas.Nearest(name, known); best != "" {
		return " (did you mean " + best + "?)"
	}
	return ""
}
