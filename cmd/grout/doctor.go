package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"grout/bus"
	"grout/cmd/grout/app"
)

var errUnwell = errors.New("not everything is as grout needs it")

func newDoctor() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at settings, disk, clock and bus, and try what each account may and may not do",
		Long: `Looks at what grout needs: its settings, the data directory and its disk, secrets, and
the bus. With NATS_URL it asks the cluster: every node for its version and limits, the
streams for their settings and copies, the lease for who owns the state, and, for each
user whose password is set (MOZAIKS_NATS_PLATFORM_PASSWORD, …_CONSUMER_PASSWORD,
…_ADMIN_PASSWORD, …_PLUGIN_PASSWORD), whether it may do what it needs and reaches nothing
else. Beside a running server it looks at that one's bus. Nothing is changed.

What no client can see is said, too: sync_interval must be always on every node.

The exit code is 0 when nothing failed, and 1 when something did.`,
		Example: `  grout doctor
  grout doctor -o json
  grout doctor --accounts > accounts.conf   the accounts for the nodes of a cluster`,
		Args: cobra.NoArgs,
	}
	accounts := cmd.Flags().Bool("accounts", false, "print the accounts as configuration for the nodes of a cluster, and look at nothing")
	publishers := cmd.Flags().StringArray("publisher", nil, "with --accounts: a further publisher of commands, as name=app, once for each app; name=* is every app")
	format := outputFlag(cmd)
	app.AddFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		out := cmd.OutOrStdout()
		if *accounts {
			list, err := appPublishers(*publishers)
			if err == nil {
				_, err = io.WriteString(out, bus.ClusterAccounts(list))
			}
			return err
		}
		cfg, err := loadConfig(cmd)
		if err != nil {
			return err
		}
		ctx, stop := untilInterrupted(cmd.Context())
		defer stop()
		r := app.Doctor(ctx, cfg)
		if *format == "json" {
			err = printJSON(out, r)
		} else {
			err = printDoctor(out, r)
		}
		if err == nil && !r.OK {
			err = errUnwell
		}
		return err
	}
	return cmd
}

// appPublishers reads publishers and their apps.
func appPublishers(args []string) (list []bus.AppPublisher, err error) {
	for _, arg := range args {
		name, app, _ := strings.Cut(arg, "=")
		i := slices.IndexFunc(list, func(p bus.AppPublisher) bool { return p.Name == name })
		if i < 0 {
			i, list = len(list), append(list, bus.AppPublisher{Name: name})
		}
		list[i].Apps = append(list[i].Apps, app)
	}
	doors := bus.Doors{Publishers: list}
	if err := doors.Check(); err != nil {
		return nil, fmt.Errorf("--publisher: %w", err)
	}
	return list, nil
}

func printDoctor(w io.Writer, r app.DoctorReport) error {
	var b strings.Builder
	for _, e := range r.Exams {
		fmt.Fprintf(&b, "%-8s %s", e.Status, e.Check)
		if e.Detail != "" {
			fmt.Fprintf(&b, ": %s", e.Detail)
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}
