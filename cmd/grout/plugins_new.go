package main

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"grout/cmd/grout/app"
)

// scaffolds are plugins to begin with, a directory for each kind.
//
//go:embed scaffold
var scaffolds embed.FS

// pluginNames are those that grout looks at (contract §4).
var pluginNames = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// scaffoldKind is a kind of plugin that can be begun with, and what one needs to go on.
type scaffoldKind struct {
	name, about string
	test        string // command that runs its test, % being its folder
	next        string // what else must be done, as above, & being the file of the password
}

var scaffoldKinds = []scaffoldKind{
	{"python", "a logic.py that grout runs as it is", "python3 -m unittest discover -s %", ""},
	{"node", "a program that reads and writes lines of JSON", "node --test %/logic.test.mjs", ""},
	{"nats", "a service of its own on NATS, here for Node", "node --test %/logic.test.mjs", "npm install --prefix % && NATS_PASSWORD=$(cat &) node %/service.mjs"},
}

func newPluginsNew() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "new NAME",
		Short: "Begin a plugin: manifest, logic, entitlements, and a test",
		Long: `Makes a folder of that name in --plugins-path with a plugin that works: a manifest
(plugin.yaml), its logic, what plans allow of it (entitlements.yaml), and a test that
runs without grout. A running grout takes it within two seconds. Nothing that is there
is touched.`,
		Example: `  grout plugins new greet
  grout plugins new words --kind node`,
		Args: cobra.ExactArgs(1),
	}
	app.AddFlags(cmd.Flags(), "plugins_path")
	kind := cmd.Flags().String("kind", "python", "what it is written as: "+kindsText())
	title := cmd.Flags().String("title", "", "its name for people (default: made of NAME)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		at := slices.IndexFunc(scaffoldKinds, func(k scaffoldKind) bool { return k.name == *kind })
		switch {
		case at < 0:
			return usagef("--kind is %s", kindsText())
		case !pluginNames.MatchString(args[0]):
			return usagef("%q is no name of a plugin: lower-case letters, digits and _, beginning with a letter, at most 64", abbreviate(args[0]))
		case strings.ContainsAny(*title, "\n\r\"\\") || printable(*title) != *title:
			return usagef("--title is a line without quotes or backslashes")
		}
		cfg, err := loadConfig(cmd)
		if err != nil {
			return err
		}
		dir := filepath.Join(cfg.PluginsPath, args[0])
		if *title == "" {
			*title = titleOf(args[0])
		}
		files, err := writeScaffold(*kind, dir, args[0], *title)
		if err != nil {
			return err
		}
		k, out := scaffoldKinds[at], cmd.OutOrStdout()
		fmt.Fprintf(out, "made %s: %s\n\n", dir, strings.Join(files, ", "))
		fmt.Fprintf(out, "test it   %s\n", strings.ReplaceAll(k.test, "%", shellWord(dir)))
		if k.next != "" {
			next := strings.NewReplacer("%", shellWord(dir), "&&", "&&", "&", shellWord(app.SecretPath(cfg.DataDir, app.PluginPasswordFile)))
			fmt.Fprintf(out, "start it  %s\n", next.Replace(k.next))
		}
		fmt.Fprintf(out, "run it    grout plugins run %s '{\"name\": \"Ann\"}'   (beside grout serve)\n", args[0])
		return nil
	}
	return cmd
}

func kindsText() string {
	var names []string
	for _, k := range scaffoldKinds {
		names = append(names, k.name+" ("+k.about+")")
	}
	return strings.Join(names, ", ")
}

// titleOf is a name as people write it.
func titleOf(name string) string {
	words := strings.FieldsFunc(name, func(r rune) bool { return r == '_' })
	for i, w := range words {
		words[i] = strings.ToUpper(w[:1]) + w[1:]
	}
	return strings.Join(words, " ")
}

// writeScaffold makes the folder of a plugin and gives the names of its files. A folder
// that is there is left as it is.
func writeScaffold(kind, dir, name, title string) (files []string, err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of plugins: %w", err)
	}
	// Whole under another name first, so that a running grout sees it complete or not at all.
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return nil, fmt.Errorf("make plugin %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := os.Chmod(tmp, 0o755); err != nil {
		return nil, err
	}
	from := path.Join("scaffold", kind)
	list, err := scaffolds.ReadDir(from)
	if err != nil {
		return nil, err
	}
	fill := strings.NewReplacer("__NAME__", name, "__TITLE__", title, "__DIR__", filepath.ToSlash(dir))
	for _, entry := range list {
		text, err := scaffolds.ReadFile(path.Join(from, entry.Name()))
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(tmp, entry.Name()), []byte(fill.Replace(string(text))), 0o644); err != nil {
			return nil, fmt.Errorf("make plugin %s: %w", name, err)
		}
		files = append(files, entry.Name())
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is there already", dir)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return nil, fmt.Errorf("make plugin %s: %w", name, err)
	}
	return files, nil
}

// plainWord needs no quotes in a shell.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./+-]+$`)

func shellWord(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
