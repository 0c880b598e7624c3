package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"grout/cmd/grout/app"
)

var errDiffers = errors.New("the store is not what its command stream says; keep the data directory as it is, and restore the store from a snapshot by moving its file away and starting grout")

func newVerify() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Replay the command stream and compare it with the store",
		Long: `Applies the command stream of a data directory to a copy of its oldest snapshot, or
to an empty store, and compares the result with the store that is there, row by
row. Every row that differs is named, with the stream sequence it belongs to where
it has one. The server must be stopped; nothing in the data directory is changed.

The exit code is 0 when nothing differs and 1 when something does.`,
		Example: `  grout verify
  grout verify --from-start -o json`,
		Args: cobra.NoArgs,
	}
	fromStart := cmd.Flags().Bool("from-start", false, "begin with an empty store (needs a stream that was never trimmed)")
	format := outputFlag(cmd)
	app.AddFlags(cmd.Flags(), "data_dir", "partitions")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(cmd)
		if err != nil {
			return err
		}
		list, err := app.Verify(cmd.Context(), cfg, *fromStart, quietLogger(cmd))
		if err != nil {
			return err
		}
		if *format == "json" {
			err = printJSON(cmd.OutOrStdout(), list)
		} else {
			err = printVerification(cmd.OutOrStdout(), list)
		}
		if err != nil {
			return err
		}
		for _, v := range list {
			if len(v.Differences) > 0 {
				return errDiffers
			}
		}
		return nil
	}
	return cmd
}

func printVerification(w io.Writer, list []app.Verification) error {
	for _, v := range list {
		began := "an empty store"
		if v.From > 0 {
			began = fmt.Sprintf("the snapshot at %d", v.From)
		}
		verdict := "nothing differs"
		if len(v.Differences) > 0 {
			verdict = "it differs:"
		}
		if _, err := fmt.Fprintf(w, "partition %d: replayed %d groups from %s to %d, compared %d rows: %s\n",
			v.Partition, v.Messages, began, v.To, v.Rows, verdict); err != nil {
			return err
		}
		for _, d := range v.Differences {
			at := ""
			if d.Sequence > 0 {
				at = fmt.Sprintf(" (stream sequence %d)", d.Sequence)
			}
			if _, err := fmt.Fprintf(w, "  %s in bucket %s: %s%s\n", d.What, d.Bucket, d.Key, at); err != nil {
				return err
			}
		}
	}
	return nil
}
