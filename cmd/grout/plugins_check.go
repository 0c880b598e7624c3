package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"grout/cmd/grout/app"
)

func newPluginsCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [NAME]...",
		Short: "Tell what is wrong with plugins, without a server",
		Long: `Reads the manifest and the entitlements of every plugin in --plugins-path, or of those
that are named, starts a worker of each as a server would, waits until it says that it
is ready, and ends it. A plugin on NATS is only read: a running grout looks for it.

Exit codes: 0 all can be called; 1 something is wrong, or an error.`,
		Example: `  grout plugins check
  grout plugins check greet`,
	}
	format := outputFlag(cmd)
	app.AddFlags(cmd.Flags(), "plugins_path")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := loadConfig(cmd)
		if err != nil {
			return err
		}
		for _, name := range args {
			if !pluginNames.MatchString(name) {
				return usagef("%q is no name of a plugin: lower-case letters, digits and _, beginning with a letter, at most 64", abbreviate(name))
			}
		}
		ctx, stop := untilInterrupted(cmd.Context())
		defer stop()
		list, err := app.CheckPlugins(ctx, cfg, args)
		if err != nil {
			return err
		}
		if *format == "json" {
			err = printJSON(cmd.OutOrStdout(), list)
		} else {
			err = printChecked(cmd.OutOrStdout(), cfg.PluginsPath, list)
		}
		if err != nil {
			return err
		}
		if wrong := slices.IndexFunc(list, func(p app.CheckedPlugin) bool { return len(p.Problems) > 0 }); wrong >= 0 {
			return fmt.Errorf("plugin %s cannot be used as it is", list[wrong].Name)
		}
		return nil
	}
	return cmd
}

func printChecked(out io.Writer, dir string, list []app.CheckedPlugin) error {
	if len(list) == 0 {
		_, err := fmt.Fprintf(out, "no plugin in %s; grout plugins new NAME makes one\n", dir)
		return err
	}
	var t textTable
	t.columns("plugin", "kind", "version", "is")
	for _, p := range list {
		row := []string{printable(p.Name), p.Kind, printable(p.Version), "good"}
		if p.Note != "" {
			row[3] = "good; " + printable(p.Note)
		}
		for i, text := range p.Problems {
			if row[3] = printable(text); i < len(p.Problems)-1 {
				t.rows = append(t.rows, slices.Clone(row))
				row[0], row[1], row[2] = "", "", ""
			}
		}
		t.rows = append(t.rows, row)
	}
	return t.print(out)
}
