package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"
)

func newPlugins() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plugins",
		Short: "Write plugins, run them, and read what they print",
		Long: `A plugin is a folder below --plugins-path: a logic.py that grout runs as it is, or a
plugin.yaml that names any other program, or a service on NATS. A running grout takes
edits within two seconds.

new, check and logs work on this machine's files. list and run ask a running grout as
a user: with the token in MOZAIKS_TOKEN, else with one that the command signs for
--user by JWT_SECRET, or by the secret that a grout on this machine keeps in its data
directory.`,
		Example: `  grout plugins new greet
  grout plugins check greet
  grout plugins run greet '{"name": "Ann"}'
  grout plugins logs greet --follow`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPluginsList(), newPluginsRun(), newPluginsLogs(), newPluginsNew(), newPluginsCheck())
	return cmd
}

func newPluginsList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Print the plugins of a running grout, those that do not load with the reason",
		Args:  cobra.NoArgs,
	}
	format := outputFlag(cmd)
	as := userFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return as.withServer(cmd, func(ctx context.Context, to *sender) error {
			text, err := to.ask(ctx, http.MethodGet, "/api/plugins", nil, nil)
			if err != nil {
				return err
			}
			return printAnswer(cmd, *format, text, printPlugins)
		})
	}
	return cmd
}

func printPlugins(out io.Writer, text []byte) error {
	var answer struct {
		Plugins []struct {
			Name, Version, Description, Error string

			DisplayName string `json:"display_name"`
			Enabled     bool
		}
	}
	if err := decodeAnswer(text, &answer); err != nil {
		return err
	}
	if len(answer.Plugins) == 0 {
		_, err := fmt.Fprintln(out, "no plugin; grout plugins new NAME makes one")
		return err
	}
	var t textTable
	t.columns("plugin", "version", "state", "about")
	for _, p := range answer.Plugins {
		state, about := "on", p.Description
		switch {
		case p.Error != "":
			state, about = "broken", p.Error
		case !p.Enabled:
			state = "off"
		}
		t.rows = append(t.rows, []string{printable(p.Name), printable(p.Version), state, printable(about)})
	}
	return t.print(out)
}

// indented prints JSON for people; what is none is printed as it came.
func indented(out io.Writer, text []byte) error {
	var v json.RawMessage = text
	if !json.Valid(text) {
		_, err := fmt.Fprintf(out, "%s\n", text)
		return err
	}
	return printJSON(out, v)
}
