package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"grout/cmd/grout/app"
)

var (
	errDiffers    = errors.New("the store is not what its command stream says; keep the data directory as it is, and restore the store from a snapshot by moving its file away and starting grout")
	errUnverified = errors.New("not every partition could be verified")
)

func newVerify() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Replay the command stream and compare it with the store",
		Long: `Applies the command stream of a data directory to a copy of its oldest snapshot, or
to an empty store, and compares the result with the store that is there, row by
row: for each bucket the number of rows, a digest folded over all of them on both
sides, the rows that differ by name, and the first message about which the two
disagree. The counters of budgets are counted again from the usage and the open
reservations in the store, and must be the same. Nothing in the data directory is changed; the copy is made in TMPDIR. Every
store file is checked first; one that is damaged is told as such, and the others are
still verified.

While a server runs on the data directory, that server is asked for a snapshot of
now, over NATS as its operator (the password is the one the server has:
MOZAIKS_NATS_ADMIN_PASSWORD, or the one it made in its data directory), and the
stream is replayed from an older snapshot up to that one. So the running store is
proven at a fixed position while it goes on working.

Exit codes: 0 every partition equals its replay; 1 one differs or is damaged;
2 one could not be verified, and none differs.`,
		Example: `  grout verify
  grout verify --from-start -o json`,
		Args: cobra.NoArgs,
	}
	fromStart := cmd.Flags().Bool("from-start", false, "begin with an empty store (needs a stream that was never trimmed)")
	replicaDigest := cmd.Flags().Bool("replica-digest", false, "tell the SHA-256 of the replayed store's contents")
	_ = cmd.Flags().MarkHidden("replica-digest")
	format := outputFlag(cmd)
	app.AddFlags(cmd.Flags(), "data_dir", "partitions")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(cmd)
		if err != nil {
			return exitError{err, exitUnverified}
		}
		progress := replayProgress{w: cmd.ErrOrStderr()}
		list, err := app.Verify(cmd.Context(), cfg, app.VerifyOptions{
			FromStart: *fromStart, ReplicaDigest: *replicaDigest, Progress: progress.told(),
		}, quietLogger(cmd))
		progress.clear()
		if err != nil {
			return exitError{err, exitUnverified}
		}
		if *format == "json" {
			err = printJSON(cmd.OutOrStdout(), list)
		} else {
			err = printVerifications(cmd.OutOrStdout(), list)
		}
		if err != nil {
			return exitError{err, exitUnverified}
		}
		return judgeVerifications(list)
	}
	return cmd
}

func judgeVerifications(list []app.Verification) error {
	unverified := false
	for i := range list {
		switch list[i].Verdict {
		case app.VerdictDiffers, app.VerdictDamaged:
			return exitError{errDiffers, exitFailure}
		case app.VerdictUnverified:
			unverified = true
		}
	}
	if unverified {
		return exitError{errUnverified, exitUnverified}
	}
	return nil
}

// replayProgress tells on a terminal how far a replay is.
type replayProgress struct {
	w     io.Writer
	drawn bool
}

func (p *replayProgress) told() func(partition int, done, total uint64) {
	if f, ok := p.w.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return func(partition int, done, total uint64) {
		p.clear()
		fmt.Fprintf(p.w, "partition %d: %s of %s groups replayed", partition, thousands(int64(done)), thousands(int64(max(done, total))))
		p.drawn = true
	}
}

func (p *replayProgress) clear() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

