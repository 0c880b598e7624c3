package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
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

When the clock is right again, stop the server and run grout clock reset. It is
refused when something has expired that would be needed again.

Every hour a tick is written into the log. When two ticks are more than an hour
apart the clock has made a step (or grout did not run), and nothing expires until
24 hourly ticks have followed; clock show tells.`,
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
		kept := slices.ContainsFunc(list, func(st app.ClockState) bool { return st.Refused != "" })
		if *format == "json" {
			err = printJSON(cmd.OutOrStdout(), list)
		} else {
			err = printClock(cmd.OutOrStdout(), list)
		}
		if err == nil && kept {
			err = errClockKept
		}
		return err
	}
	return cmd
}

func printClock(out io.Writer, list []app.ClockState) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "PARTITION\tAPPLIED UP TO\tCLOCK\tLAST TICK\tSTEPS\tEXPIRED UNTIL\t")
	for i := range list {
		st := &list[i]
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\t%s\n", st.Partition, instantOf(st.Applied), instantOf(st.Clock), instantOf(st.LastTick), st.Steps,
			instantOf(st.ExpiredUntil), clockVerdict(st))
	}
	return w.Flush()
}

var errClockKept = errors.New("the time of a partition may not be set back")

// clockVerdict says what is odd about the time of a partition.
func clockVerdict(st *app.ClockState) string {
	var verdicts []string
	switch {
	case st.Reset:
		verdicts = append(verdicts, "set back to the clock")
	case st.Refused != "":
		verdicts = append(verdicts, "not set back: "+st.Refused)
	case st.Applied.After(st.Clock):
		verdicts = append(verdicts, fmt.Sprintf("%s ahead", st.Applied.Sub(st.Clock).Round(time.Second)))
	}
	if st.WaitTicks > 0 {
		verdicts = append(verdicts, fmt.Sprintf("a step of %s at %s: nothing expires until %d hourly ticks have followed",
			time.Duration(st.StepSeconds)*time.Second, instantOf(st.LastStep), st.WaitTicks))
	}
	return strings.Join(verdicts, "; ")
}

// instantOf prints an instant, or a dash for none.
func instantOf(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format(time.RFC3339)
}
