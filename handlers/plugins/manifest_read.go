package plugins

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/knadh/koanf/parsers/yaml"

	"grout/schemas"
)

// parseManifest reads a plugin.yaml. Its error names every field at fault.
func parseManifest(text []byte, m manifest) (manifest, error) {
	fields, err := yaml.Parser().Unmarshal(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")))
	if err != nil {
		return m, errors.New(strings.Join(strings.Fields(err.Error()), " "))
	}
	asJSON, err := json.Marshal(fields) // one set of types, and only text as keys
	if err != nil {
		return m, fmt.Errorf("it cannot be written as JSON: %w", err)
	}
	if len(asJSON) > maxManifestBytes { // aliases make much of little
		return m, fmt.Errorf("it has more than %d bytes as JSON", maxManifestBytes)
	}
	var root any
	numbers := json.NewDecoder(bytes.NewReader(asJSON))
	numbers.UseNumber()
	if err := numbers.Decode(&root); err != nil {
		return m, fmt.Errorf("it cannot be read as JSON: %w", err)
	}
	r := manifestReader{m: &m}
	if root != nil {
		r.fields("", root, r.top())
	}
	r.together()
	if r.faults != nil {
		return m, errors.New(strings.Join(r.faults, "; "))
	}
	return m, nil
}

// manifestReader reads the fields of a plugin.yaml and lists what is wrong with them.
type manifestReader struct {
	m      *manifest
	faults []string
	given  []string // what was read, by its whole name
}

type fieldReaders map[string]func(at string, v any)

const maxFaults = 10

func (r *manifestReader) fault(at, format string, args ...any) {
	if len(r.faults) < maxFaults {
		r.faults = append(r.faults, at+" "+fmt.Sprintf(format, args...))
	}
}

// fields reads an object of known fields; one without a value is as if it were not there.
func (r *manifestReader) fields(at string, v any, known fieldReaders) {
	object, ok := v.(map[string]any)
	if !ok {
		r.fault(place(at), "must be an object, not %s", typeOf(v))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		path := strings.TrimPrefix(at+"."+name, ".")
		read, ok := known[name]
		switch {
		case !ok:
			r.fault(shown(path), "is not known%s", suggestion(name, slices.Sorted(maps.Keys(known))))
		case object[name] != nil:
			r.given = append(r.given, path)
			read(path, object[name])
		}
	}
}

func place(at string) string {
	if at == "" {
		return "the file"
	}
	return at
}

func (r *manifestReader) top() fieldReaders {
	m := r.m
	return fieldReaders{
		"name":         r.name,
		"version":      r.text(&m.Version, 1, maxVersion),
		"display_name": r.text(&m.DisplayName, 1, schemas.MaxIDChars),
		"description":  r.text(&m.Description, 0, maxDescription),
		"enabled":      r.flag(&m.Enabled),
		"runtime": func(at string, v any) {
			r.fields(at, v, fieldReaders{
				"kind": r.kind, "command": r.command, "entry": r.text(&m.Entry, 1, 1024),
				"subject": r.subject, "env": r.env,
			})
		},
		"limits": func(at string, v any) {
			l := &m.Limits
			r.fields(at, v, fieldReaders{
				"timeout":          r.duration(&l.Timeout, minTimeout, maxTimeout),
				"concurrency":      r.count(&l.Concurrency, 1, maxConcurrency),
				"queue":            r.count(&l.Queue, 0, maxQueue),
				"queue_timeout":    r.duration(&l.QueueTimeout, 0, maxQueueTimeout),
				"max_input_bytes":  r.size(&l.MaxInputBytes, 2, maxExecuteBytes),
				"max_output_bytes": r.size(&l.MaxOutputBytes, 2, maxExecuteBytes),
				"memory_bytes":     r.size(&l.MemoryBytes, minMemory, maxMemory),
				"cpu_seconds":      r.duration(&l.CPU, minCPU, maxTimeout),
			})
		},
		"retry_on_crash": r.flag(&m.RetryOnCrash),
	}
}

func (r *manifestReader) name(at string, v any) {
	var name string
	r.text(&name, 1, 64)(at, v)
	if name != "" && name != r.m.Name {
		r.fault(at, "is %s in the folder %s: a plugin has the name of its folder", shown(name), r.m.Name)
	}
}

func (r *manifestReader) text(dst *string, least, most int) func(string, any) {
	return func(at string, v any) {
		text, ok := v.(string)
		n := utf8.RuneCountInString(text)
		switch {
		case !ok:
			r.fault(at, "must be a text, not %s%s", typeOf(v), quoteHint(v))
		case n < least || n > most:
			r.fault(at, "must have %d to %d characters, not %d", least, most, n)
		case strings.IndexFunc(text, control) >= 0:
			r.fault(at, "must not have control characters")
		default:
			*dst = text
		}
	}
}

func control(c rune) bool { return c < ' ' && c != '\n' && c != '\t' || c == 0x7f }

func (r *manifestReader) flag(dst *bool) func(string, any) {
	return func(at string, v any) {
		on, ok := v.(bool)
		if !ok {
			r.fault(at, "must be true or false, not %s", typeOf(v))
			return
		}
		*dst = on
	}
}

var kinds = []string{kindProcess, kindNATS, kindGo}

func (r *manifestReader) kind(at string, v any) {
	kind, _ := v.(string)
	if !slices.Contains(kinds, kind) {
		r.fault(at, "must be one of %s, not %s", strings.Join(kinds, ", "), shown(fmt.Sprint(v)))
		return
	}
	r.m.Kind = kind
}

func (r *manifestReader) command(at string, v any) {
	list, ok := v.([]any)
	if !ok || len(list) == 0 || len(list) > maxCommandArgs {
		r.fault(at, `must be a list of 1 to %d texts, like ["node", "main.js"]`, maxCommandArgs)
		return
	}
	total := 0
	for i, arg := range list {
		text, ok := arg.(string)
		total += len(text)
		switch {
		case !ok:
			r.fault(fmt.Sprintf("%s[%d]", at, i), "must be a text, not %s%s", typeOf(arg), quoteHint(arg))
		case strings.ContainsRune(text, 0) || i == 0 && text == "":
			r.fault(fmt.Sprintf("%s[%d]", at, i), "must name a program, without NUL")
		}
		r.m.Command = append(r.m.Command, text)
	}
	if total > maxCommandBytes {
		r.fault(at, "must have at most %d bytes, not %d", maxCommandBytes, total)
	}
}

// subjectShape is a subject that one message can be sent to, outside of what NATS and
// grout use themselves.
var subjectShape = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

func (r *manifestReader) subject(at string, v any) {
	var subject string
	r.text(&subject, 1, 255)(at, v)
	switch {
	case subject == "":
	case !subjectShape.MatchString(subject):
		r.fault(at, "must be names of letters, digits, _ and - with dots between them, not %s", shown(subject))
	case strings.HasPrefix(subject+".", "mozaiks.") || strings.HasPrefix(subject+".", "grout.") || strings.HasPrefix(subject, "_"):
		r.fault(at, "must not begin with mozaiks, grout or _: those subjects are not for plugins")
	default:
		r.m.Subject = subject
	}
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// ownEnv are the variables that grout sets itself.
var ownEnv = []string{"HOME", "TMPDIR"}

func (r *manifestReader) env(at string, v any) {
	object, ok := v.(map[string]any)
	if !ok || len(object) > maxEnv {
		r.fault(at, "must be an object of at most %d variables", maxEnv)
		return
	}
	env, total := make(map[string]string, len(object)), 0
	for _, name := range slices.Sorted(maps.Keys(object)) {
		text, ok := object[name].(string)
		total += len(name) + len(text)
		switch {
		case !envName.MatchString(name):
			r.fault(at, "has a variable %s, which is no name", shown(name))
		case slices.Contains(ownEnv, name) || strings.HasPrefix(name, "GROUT_"):
			r.fault(at+"."+name, "is set by grout")
		case !ok:
			r.fault(at+"."+name, "must be a text, not %s%s", typeOf(object[name]), quoteHint(object[name]))
		case strings.ContainsRune(text, 0):
			r.fault(at+"."+name, "must not have NUL")
		}
		env[name] = text
	}
	if total > maxEnvBytes {
		r.fault(at, "must have at most %d bytes, not %d", maxEnvBytes, total)
	}
	r.m.Env = env
}

func (r *manifestReader) count(dst *int, least, most int64) func(string, any) {
	return func(at string, v any) {
		if n, ok := r.whole(at, v, least, most); ok {
			*dst = int(n)
		}
	}
}

func (r *manifestReader) whole(at string, v any, least, most int64) (int64, bool) {
	number, ok := v.(json.Number)
	if !ok {
		r.fault(at, "must be a whole number of %d to %d, not %s", least, most, typeOf(v))
		return 0, false
	}
	n, err := strconv.ParseInt(number.String(), 10, 64)
	if err != nil || n < least || n > most {
		r.fault(at, "must be a whole number of %d to %d, not %s", least, most, number)
		return 0, false
	}
	return n, true
}

var units = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}}

