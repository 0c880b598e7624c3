package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"grout/handlers/plugins"
)

// CheckedPlugin is what is found out of a plugin without a server.
type CheckedPlugin struct {
	Name     string   `json:"name"`
	Kind     string   `json:"kind"`
	Version  string   `json:"version"`
	Problems []string `json:"problems"`
	Note     string   `json:"note,omitempty"`
}

// CheckPlugins looks at the plugins that are named, or at all, as a server would, and
// starts a worker of each. What they print, and their homes, are thrown away.
func CheckPlugins(ctx context.Context, cfg Config, names []string) ([]CheckedPlugin, error) {
	state, err := os.MkdirTemp("", "grout-check-")
	if err != nil {
		return nil, fmt.Errorf("make a directory to throw away: %w", err)
	}
	defer os.RemoveAll(state)
	o, err := cfg.hostOptions()
	if err != nil {
		return nil, err
	}
	o.StateDir, o.Bus, o.Only = state, noBus{}, names
	infos, err := plugins.Check(ctx, o)
	if err != nil {
		return nil, err
	}
	list := []CheckedPlugin{}
	for i := range infos {
		list = append(list, checkedPlugin(&cfg, &infos[i]))
	}
	for _, name := range names {
		if !slices.ContainsFunc(list, func(p CheckedPlugin) bool { return p.Name == name }) {
			list = append(list, CheckedPlugin{Name: name, Problems: []string{missingPlugin(&cfg, name)}})
		}
	}
	if len(names) == 0 {
		list = append(list, oddFolders(&cfg)...)
	}
	return list, nil
}

// noBus takes the place of NATS where nothing is called: every service seems to be there.
type noBus struct{}

// Request implements plugins.Requester.
func (noBus) Request(context.Context, string, map[string]string, []byte, func(map[string][]string, []byte) bool) error {
	return errors.ErrUnsupported
}

// Service implements plugins.Requester.
func (noBus) Service(_ context.Context, name string) (string, error) { return name, nil }

// checkedPlugin tells what is wrong with one plugin.
func checkedPlugin(cfg *Config, p *plugins.Info) CheckedPlugin {
	c := CheckedPlugin{Name: p.Name, Kind: p.Kind, Version: p.Version, Problems: []string{}}
	if err := checkPluginRules(filepath.Join(cfg.PluginsPath, p.Name), p.Name); err != nil {
		c.Problems = append(c.Problems, err.Error())
	}
	switch {
	case p.Error != "":
		c.Problems = append(c.Problems, p.Error)
	case !p.Enabled:
		c.Note = "switched off: enabled is false"
	case p.Kind == "nats":
		c.Note = "its service is not looked for; a running grout does that"
	}
	return c
}

// checkPluginRules judges the entitlements of a plugin; one need not have any.
func checkPluginRules(dir, name string) error {
	for _, path := range []string{filepath.Join(dir, PluginLimitsFile), filepath.Join(dir, "backend", PluginLimitsFile)} {
		text, err := os.ReadFile(path)
		if err != nil {
			if missingFile(err) {
				continue
			}
			return fmt.Errorf("read %s: %w", PluginLimitsFile, err)
		}
		if _, err := judgePlugin(name, text); err != nil {
			return fmt.Errorf("%s: %s; the plugin is closed while MONETIZATION is on", PluginLimitsFile, oneLine(err))
		}
		return nil
	}
	return nil
}

// missingPlugin says why there is no plugin of a name.
func missingPlugin(cfg *Config, name string) string {
	if info, err := os.Stat(filepath.Join(cfg.PluginsPath, name)); err != nil || !info.IsDir() {
		return fmt.Sprintf("there is no folder %s in %s", name, cfg.PluginsPath)
	}
	return "its folder has none of " + strings.Join(pluginFiles, ", ")
}

// pluginFiles make a folder a plugin (contract §4).
var pluginFiles = []string{plugins.ManifestFile, "backend/logic.py", "logic.py"}

// oddFolders are those that look like plugins and cannot be any by their names.
func oddFolders(cfg *Config) (list []CheckedPlugin) {
	entries, err := os.ReadDir(cfg.PluginsPath)
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		name := entry.Name()
		if pluginName.MatchString(name) || strings.HasPrefix(name, ".") {
			continue
		}
		if slices.ContainsFunc(pluginFiles, func(file string) bool {
			_, err := os.Stat(filepath.Join(cfg.PluginsPath, name, file))
			return err == nil
		}) {
			list = append(list, CheckedPlugin{Name: name, Problems: []string{"is passed over: names are lower-case letters, digits and _, beginning with a letter, at most 64"}})
		}
	}
	return list
}

func missingFile(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// PluginLogs are the files that the log of a plugin is in, the oldest first.
func PluginLogs(dataDir, name string) []string {
	path := plugins.LogPath(pluginStateDir(dataDir), name)
	return []string{path + ".1", path}
}
