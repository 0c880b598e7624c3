package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// copyDir copies a directory without what a process leaves for others to find.
func copyDir(from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		place := filepath.Join(to, rel)
		info, err := d.Info()
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return os.MkdirAll(place, 0o700)
		case d.Type()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, place)
		case !d.Type().IsRegular():
			return nil
		}
		err = copySparse(path, place, info)
		if err == nil {
			err = os.Chtimes(place, info.ModTime(), info.ModTime())
		}
		return err
	})
}

// copySparse leaves out what is empty: most of a young store.
func copySparse(from, to string, info fs.FileInfo) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	const part = 64 << 10
	err = f.Truncate(int64(len(text)))
	for at := 0; at < len(text) && err == nil; at += part {
		if b := text[at:min(at+part, len(text))]; len(bytes.TrimLeft(b, "\x00")) > 0 {
			_, err = f.WriteAt(b, int64(at))
		}
	}
	return errors.Join(err, f.Close())
}
