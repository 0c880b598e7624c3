package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/knadh/koanf/parsers/yaml"

	"grout/schemas"
)

// maxSourceBytes bounds what is read of a file or an answer that is configuration.
const maxSourceBytes = schemas.MaxConfigBytes - 4<<10

// null is the content of a configuration that was taken back.
var null = []byte("null")

// below is the content of the configuration schemas.ConfigManifest.
type below struct {
	Source   string          `json:"source"`
	Manifest json.RawMessage `json:"manifest"`
}

func belowContent(source string, manifest []byte) []byte {
	if manifest == nil {
		manifest = null
	}
	return mustJSON(below{source, manifest})
}

// localManifest reads the manifest below all synced ones from a file or the environment.
func (s *sources) localManifest() ([]wanted, error) {
	judge := func(text []byte) ([]byte, error) { return judgeManifest(text, s.cfg.AppID) }
	source := "file"
	var manifest []byte
	var err error
	switch {
	case s.cfg.EntitlementSource == SourceLocal:
		manifest, err = s.files.get(s.cfg.ManifestPath, judge)
	case s.cfg.Manifest != "":
		source = "env"
		if manifest, err = judge([]byte(s.cfg.Manifest)); err != nil {
			err = fmt.Errorf("MOZAIKS_ENTITLEMENT_MANIFEST: %w", err)
		}
	default:
		source = "env"
	}
	if err != nil {
		return nil, err
	}
	return []wanted{{schemas.ConfigManifest, belowContent(source, manifest), manifest == nil}}, nil
}

// catalogue reads the plans.
func (s *sources) catalogue() ([]wanted, error) {
	content, err := s.files.get(filepath.Join(s.cfg.ConfigsPath, CatalogueFile), judgeCatalogue)
	if err != nil {
		return nil, err
	}
	if content == nil {
		return []wanted{{schemas.ConfigCatalogue, null, true}}, nil
	}
	return []wanted{{schemas.ConfigCatalogue, content, false}}, nil
}

var pluginName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// plugins reads the rules of every plugin, and takes those back whose files are gone. A
// file that is broken closes its plugin (contract §5.4), so that is what is wanted.
func (s *sources) plugins(known []string) ([]wanted, error) {
	list, err := os.ReadDir(s.cfg.PluginsPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the directory of plugins: %w", err)
	}
	var all []wanted
	found := map[string]bool{}
	for _, entry := range list {
		name := entry.Name()
		if !pluginName.MatchString(name) {
			continue
		}
		content, err := s.pluginLimits(name)
		if content == nil && err == nil {
			continue
		}
		if err != nil {
			content = mustJSON(map[string]string{"broken": oneLine(err)})
		}
		s.note("plugin "+name, err, "it is closed while MONETIZATION is on")
		found[name] = true
		all = append(all, wanted{schemas.ConfigPluginPrefix + name, content, false})
	}
	for _, name := range known {
		if plugin, ok := pluginOf(name); ok && !found[plugin] {
			all = append(all, wanted{name, null, true})
			s.forget("plugin " + plugin)
		}
	}
	return all, nil
}

// pluginLimits reads the rules of a plugin: beside its plugin.yaml, else beside its
// logic.py.
func (s *sources) pluginLimits(name string) ([]byte, error) {
	judge := func(text []byte) ([]byte, error) { return judgePlugin(name, text) }
	dir := filepath.Join(s.cfg.PluginsPath, name)
	content, err := s.files.get(filepath.Join(dir, PluginLimitsFile), judge)
	if content == nil && err == nil {
		content, err = s.files.get(filepath.Join(dir, "backend", PluginLimitsFile), judge)
	}
	return content, err
}

// yamlToJSON gives the JSON that a YAML document means. Keys must be text.
func yamlToJSON(text []byte) ([]byte, error) {
	fields, err := yaml.Parser().Unmarshal(text)
	if err != nil {
		return nil, err
	}
	if fields == nil {
		return nil, errors.New("it says nothing")
	}
	out, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("it cannot be written as JSON: %w", err)
	}
	if len(out) > maxSourceBytes { // aliases make much of little
		return nil, fmt.Errorf("it has more than %d bytes as JSON", maxSourceBytes)
	}
	return out, nil
}

// fileCache keeps what was read of files, and how it was judged, for as long as they look
// the same.
type fileCache struct{ read map[string]*readFile }

type readFile struct {
	info    fs.FileInfo
	at      time.Time
	text    []byte
	content []byte
	fault   error
}

// surelySame is how much older than its reading a file must be so that a change since
// then shows in its time.
const surelySame = 2 * time.Second

// same reports whether a file is surely the one that was read.
func (r *readFile) same(info fs.FileInfo) bool {
	return os.SameFile(r.info, info) && r.info.Size() == info.Size() && r.info.ModTime().Equal(info.ModTime()) && r.at.Sub(info.ModTime()) > surelySame
}

// get gives what a file is judged to say; nil when there is none.
func (c *fileCache) get(path string, judge func([]byte) ([]byte, error)) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		delete(c.read, path)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	have := c.read[path]
	if have != nil && have.same(info) {
		return have.content, have.fault
	}
	now := time.Now()
	text, err := readBounded(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	next := &readFile{info: info, at: now, text: text}
	if have != nil && bytes.Equal(have.text, text) {
		next.content, next.fault = have.content, have.fault
	} else if next.content, next.fault = judge(text); next.fault != nil {
		next.fault = fmt.Errorf("%s: %w", path, next.fault)
	}
	c.read[path] = next
	return next.content, next.fault
}

// readBounded reads a regular file that is not too large.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errors.New("it is no file"))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSourceBytes+1))
	if err == nil && len(text) > maxSourceBytes {
		err = fmt.Errorf("it has more than %d bytes", maxSourceBytes)
	}
	return bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), err
}

// forget drops what is known of a source that is gone.
func (s *sources) forget(source string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.states, source)
}

// oneLine joins the lines of what a parser says.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
