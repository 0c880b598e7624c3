package main

import (
	"github.com/spf13/cobra"

	"grout/cmd/grout/app"
)

func newServe() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server until SIGINT or SIGTERM",
		Long: `Runs the HTTP API, the embedded NATS server and the store in this process until
SIGINT or SIGTERM, and then stops without losing anything. A second signal ends
the process at once, which loses nothing either: what was answered is on disk.

Every flag can also be given by the environment variable named beside it, or in
grout.yaml under the flag's name with underscores. Keys and passwords have no
flags; they come from INTERNAL_API_KEY, MOZAIKS_ALLOWED_SERVICE_KEYS, JWT_SECRET,
MOZAIKS_NATS_PLATFORM_PASSWORD, MOZAIKS_NATS_CONSUMER_PASSWORD,
MOZAIKS_NATS_ADMIN_PASSWORD and MOZAIKS_NATS_PLUGIN_PASSWORD (comma-separated while
they rotate), or from the file that the same name with _FILE behind it names, and
outside production are generated when they are not set. MOZAIKS_NATS_PUBLISHERS
names who else may publish commands, for which apps. MOZAIKS_CONTROL_PLANE_KEY and
MOZAIKS_PLATFORM_API_KEY are what the control plane and the Platform are asked with,
NATS_PASSWORD is grout's own on a cluster (NATS_URL).

Files of NATS passwords, publishers and certificates are read again when they
change, and at once on SIGHUP.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			if err := cfg.Validate(); err != nil {
				return err
			}
			ctx, stop := untilInterrupted(cmd.Context())
			defer stop()
			return app.Run(ctx, cfg, cmd.OutOrStdout())
		},
	}
	app.AddFlags(cmd.Flags())
	return cmd
}