func printVerifications(w io.Writer, list []app.Verification) error {
	var b strings.Builder
	for i := range list {
		printVerification(&b, &list[i])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// maxBudgets bounds the counters that are listed.
const maxBudgets = 10

func printVerification(b *strings.Builder, v *app.Verification) {
	fmt.Fprintf(b, "partition %d: %s\n", v.Partition, verdictText(v))
	for _, note := range v.Notes {
		fmt.Fprintf(b, "  note: %s\n", note)
	}
	if v.Damage != nil {
		for _, d := range v.Damage.Damage {
			fmt.Fprintf(b, "  %s\n", d.Error())
		}
		if more := v.Damage.Damaged - int64(len(v.Damage.Damage)); more > 0 {
			fmt.Fprintf(b, "  and %d more\n", more)
		}
	}
	if len(v.Buckets) > 0 {
		printBuckets(b, v)
	}
	if d := v.Diverges; d != nil {
		fmt.Fprintf(b, "  the state diverges from message %d", d.Sequence)
		if d.Epoch > 1 {
			fmt.Fprintf(b, " of epoch %d", d.Epoch)
		}
		if !d.StoredAt.IsZero() {
			fmt.Fprintf(b, ", stored %s", d.StoredAt.UTC().Format(time.RFC3339Nano))
		}
		b.WriteString(", on\n")
	}
	for _, d := range v.Differences {
		fmt.Fprintf(b, "  %s: %s (%s %s)\n", d.What, d.Name, d.Bucket, d.Key)
	}
	if more := v.Differing - int64(len(v.Differences)); more > 0 {
		fmt.Fprintf(b, "  and %d more rows\n", more)
	}
	for _, d := range v.Budgets[:min(len(v.Budgets), maxBudgets)] {
		fmt.Fprintf(b, "  budget of app %q, %s %q: %s of %s is %s, a recount gives %s\n",
			d.AppID, d.Scope, d.ScopeID, d.What, d.Allocation, thousands(d.Counted), thousands(d.Recounted))
	}
	if more := len(v.Budgets) - maxBudgets; more > 0 {
		fmt.Fprintf(b, "  and %d more counters\n", more)
	}
	for _, d := range v.Reserved[:min(len(v.Reserved), maxBudgets)] {
		fmt.Fprintf(b, "  limit %q of plugin %q, app %q, %s %q: %s is set aside, the open runs come to %s\n",
			d.Limit, d.Plugin, d.AppID, d.Scope, d.ScopeID, thousands(d.Reserved), thousands(d.Recounted))
	}
	if more := len(v.Reserved) - maxBudgets; more > 0 {
		fmt.Fprintf(b, "  and %d more limits\n", more)
	}
	if v.ReplicaSHA256 != "" {
		fmt.Fprintf(b, "  replica sha256 %s\n", v.ReplicaSHA256)
	}
}

func verdictText(v *app.Verification) string {
	switch v.Verdict {
	case app.VerdictDamaged:
		text := "DAMAGED"
		if v.Damage != nil {
			text += fmt.Sprintf(": %d places of %s are not what was written", v.Damage.Damaged, v.Damage.Path)
		}
		if v.Reason != "" {
			text += ": " + v.Reason
		}
		return text
	case app.VerdictUnverified:
		return "COULD NOT BE VERIFIED: " + v.Reason
	}
	began := "an empty store"
	if v.Snapshot != "" {
		began = fmt.Sprintf("the snapshot at %d", v.From)
	}
	text := fmt.Sprintf("replayed %s groups from %s to %d, compared %s rows", thousands(v.Messages), began, v.To, thousands(v.Rows))
	if v.SHA256 != "" {
		text += fmt.Sprintf(" with the running store (snapshot %s, SHA-256 %s)", v.Compared, v.SHA256)
	}
	if v.Verdict == app.VerdictDiffers {
		text = fmt.Sprintf("%s: %s DIFFER", text, thousands(v.Differing))
		if n := len(v.Budgets); n > 0 {
			text += fmt.Sprintf(", and %s counters of budgets are not what a recount gives", thousands(int64(n)))
		}
		if n := len(v.Reserved); n > 0 {
			text += fmt.Sprintf(", and of %s limits another amount is set aside than the open runs come to", thousands(int64(n)))
		}
		return text
	}
	return text + ": nothing differs"
}

func printBuckets(b *strings.Builder, v *app.Verification) {
	w := tabwriter.NewWriter(b, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "  BUCKET\tROWS\tDIFFERING\tDIGEST OF THE STORE\tOF THE REPLAY")
	for i := range v.Buckets {
		c := &v.Buckets[i]
		fmt.Fprintf(w, "  %s\t%d\t%d\t%s\t%s\n", c.Bucket, c.Rows, c.Differing, c.Store.Digest, c.Replica.Digest)
	}
	_ = w.Flush()
}
