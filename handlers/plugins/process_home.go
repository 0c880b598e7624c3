package plugins

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// lay puts down what workers need: homes, and the shim.
func (r *processRuntime) lay() error {
	r.homes, r.shim = filepath.Join(r.o.StateDir, "homes"), filepath.Join(r.o.StateDir, "shim")
	for _, dir := range []string{r.o.StateDir, r.homes, r.shim} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make the state directory of plugins: %w", err)
		}
	}
	return writeShim(r.shim)
}

// spec describes a worker of a plugin.
func (r *processRuntime) spec(p *plugin) (*workerSpec, error) {
	home, err := filepath.EvalSymlinks(r.homes)
	if err != nil {
		return nil, fmt.Errorf("find the homes of plugins: %w", err)
	}
	home = filepath.Join(home, p.Name)
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, fmt.Errorf("make the plugin's home: %w", err)
	}
	hide, err := r.hide()
	if err != nil {
		return nil, err
	}
	spec := &workerSpec{
		Plugin: p.Name, Dir: p.dir, Home: home, Env: r.environment(p, home), Command: p.Command,
		Writable: append(ownFolders(p.dir), home), Hide: hide, User: r.o.User,
		MaxLine: p.Limits.MaxOutputBytes + lineRoom, Memory: p.Limits.MemoryBytes,
	}
	if len(spec.Command) == 0 {
		spec.Command = shimCommand(p, r.shim, r.python(p))
		spec.Readable = []string{r.shim}
	}
	return spec, r.reachable(home)
}

// writableFolders are those of a plugin's own folder that it may write to, where they are.
// The rest it may not: its limits and what it costs stand there.
var writableFolders = []string{"data", "logs", "tmp", "cache"}

func ownFolders(dir string) (paths []string) {
	for _, name := range writableFolders {
		path := filepath.Join(dir, name)
		if info, err := os.Lstat(path); err == nil && info.IsDir() {
			paths = append(paths, path)
		}
	}
	return paths
}

// python is what runs the shim: that of the plugin's own environment, when it has one, else
// python3. What stands for that on PATH may be slow, so it is asked once.
func (r *processRuntime) python(p *plugin) string {
	for _, own := range []string{".venv", "venv"} {
		path := filepath.Join(p.dir, own, "bin", "python")
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path
		}
	}
	if known, ok := r.pythons.Load(p.dir); ok {
		return known.(string)
	}
	return "python3"
}

// remember notes what ran the shim, and forgets it when that did not work.
func (r *processRuntime) remember(p *plugin, python string) {
	if len(p.Command) > 0 || python == "" {
		r.pythons.Delete(p.dir)
	} else {
		r.pythons.Store(p.dir, python)
	}
}

// hide is what workers must not see. The homes of other plugins are among it.
func (r *processRuntime) hide() ([]string, error) {
	hide := append(slices.Clone(r.o.Hide), r.o.StateDir)
	for i, path := range hide {
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, fmt.Errorf("find what plugins must not see: %w", err)
		}
		hide[i] = abs
	}
	return hide, nil
}

// environment is all that a worker gets of an environment.
func (r *processRuntime) environment(p *plugin, home string) []string {
	env := map[string]string{"PATH": "/usr/local/bin:/usr/bin:/bin"}
	passed := []string{"PATH", "LANG", "TZ"}
	if len(p.Command) == 0 {
		passed = append(passed, "DATABASE_URI")
		env["PYTHONPYCACHEPREFIX"] = filepath.Join(home, ".cache", "python")
	}
	for _, kv := range r.o.Env {
		if name, value, ok := strings.Cut(kv, "="); ok && slices.Contains(passed, name) {
			env[name] = value
		}
	}
	for name, value := range p.Env {
		env[name] = value
	}
	env["HOME"] = home
	out := make([]string, 0, len(env))
	for name, value := range env {
		out = append(out, name+"="+value)
	}
	slices.Sort(out)
	return out
}

// reachable tells whether the user of workers can come to its home.
func (r *processRuntime) reachable(home string) error {
	if r.o.User == nil {
		return nil
	}
	for dir := filepath.Dir(home); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("look at the way to the plugin's home: %w", err)
		}
		if !mayPass(info, r.o.User) {
			return fmt.Errorf("workers run as user %d, group %d, who cannot pass %s (mode %04o): let it be passed (chmod o+x), or move the data directory",
				r.o.User.UID, r.o.User.GID, dir, info.Mode().Perm())
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}
