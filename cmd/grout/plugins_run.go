package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"grout/cmd/grout/app"
	"grout/schemas"
)

// noticed is how long a running grout may take to see a plugin that is new on disk, with
// some room, and noticePause how often it is asked meanwhile.
const (
	noticed     = 3 * time.Second
	noticePause = 100 * time.Millisecond
)

func newPluginsRun() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run NAME [JSON]",
		Short: "Run a plugin as a user and print its result",
		Long: `Sends a JSON object ({} without one, - for the standard input, @file for a file) to a
plugin of a running grout and prints what it returns. The id of the run is told on
standard error; grout runs show prints what became of it, grout plugins logs what the
plugin printed.`,
		Example: `  grout plugins run greet '{"name": "Ann"}'
  grout plugins run greet @input.json --user ann --role editor
  grout plugins run report --async`,
		Args: cobra.RangeArgs(1, 2),
	}
	format := outputFlag(cmd)
	f := cmd.Flags()
	as := userFlags(f, "plugins_path")
	dryRun := f.Bool("dry-run", false, "only ask whether it would be allowed and what it would use up")
	async := f.Bool("async", false, "do not wait for the result")
	key := f.String("key", "", "Idempotency-Key: the same again within 24 hours gives the first result")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		input, err := pluginInput(args[1:], cmd.InOrStdin(), *dryRun)
		if err != nil {
			return err
		}
		header := http.Header{}
		if *async {
			header.Set("Prefer", "respond-async")
		}
		if *key != "" {
			header.Set("Idempotency-Key", *key)
		}
		cfg, _, err := app.Load(f, os.Environ())
		if err != nil {
			return err
		}
		return as.withServer(cmd, func(ctx context.Context, to *sender) error {
			to.client.Timeout = 0 // a plugin may take long; the server keeps its limits
			run := execution{name: args[0], input: input, header: header, noticed: noticedWithin(&cfg, args[0], time.Now())}
			got, err := run.ask(ctx, to)
			if err != nil {
				return err
			}
			return got.print(cmd, *format)
		})
	}
	return cmd
}

// pluginInput reads the object that a plugin is to get.
func pluginInput(args []string, in io.Reader, dryRun bool) ([]byte, error) {
	text := []byte("{}")
	if len(args) > 0 {
		text = []byte(args[0])
	}
	var err error
	switch path, file := strings.CutPrefix(string(text), "@"); {
	case string(text) == "-":
		text, err = io.ReadAll(io.LimitReader(in, maxManifestFile))
	case file:
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the input: %w", err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil || fields == nil {
		return nil, usagef("%q is no JSON object", abbreviate(string(text)))
	}
	if !dryRun {
		return text, nil
	}
	fields["_entitlement_dry_run"] = json.RawMessage("true")
	return json.Marshal(fields)
}

// noticedWithin is how long a plugin may be unknown yet: it is on this machine and was
// changed just now.
func noticedWithin(cfg *app.Config, name string, now time.Time) time.Duration {
	info, err := os.Stat(filepath.Join(cfg.PluginsPath, filepath.Base(name)))
	if err != nil {
		return 0
	}
	return max(0, noticed-now.Sub(info.ModTime()))
}

// execution is one call of a plugin.
type execution struct {
	name    string
	input   []byte
	header  http.Header
	noticed time.Duration
}

// executed is what was answered to it.
type executed struct {
	run    string
	status int
	text   []byte
	took   time.Duration
}

func (e *execution) ask(ctx context.Context, to *sender) (*executed, error) {
	for end := time.Now().Add(e.noticed); ; {
		got, code, err := e.once(ctx, to)
		if code != schemas.CodeNotFound || time.Now().After(end) {
			return got, err
		}
		if err := sleep(ctx, noticePause); err != nil {
			return nil, err
		}
	}
}

func (e *execution) once(ctx context.Context, to *sender) (*executed, schemas.Code, error) {
	target := to.base.JoinPath("/api/execute/", url.PathEscape(e.name))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(e.input))
	if err != nil {
		return nil, "", err
	}
	req.Header = e.header.Clone()
	req.Header.Set("Content-Type", "application/json")
	to.identify(req)
	start := time.Now()
	resp, err := to.client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return nil, "", fmt.Errorf("read answer: %w", err)
	}
	got := &executed{resp.Header.Get("X-Mozaiks-Run-Id"), resp.StatusCode, text, time.Since(start)}
	if resp.StatusCode < 300 {
		return got, "", nil
	}
	code, err := got.refusal(e.name, to.hint())
	return nil, code, err
}

// refusal makes an error of an answer that is no success, and says where to look.
func (g *executed) refusal(name, hint string) (schemas.Code, error) {
	var problem struct {
		Detail    string       `json:"detail"`
		ErrorCode schemas.Code `json:"error_code"`
	}
	if json.Unmarshal(g.text, &problem) != nil || problem.Detail == "" {
		problem.Detail = http.StatusText(g.status)
	}
	text := fmt.Sprintf("%d %s", g.status, printable(problem.Detail))
	if problem.ErrorCode != "" {
		text += fmt.Sprintf(" (%s)", printable(string(problem.ErrorCode)))
	}
	switch {
	case g.run != "":
		text += fmt.Sprintf("; run %s, see grout plugins logs %s", printable(g.run), name)
	case g.status == http.StatusUnauthorized:
		text += "; " + hint
	case problem.ErrorCode == schemas.CodePluginLoadFailed:
		text += fmt.Sprintf("; grout plugins list has the reason, grout plugins check %s tries it", name)
	case problem.ErrorCode == schemas.CodeNotFound && strings.HasPrefix(problem.Detail, "Plugin "):
		text += "; see grout plugins list"
	}
	return problem.ErrorCode, errors.New(text)
}

func (g *executed) print(cmd *cobra.Command, format output) error {
	if g.run != "" {
		state := "completed after " + g.took.Round(100*time.Microsecond).String()
		if g.status == http.StatusAccepted {
			state = "accepted"
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "run %s %s\n", printable(g.run), state)
	}
	return printAnswer(cmd, format, g.text, indented)
}