// size reads a number of bytes: 1048576 or 1MiB.
func (r *manifestReader) size(dst *int64, least, most int64) func(string, any) {
	return func(at string, v any) {
		text, ok := v.(string)
		if !ok {
			if n, ok := r.whole(at, v, least, most); ok {
				*dst = n
			}
			return
		}
		for _, u := range units {
			digits, found := strings.CutSuffix(text, u.suffix)
			n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
			if found && err == nil && n >= 0 && n <= most/u.bytes && n*u.bytes >= least {
				*dst = n * u.bytes
				return
			}
		}
		r.fault(at, "must be %d to %d bytes, as a number or like 64MiB, not %s", least, most, shown(text))
	}
}

// duration reads a time: 30s or 30.
func (r *manifestReader) duration(dst *time.Duration, least, most time.Duration) func(string, any) {
	return func(at string, v any) {
		var d time.Duration
		ok := false
		switch v := v.(type) {
		case string:
			parsed, err := time.ParseDuration(v)
			d, ok = parsed, err == nil
		case json.Number:
			n, err := v.Float64()
			if ok = err == nil && n >= 0 && n <= most.Seconds(); ok {
				d = time.Duration(n * float64(time.Second))
			}
		}
		if !ok || d < least || d > most {
			r.fault(at, "must be a time of %s to %s, like 30s or 30, not %s", least, most, shown(fmt.Sprint(v)))
			return
		}
		*dst = d
	}
}

// together judges the fields of the runtime against each other.
func (r *manifestReader) together() {
	m := r.m
	only := func(field string, kinds ...string) {
		if slices.Contains(r.given, "runtime."+field) && !slices.Contains(kinds, m.Kind) {
			r.fault("runtime."+field, "is for plugins of kind %s, and this one is of kind %s", strings.Join(kinds, " or "), m.Kind)
		}
	}
	only("command", kindProcess)
	only("env", kindProcess)
	only("entry", kindProcess, kindGo)
	only("subject", kindNATS)
	if m.Kind == kindProcess && len(m.Command) > 0 && m.Entry != "" {
		r.fault("runtime.entry", "is the file that grout runs with Python, and runtime.command runs the plugin already: name one of them")
	}
	if m.Kind == kindGo && m.Entry == "" {
		m.Entry = m.Name
	}
}
