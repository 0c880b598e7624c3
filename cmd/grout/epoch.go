package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"grout/cmd/grout/app"
)

func newEpoch() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "epoch",
		Short: "Look at the epochs of the command stream, and start one",
		Long: `A partition's store applies its command stream message by message. When the stream is
no longer the one that the store has applied, grout stops instead of guessing. A new
epoch has the stream go on from the store as it is.

A stream that has only lost messages which the store has applied gets its new epoch
from the next start, by itself and with an alarm. The commands here are for the other
cases: a stream of another history, or one with a hole.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newEpochShow(), newEpochStart())
	return cmd
}

func newEpochShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show", Short: "Compare each partition's store with its stream", Args: cobra.NoArgs,
		Long: "Prints each partition's epoch, how far it has applied its stream, the stream's bounds,\nand the last message that both have. The server must be stopped.",
	}
	format := outputFlag(cmd)
	app.AddFlags(cmd.Flags(), "data_dir", "partitions")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(cmd)
		if err != nil {
			return err
		}
		list, err := app.Epochs(cmd.Context(), cfg, quietLogger(cmd))
		if err != nil {
			return err
		}
		if *format == "json" {
			return printJSON(cmd.OutOrStdout(), list)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "PARTITION\tEPOCH\tAPPLIED\tCOMMON\tSTREAM\tLAST OF PARTITION")
		for _, st := range list {
			fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d-%d\t%d\n", st.Partition, st.Epoch, st.Applied, st.Common, st.First, st.Last, st.LastOwn)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		for _, st := range list {
			if st.Finding != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "\npartition %d: %s\n", st.Partition, st.Finding)
			}
		}
		return nil
	}
	return cmd
}

var errNotConfirmed = errors.New("nothing was done: it was not answered with yes")

func newEpochStart() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Have a partition's command stream go on from its store",
		Long: `Starts a new epoch: the store of the partition is taken for the truth as it is, and its
stream goes on from there. Groups of commands that the stream holds and the store has
not applied are never applied, whoever wrote them. Snapshots of older epochs can no
longer be used, so a new one is taken at once. This cannot be undone; a copy of the
data directory made before it can be put back. The server must be stopped.`,
		Example: "  grout epoch show\n  grout epoch start --partition 0",
		Args:    cobra.NoArgs,
	}
	partition := cmd.Flags().Int("partition", -1, "partition that starts the epoch")
	yes := cmd.Flags().Bool("yes", false, "do it without asking")
	app.AddFlags(cmd.Flags(), "data_dir", "partitions")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(cmd)
		if err != nil {
			return err
		}
		if *partition < 0 {
			return usagef("which partition? give --partition")
		}
		if !*yes {
			if err := confirmEpoch(cmd, *partition); err != nil {
				return err
			}
		}
		if err := app.NewEpoch(cmd.Context(), cfg, *partition, quietLogger(cmd)); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "partition %d goes on in a new epoch; a snapshot of it was taken\n", *partition)
		return nil
	}
	return cmd
}

func confirmEpoch(cmd *cobra.Command, partition int) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "Partition %d will go on from its store as it is. Groups in its stream that the store has not\napplied will never be applied, and older snapshots become useless. Go on? Type yes: ", partition)
	line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return errNotConfirmed
	}
	return nil
}
