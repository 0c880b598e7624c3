package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// newRoot builds the whole command tree. It sets started as soon as the command
// line has been understood.
func newRoot(started *bool) *cobra.Command {
	root := &cobra.Command{
		Use:   "grout",
		Short: "Durable, exactly-once usage counting between a platform and its apps",
		Long: `grout takes usage events over HTTP, counts every event exactly once, answers
questions about the sums, and publishes what happened as CloudEvents on NATS.
A 200 is given only for what is on disk and counted; a 202 for what is on disk.

It is one program with its own embedded NATS JetStream server and store. Without
any setting it runs in development mode on this machine only, with generated keys.`,
		Example: `  grout demo                           look at it with made-up traffic
  grout serve                          start on 127.0.0.1:8080, data in ./data
  grout ingest trace.csv --user me --model gpt-4 --shift-to-now
  grout usage --from -24h --window hour --chart
  grout entitlements explain --user ann --tokens 2000
  grout config show --origin           every setting and where it came from`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRun: func(*cobra.Command, []string) {
			*started = true
		},
	}
	root.AddCommand(newServe(), newIngest(), newUsage(), newToken(), newEntitlements(), newBudgets(), newPlugins(), newRuns(), newDLQ(), newEvents(), newWebhooks(), newVerify(), newRepair(), newDoctor(), newClock(), newEpoch(), newDemo(), newBench(), newConfig(), newVersion(), newPluginWorker())
	return root
}

// output is the flag -o of commands that print data.
type output string

func (o *output) String() string { return string(*o) }

// Type names the choices in the help text.
func (o *output) Type() string { return "text|json" }

// Set takes one of the choices.
func (o *output) Set(s string) error {
	if s != "text" && s != "json" {
		return fmt.Errorf("the choices are text and json")
	}
	*o = output(s)
	return nil
}

func outputFlag(cmd *cobra.Command) *output {
	o := output("text")
	cmd.Flags().VarP(&o, "output", "o", "how to print")
	return &o
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func printWarnings(w io.Writer, warnings []string) {
	for _, text := range warnings {
		fmt.Fprintf(w, "grout: warning: %s\n", text)
	}
}
