package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"grout/cmd/grout/app"
)

var errNotRepaired = errors.New("not everything is repaired")

func newRepair() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Look at every file, and rebuild damaged stores from snapshots and the command stream",
		Long: `Looks at every file of a data directory: stores, snapshots, every message of the
streams, notes and secrets. It says what is damaged, and what it would do about it:

  a store that is damaged, missing, or older than the stream reaches back is rebuilt
  from the newest sound snapshot, or from nothing, and the command stream; the damaged
  file is kept in the directory quarantine
  messages of a stream that cannot be read are taken out of their file, so that those
  around them can be; the file as it was is kept in nats/damaged
  when what is gone from the command stream is applied already, a snapshot is taken and
  the stream is trimmed below it: from there on it can be replayed again

Nothing is changed before it has asked, or without --yes. It may be cut off at any
point and run again. The server must be stopped.

The exit code is 0 when there was nothing to do or everything is repaired, and 1 when
something is not: it says then what is missing, and what is possible.`,
		Example: `  grout repair --dry-run
  grout repair --yes -o json`,
		Args: cobra.NoArgs,
	}
	yes := cmd.Flags().Bool("yes", false, "do it without asking")
	dry := cmd.Flags().Bool("dry-run", false, "only say what is damaged and what would be done")
	partition := cmd.Flags().Int("partition", -1, "rebuild only the store of this partition")
	format := outputFlag(cmd)
	app.AddFlags(cmd.Flags(), "data_dir", "partitions", "fold_every")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(cmd)
		if err != nil {
			return err
		}
		if *partition >= cfg.Partitions || *partition < -1 {
			return usagef("there is no partition %d of %d", *partition, cfg.Partitions)
		}
		out := cmd.OutOrStdout()
		asked := asking{cmd: cmd, yes: *yes, dry: *dry, silent: *format == "json"}
		o := app.RepairOptions{Partition: *partition, Progress: progressLine(cmd.ErrOrStderr()), Confirm: asked.confirm}
		ctx, stop := untilInterrupted(cmd.Context())
		defer stop()
		r, err := app.Repair(ctx, cfg, o, quietLogger(cmd))
		o.Progress("")
		if err != nil && r == nil {
			return err
		}
		if *format == "json" {
			err = errors.Join(err, printJSON(out, r))
		} else {
			if asked.told {
				fmt.Fprintln(out)
			}
			err = errors.Join(err, printRepair(out, r))
		}
		if err == nil && !r.Whole() {
			err = errNotRepaired
		}
		return err
	}
	return cmd
}

// asking decides whether a repair may change anything.
type asking struct {
	cmd              *cobra.Command
	yes, dry, silent bool
	told             bool // the plan was printed
}

func (a *asking) confirm(r *app.RepairReport) bool {
	if a.dry || a.yes {
		return !a.dry
	}
	if a.silent || !isTerminal(a.cmd.InOrStdin()) {
		return false
	}
	out := a.cmd.OutOrStdout()
	progressLine(a.cmd.ErrOrStderr())("")
	a.told = true
	_ = printRepair(out, r)
	fmt.Fprint(out, "\nDo this? [y/N] ")
	line, _ := bufio.NewReader(a.cmd.InOrStdin()).ReadString('\n')
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes"
}

func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// progressLine shows what is being done in one line of a terminal; an empty text
// clears it. Elsewhere nothing is shown.
func progressLine(w io.Writer) func(string) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func(string) {}
	}
	return func(text string) { fmt.Fprintf(w, "\r\x1b[K%s", text) }
}

func printRepair(w io.Writer, r *app.RepairReport) error {
	var b strings.Builder
	for _, f := range r.Files {
		if !f.Sound {
			fmt.Fprintf(&b, "damaged: %s %s: %s\n", f.Kind, f.Path, f.What)
		}
	}
	for _, c := range r.Streams {
		fmt.Fprintf(&b, "stream %s: %d messages from %d to %d in %d files\n", c.Stream, c.Messages, c.First, c.Last, c.Blocks)
	}
	for _, s := range r.Steps {
		state := "to do"
		switch {
		case s.Fault != "":
			state = "failed"
		case s.Done:
			state = "done"
		}
		where := s.Path
		if where == "" {
			where = fmt.Sprintf("partition %d", s.Partition)
		}
		fmt.Fprintf(&b, "%s: %s: %s\n", state, where, s.What)
		if s.Kept != "" {
			fmt.Fprintf(&b, "  the damaged file is now %s\n", s.Kept)
		}
		if s.Fault != "" {
			fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(s.Fault, "\n", "\n  "))
		}
	}
	for _, m := range r.Missing {
		fmt.Fprintf(&b, "not repairable: %s\n", m)
	}
	if r.Damaged() == 0 && len(r.Steps) == 0 && len(r.Missing) == 0 {
		b.WriteString("nothing is damaged\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
