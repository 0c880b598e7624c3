package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"grout/bus"
	"grout/handlers"
	"grout/handlers/entitlements"
	"grout/handlers/httpapi"
	"grout/handlers/plugins"
	"grout/schemas"
)

// pluginStateDir is where what belongs to plugins is kept.
func pluginStateDir(dataDir string) string { return filepath.Join(dataDir, "plugins") }

// hostOptions are how plugins run under these settings.
func (c *Config) hostOptions() (plugins.Options, error) {
	if within(c.PluginsPath, c.DataDir) {
		return plugins.Options{}, fmt.Errorf("%s: %s lies in the data directory, which plugins must not see; set MOZAIKS_PLUGINS_PATH to a folder outside of it", c.origin("plugins_path"), c.PluginsPath)
	}
	exe, err := os.Executable()
	if err != nil {
		return plugins.Options{}, fmt.Errorf("find this program, which starts plugins: %w", err)
	}
	o := plugins.Options{
		Dir: c.PluginsPath, StateDir: pluginStateDir(c.DataDir), Timeout: c.PluginTimeout, Exe: exe, Env: os.Environ(), Hide: append(c.secretFiles(), c.DataDir),
		Go: c.functions,
	}
	if c.PluginUser != "" {
		uid, gid, _ := strings.Cut(c.PluginUser, ":")
		u, err := strconv.ParseUint(uid, 10, 32)
		g, err2 := strconv.ParseUint(gid, 10, 32)
		if err = errors.Join(err, err2); err != nil {
			return o, fmt.Errorf("%s: %w", c.origin("plugin_user"), err)
		}
		o.User = &plugins.Credential{UID: uint32(u), GID: uint32(g)}
	}
	return o, nil
}

// within reports whether a path is a directory or lies in it. What cannot be found does not.
func within(path, dir string) bool {
	for _, p := range []*string{&path, &dir} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return false
		}
		if real, err := filepath.EvalSymlinks(abs); err == nil {
			abs = real
		}
		*p = abs
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// secretFiles are the files with secrets that these settings name, themselves included.
func (c *Config) secretFiles() []string {
	files := []string{c.File, c.NATSPasswordFile, c.NATSCreds, c.NATSNKey, c.NATSKey, c.NATSTLSKey}
	for _, s := range allSecrets() {
		files = append(files, s.field(c).File)
	}
	for i := range c.Webhooks {
		files = append(files, c.Webhooks[i].files...)
	}
	return slices.DeleteFunc(files, func(path string) bool { return path == "" })
}

// numericUser takes the user that workers run as.
func numericUser(t string) error {
	uid, gid, both := strings.Cut(t, ":")
	_, err := strconv.ParseUint(uid, 10, 32)
	_, err2 := strconv.ParseUint(gid, 10, 32)
	if t != "" && (!both || err != nil || err2 != nil) {
		return fmt.Errorf("%q is not a user; write its numbers as uid:gid, such as 65534:65534", t)
	}
	return nil
}

// pluginPort gives httpapi the plugins.
type pluginPort executions

func (x *pluginPort) entitled() *entitled { return (*entitled)(x.nodes) }

// Loaded implements httpapi.Plugins.
func (x *pluginPort) Loaded() (n int) {
	for _, info := range x.host.List() {
		if info.Loaded() {
			n++
		}
	}
	return n
}

// withoutPath names a folder in a text by its name alone.
func withoutPath(text, folder, name string) string {
	if whole, err := filepath.Abs(folder); err == nil && folder != "" {
		text = strings.ReplaceAll(text, whole, name)
	}
	return text
}

// portOf is what users are told of a plugin: where it lies on this machine is not among it.
func portOf(i *plugins.Info) httpapi.Plugin {
	return httpapi.Plugin{
		Name: i.Name, DisplayName: i.DisplayName, Description: i.Description, Version: i.Version, Backend: i.Backend,
		Enabled: i.Enabled, Error: withoutPath(i.Error, i.Path, i.Name), Timeout: i.Limits.Timeout, QueueTimeout: i.Limits.QueueTimeout,
		MaxInputBytes: i.Limits.MaxInputBytes, Rerun: i.RetryOnCrash,
	}
}

