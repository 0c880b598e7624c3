package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"grout/cmd/grout/app"
)

func newClock() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clock",
		Short: "Look at the time up to which commands were applied, and reset it",
		Long: `Commands are judged by the time at which they were taken, which never goes back.
After the machine's clock was in the future, that time is ahead of the truth, and
grout refuses commands (503, CLOCK_JUMP) instead of judging them wrongly.

When the clock is right again, stop the server and run grout clock reset.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newClockCommand("show", "Print the time of each partition beside the clock", true))
	cmd.AddCommand(newClockCommand("reset", "Set the time of partitions that are ahead of the clock back to now", false))
	return cmd
}

func newClockCommand(name, short string, dry bool) *cobra.Command {
	cmd := &cobra.Command{Use: name, Short: short, Long: short + ". The server must be stopped.", Args: cobra.NoArgs}
	format := outputFlag(cmd)
	app.AddFlags(cmd.Flags(), "data_dir", "partitions")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(cmd)
		if err != nil {
			return err
		}
		list, err := app.ResetClock(cmd.Context(), cfg, dry, quietLogger(cmd))
		if err != nil {
			return err
		}
		if *format == "json" {
			return printJSON(cmd.OutOrStdout(), list)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "PARTITION\tAPPLIED UP TO\tCLOCK\t")
		for _, st := range list {
			verdict := ""
			switch {
			case st.Reset:
				verdict = "set back to the clock"
			case st.Applied.After(st.Clock):
				verdict = fmt.Sprintf("%s ahead", st.Applied.Sub(st.Clock).Round(time.Second))
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", st.Partition, st.Applied.Format(time.RFC3339), st.Clock.Format(time.RFC3339), verdict)
		}
		return w.Flush()
	}
	return cmd
}
