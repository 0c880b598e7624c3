package bus

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/minio/highwayhash"
)

// Files of a stream in the server's store.
const (
	settingsFile = "meta.inf"
	checksumFile = "meta.sum"
)

// mendMetadata completes a change to the settings of a stream that was cut off. The
// server writes the settings and then their checksum; a kill in between leaves a
// pair that does not match, and the server would pass the stream over as if there
// were none. Settings are written whole or not at all, so newer ones with an older
// checksum, or with none, are sound.
func mendMetadata(dir string, log *slog.Logger) error {
	streams := streamsDir(dir)
	entries, err := os.ReadDir(streams)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the streams: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		mended, err := mendStream(filepath.Join(streams, e.Name()), e.Name())
		if err != nil {
			return fmt.Errorf("settings of stream %s: %w", e.Name(), err)
		}
		if mended {
			log.Warn("a change to the settings of a stream had been cut off; it is complete now", "stream", e.Name())
		}
	}
	return nil
}

func streamsDir(dir string) string { return filepath.Join(dir, "jetstream", accountGrout, "streams") }

func mendStream(dir, name string) (mended bool, err error) {
	meta, sum := filepath.Join(dir, settingsFile), filepath.Join(dir, checksumFile)
	settings, err := os.ReadFile(meta)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var named struct {
		Name string `json:"name"`
	}
	if json.Unmarshal(settings, &named) != nil || named.Name != name {
		return false, nil // damaged, which is another matter: the server says so
	}
	key := sha256.Sum256([]byte(name))
	h, err := highwayhash.New64(key[:])
	if err != nil {
		return false, err
	}
	_, _ = h.Write(settings) // a hash takes everything
	want := hex.EncodeToString(h.Sum(nil))
	have, err := os.ReadFile(sum)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if string(have) == want || err == nil && !newer(meta, sum) {
		return false, nil
	}
	return true, replaceFile(sum, []byte(want))
}

// newer reports whether a was written after b.
func newer(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && x.ModTime().After(y.ModTime())
}

// replaceFile writes a file whole or not at all.
func replaceFile(path string, content []byte) error {
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