// List implements httpapi.Plugins.
func (x *pluginPort) List(_ context.Context, who httpapi.Subject) ([]httpapi.Plugin, error) {
	e := x.entitled()
	p, err := e.partition(who.App)
	if err != nil {
		return nil, err
	}
	now, _ := e.now(p)
	list := []httpapi.Plugin{}
	for _, info := range x.host.List() {
		v, err := p.standing.View(&handlers.Question{AppID: who.App, UserID: who.User, TenantID: who.Tenant, Plugin: info.Name}, now)
		if err != nil {
			return nil, err
		}
		if v.MayUse(info.Name) && (!v.Switches.Monetization || v.Plugin == nil || v.Plugin.Broken == "") {
			list = append(list, portOf(&info))
		}
	}
	return list, nil
}

// Find implements httpapi.Plugins.
func (x *pluginPort) Find(name string) (httpapi.Plugin, error) {
	info, err := x.host.Find(name)
	if err != nil {
		return httpapi.Plugin{}, err
	}
	return portOf(&info), nil
}

// JudgeExecution implements httpapi.Plugins.
func (x *pluginPort) JudgeExecution(_ context.Context, app string, r *schemas.PluginExecution) (d schemas.Decision, final bool, err error) {
	e := x.entitled()
	p, err := e.partition(app)
	if err != nil {
		return d, false, err
	}
	now, believed := e.now(p)
	c := &schemas.EntitlementCheck{Plugin: r.Plugin, Action: r.Action, UserID: r.UserID, TenantID: r.TenantID, Needed: 1, Count: true}
	v, err := p.standing.View(&handlers.Question{AppID: app, UserID: r.UserID, TenantID: r.TenantID, Check: c}, now)
	if err != nil {
		return d, false, err
	}
	d = entitlements.Execute(v, c)
	if d.Allowed || !believed {
		return d, false, nil
	}
	final, err = p.standing.Quiet(app, &d)
	return d, final, err
}

// Enter implements httpapi.Plugins.
func (x *pluginPort) Enter(ctx context.Context, name string) (httpapi.Ticket, error) {
	info, err := x.host.Find(name)
	if err != nil {
		return nil, err
	}
	if a := x.tempos.admit(&info); a != nil {
		return a, nil
	}
	t, err := x.host.Enter(ctx, name)
	if err != nil {
		return nil, err // no ticket that is nil inside an interface
	}
	return t, nil
}

// Expect implements httpapi.Plugins.
func (x *pluginPort) Expect(e httpapi.Expected) (httpapi.Execution, error) {
	one, err := (*executions)(x).expect(e)
	if err != nil {
		return nil, err
	}
	return one, nil
}

// hostPlugins makes the host of plugins and the effect that calls them.
func (s *supervisor) hostPlugins() (*plugins.Host, error) {
	o, err := s.cfg.hostOptions()
	if err != nil {
		return nil, err
	}
	o.Logger, o.Bus = s.logger, (*pluginBus)(s)
	host, err := plugins.New(o)
	if err != nil {
		return nil, err
	}
	s.registry.MustRegister(pluginCollector{host})
	s.executions = newExecutions(s, host)
	return host, nil
}

// pluginBus reaches the services of plugins through the bus of whichever node works.
type pluginBus supervisor

func (b *pluginBus) services() (*bus.Services, error) {
	n := b.current.Load()
	if n == nil {
		return nil, errNotWorking
	}
	return n.services, nil
}

// Request implements plugins.Requester.
func (b *pluginBus) Request(ctx context.Context, subject string, header map[string]string, data []byte, receive func(map[string][]string, []byte) bool) error {
	s, err := b.services()
	if err != nil {
		return err
	}
	return s.Request(ctx, subject, header, data, receive)
}

// Service implements plugins.Requester.
func (b *pluginBus) Service(ctx context.Context, name string) (string, error) {
	s, err := b.services()
	if err != nil {
		return "", err
	}
	return s.Service(ctx, name)
}
