package main

import (
	"fmt"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"grout/cmd/grout/app"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Look at the settings, and at the configuration in the log",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConfigShow(), newConfigHistory())
	return cmd
}

func newConfigHistory() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Print every version of the configuration that is in the log",
		Long: `Configuration that decides what is counted reaches the rules only through the log, so
that a replay decides the same. This prints every version of it by name, the oldest
first. The server must be stopped.`,
		Args: cobra.NoArgs,
	}
	format := outputFlag(cmd)
	app.AddFlags(cmd.Flags(), "data_dir", "partitions")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(cmd)
		if err != nil {
			return err
		}
		list, err := app.ConfigHistory(cfg)
		if err != nil {
			return err
		}
		if *format == "json" {
			return printJSON(cmd.OutOrStdout(), list)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "PARTITION\tNAME\tSINCE\tSHA-256\tBYTES\tPOSITION\t")
		for _, v := range list {
			current := ""
			if v.Current {
				current = "current"
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%.12s\t%d\t%d\t%s\n", v.Partition, v.Name, v.Time.Format(time.RFC3339), v.Digest, v.Bytes, v.Position, current)
		}
		return w.Flush()
	}
	return cmd
}

func newConfigShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print every setting as serve would see it, without secrets",
		Args:  cobra.NoArgs,
	}
	withOrigin := cmd.Flags().Bool("origin", false, "print where each value came from")
	format := outputFlag(cmd)
	app.AddFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(cmd)
		if err != nil {
			return err
		}
		rows := cfg.Show()
		if *format == "json" {
			err = printJSON(cmd.OutOrStdout(), rows)
		} else {
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			for _, r := range rows {
				value := r.Value
				if value == "" {
					value = `""`
				}
				fmt.Fprintf(w, "%s\t%s", r.Name, value)
				if *withOrigin {
					fmt.Fprintf(w, "\t%s", r.Origin)
				}
				fmt.Fprintln(w)
			}
			err = w.Flush()
		}
		if err != nil {
			return fmt.Errorf("print settings: %w", err)
		}
		return cfg.Validate()
	}
	return cmd
}

// loadConfig reads the settings of a command and prints what is odd about them.
func loadConfig(cmd *cobra.Command) (app.Config, error) {
	cfg, warnings, err := app.Load(cmd.Flags(), os.Environ())
	if err == nil {
		printWarnings(cmd.ErrOrStderr(), warnings)
	}
	return cfg, err
}

// quietLogger shows errors only: for tools whose result is what they print.
func quietLogger(cmd *cobra.Command) *slog.Logger {
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelError}))
}
