package plugins

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// ManifestFile is what a plugin says of itself (contract §4).
const ManifestFile = "plugin.yaml"

// maxPlugins bounds how many folders are looked at.
const maxPlugins = 1000

// namePattern is what a plugin's folder is called.
var namePattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// codeFiles are where a plugin's code is when it does not say so, the first one first.
var codeFiles = []string{"backend/logic.py", "logic.py"}

func (h *Host) started() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ctx != nil
}

// folders gives the names in the directory that can be plugins, and its real path.
func (h *Host) folders() (names []string, root string, err error) {
	root, err = filepath.EvalSymlinks(h.o.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	list, err := os.ReadDir(root)
	if err != nil {
		return nil, "", err
	}
	for _, entry := range list {
		name := entry.Name()
		if namePattern.MatchString(name) && (entry.IsDir() || entry.Type()&fs.ModeSymlink != 0) && (len(h.o.Only) == 0 || slices.Contains(h.o.Only, name)) {
			names = append(names, name)
		}
	}
	if len(names) > maxPlugins {
		return nil, "", fmt.Errorf("there are %d folders, at most %d are taken", len(names), maxPlugins)
	}
	return names, root, nil
}

// read reads a plugin's folder. What it gives with an error is enough to tell of it.
func (h *Host) read(name, dir string) (*plugin, error) {
	v := &plugin{manifest: defaultManifest(name, h.o.Timeout), dir: dir, log: h.logs.of(name)}
	folder, err := openFolder(filepath.Dir(dir), name)
	if err != nil {
		return v, err
	}
	defer folder.Close()
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return v, err
	}
	v.dir = real
	text, err := readFile(folder, ManifestFile)
	if err == nil {
		v.manifest, err = parseManifest(text, v.manifest)
		if err != nil {
			return v, fmt.Errorf("%s/%s: %w", name, ManifestFile, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return v, fmt.Errorf("%s/%s: %w", name, ManifestFile, err)
	}
	if err := v.findCode(folder); err != nil && v.Enabled {
		return v, err
	}
	return v, nil
}

// findCode finds the file that is run with Python, if any is.
func (v *plugin) findCode(folder *os.Root) error {
	if v.Kind != kindProcess || len(v.Command) > 0 {
		return nil
	}
	if v.Entry != "" {
		if !filepath.IsLocal(v.Entry) {
			return fmt.Errorf("%s/%s: runtime.entry %s leads out of the folder", v.Name, ManifestFile, shown(v.Entry))
		}
		return isFile(folder, v.Name, v.Entry)
	}
	for _, file := range codeFiles {
		if holds(folder, file) {
			v.Entry = file
			return isFile(folder, v.Name, file)
		}
	}
	return fmt.Errorf("%s/%s names no runtime.command, and there is no %s to run", v.Name, ManifestFile, strings.Join(codeFiles, " or "))
}

// openFolder opens a plugin's folder so that no symbolic link leads out of it, nor the
// folder itself out of the directory.
func openFolder(root, name string) (*os.Root, error) {
	all, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	folder, err := all.OpenRoot(name)
	if err != nil && isLink(all, name) {
		return nil, fmt.Errorf("%s is a symbolic link that leads out of the directory of plugins, or nowhere; links must be relative", name)
	}
	return folder, err
}

// holds reports whether something of this name is in a folder, be it behind a link that is
// refused.
func holds(folder *os.Root, file string) bool {
	_, err := folder.Lstat(file)
	return err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR)
}

func isLink(folder *os.Root, name string) bool {
	info, err := folder.Lstat(name)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// isFile tells why a file of a plugin cannot be its code; nil when it can.
func isFile(folder *os.Root, name, file string) error {
	info, err := folder.Stat(file)
	switch {
	case err == nil && info.Mode().IsRegular():
		return nil
	case err == nil:
		return fmt.Errorf("%s/%s is no file", name, file)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s/%s is not there", name, file)
	}
	return fmt.Errorf("%s/%s: %w", name, file, linkError(err))
}

// linkError says plainly what os.Root refuses.
func linkError(err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) && strings.Contains(pathError.Err.Error(), "escapes") {
		return errors.New("it is behind a symbolic link that leads out of the plugin's folder (links must be relative)")
	}
	return err
}

// readFile reads a small regular file of a plugin.
func readFile(folder *os.Root, name string) ([]byte, error) {
	f, err := folder.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would wait for its writer
	if err != nil {
		return nil, linkError(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errors.New("it is no file"))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxManifestBytes+1))
	if err == nil && len(text) > maxManifestBytes {
		err = fmt.Errorf("it has more than %d bytes", maxManifestBytes)
	}
	return text, err
}
