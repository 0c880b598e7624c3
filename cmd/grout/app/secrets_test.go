package app

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestSecretsAreGeneratedOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first := Config{DataDir: dir}
	for range 2 { // a second call changes nothing
		if err := LoadSecrets(&first); err != nil {
			t.Fatal(err)
		}
	}
	second := Config{DataDir: dir}
	if err := LoadSecrets(&second); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range secrets {
		a, b := secrets[i].field(&first), secrets[i].field(&second)
		if len(a.Values) != 1 || len(a.Values[0]) != 43 || !a.Generated || a.Closed {
			t.Errorf("%s at the first start: %d values, generated %v", secrets[i].env, len(a.Values), a.Generated)
		}
		if !slices.Equal(a.Values, b.Values) || b.Generated || b.Path != a.Path {
			t.Errorf("%s at the second start is another secret, or counts as new", secrets[i].env)
		}
		if seen[a.Values[0]] {
			t.Errorf("%s repeats another secret", secrets[i].env)
		}
		seen[a.Values[0]] = true
		info, err := os.Stat(a.Path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", a.Path, info.Mode(), err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "secrets"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory of secrets: %v, %v", info.Mode(), err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "secrets"))
	if err != nil || len(left) != len(secrets) {
		t.Errorf("the directory holds %v, %v", left, err)
	}
}

func TestSecretsFromOutsideStay(t *testing.T) {
	for _, env := range []string{"", "production"} {
		c := Config{DataDir: t.TempDir(), Env: env, ServiceKeys: Secret{Closed: true}}
		for i := range secrets {
			if s := secrets[i].field(&c); !s.Closed {
				s.Values = []string{"given"}
			}
		}
		if err := LoadSecrets(&c); err != nil {
			t.Fatal(err)
		}
		if c.InternalKeys.Generated || c.InternalKeys.Path != "" || !c.ServiceKeys.Closed || c.ServiceKeys.Values != nil {
			t.Errorf("ENV=%q: a secret from outside was changed", env)
		}
		if left, err := os.ReadDir(c.DataDir); err != nil || len(left) != 0 {
			t.Errorf("ENV=%q: files were written: %v, %v", env, left, err)
		}
	}
}

func TestProductionClosesUnsetDoors(t *testing.T) {
	c := Config{DataDir: t.TempDir(), Env: "production"}
	if err := LoadSecrets(&c); err != nil {
		t.Fatal(err)
	}
	for i := range secrets {
		if s := secrets[i].field(&c); !s.Closed || s.Values != nil || s.Generated {
			t.Errorf("%s is open", secrets[i].env)
		}
	}
	if left, err := os.ReadDir(c.DataDir); err != nil || len(left) != 0 {
		t.Errorf("files were written: %v, %v", left, err)
	}
}

func TestUnsafeSecretFiles(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		mode       os.FileMode
		want       string
	}{
		{"readable by the group", "key\n", 0o640, "chmod 600"},
		{"readable by all", "key\n", 0o604, "chmod 600"},
		{"empty", "\n", 0o600, "empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := SecretPath(dir, InternalKeyFile)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			err := LoadSecrets(&Config{DataDir: dir})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("LoadSecrets() = %v, want it to name the file and say %q", err, tt.want)
			}
		})
	}
}

func TestStartsAtOnceAgreeOnSecrets(t *testing.T) {
	dir := t.TempDir()
	configs := make([]Config, 8)
	var wg sync.WaitGroup
	for i := range configs {
		wg.Go(func() {
			configs[i].DataDir = dir
			if err := LoadSecrets(&configs[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	generated := 0
	for i := range configs {
		if !slices.Equal(configs[i].InternalKeys.Values, configs[0].InternalKeys.Values) {
			t.Error("two starts hold different secrets")
		}
		if configs[i].InternalKeys.Generated {
			generated++
		}
	}
	if generated != 1 {
		t.Errorf("%d starts say they made the secret, want 1", generated)
	}
}
