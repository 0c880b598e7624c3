package main

import (
	"errors"

	"github.com/spf13/cobra"

	"grout/handlers/plugins"
)

var errSupervisor = errors.New("the supervisor of a worker did not start")

// newPluginWorker is how grout starts the supervisor of a worker. Nobody else does.
func newPluginWorker() *cobra.Command {
	return &cobra.Command{
		Use:    "plugin-worker",
		Short:  "Supervise one worker of a plugin (started by grout serve)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if code := plugins.Supervise(); code != 0 {
				return exitError{errSupervisor, code}
			}
			return nil
		},
	}
}
