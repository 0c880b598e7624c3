package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"grout/cmd/grout/app"
)

// followPause is how often a log that is followed is looked at.
const followPause = 200 * time.Millisecond

func newPluginsLogs() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "Print what a plugin has printed",
		Long: `Prints the end of a plugin's log: what it wrote to standard output and standard error,
and what grout noted of its workers. It reads files of the data directory, so a server
need not run. Logs are bounded; what is oldest goes first.`,
		Example: `  grout plugins logs greet
  grout plugins logs greet --lines 20 --follow`,
		Args: cobra.ExactArgs(1),
	}
	app.AddFlags(cmd.Flags(), "data_dir")
	lines := cmd.Flags().IntP("lines", "n", 100, "lines to print; 0 is all")
	follow := cmd.Flags().BoolP("follow", "f", false, "go on printing what comes, until Ctrl-C")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !pluginNames.MatchString(args[0]) {
			return usagef("%q is no name of a plugin", abbreviate(args[0]))
		}
		if *lines < 0 {
			return usagef("--lines is at least 0")
		}
		cfg, err := loadConfig(cmd)
		if err != nil {
			return err
		}
		l := logReader{paths: app.PluginLogs(cfg.DataDir, args[0]), out: &plainLines{out: cmd.OutOrStdout()}}
		defer l.close()
		found, err := l.end(*lines)
		if err != nil {
			return err
		}
		if !found && !*follow {
			return fmt.Errorf("plugin %s has no log in %s: it has printed nothing there", args[0], cfg.DataDir)
		}
		if !*follow {
			return nil
		}
		ctx, stop := untilInterrupted(cmd.Context())
		defer stop()
		return l.follow(ctx)
	}
	return cmd
}

// logReader reads a log that is in several files, of which the last is written to and
// may become the one before it at any time.
type logReader struct {
	paths []string // the oldest first
	out   io.Writer
	last  *os.File // where it stands in the newest one
}

func (l *logReader) close() {
	if l.last != nil {
		l.last.Close()
	}
}

// end prints the last lines, and reports whether there is a log at all.
func (l *logReader) end(lines int) (found bool, err error) {
	var text []byte
	for i, path := range l.paths {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("read the log: %w", err)
		}
		part, err := io.ReadAll(f)
		if err != nil {
			f.Close()
			return false, fmt.Errorf("read the log: %w", err)
		}
		found, text = true, append(text, part...)
		if i < len(l.paths)-1 {
			f.Close()
			continue
		}
		l.last = f
	}
	_, err = l.out.Write(lastLines(text, lines))
	return found, err
}

// lastLines gives the end of a text; all of it when n is 0.
func lastLines(text []byte, n int) []byte {
	if n == 0 {
		return text
	}
	at := len(bytes.TrimSuffix(text, []byte("\n")))
	for ; n > 0 && at >= 0; n-- {
		at = bytes.LastIndexByte(text[:at], '\n')
	}
	return text[at+1:]
}

// follow prints what is written until the context ends.
func (l *logReader) follow(ctx context.Context) error {
	for {
		if err := l.more(); err != nil {
			return err
		}
		if sleep(ctx, followPause) != nil {
			return nil
		}
	}
}

// more prints what was written since, to the end of the file that was the newest then,
// and from the beginning of the one that is now.
func (l *logReader) more() error {
	path := l.paths[len(l.paths)-1]
	if l.last == nil {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		l.last = f
	}
	now, err := os.Stat(path) // before reading: what is written between is read the next time
	if _, err := io.Copy(l.out, l.last); err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	have, err2 := l.last.Stat()
	if err2 != nil {
		return fmt.Errorf("read the log: %w", err2)
	}
	if err == nil && !os.SameFile(now, have) {
		l.last.Close()
		l.last = nil
		return l.more()
	}
	return nil
}

// plainLines makes what plugins have written harmless for a terminal, line by line.
type plainLines struct {
	out  io.Writer
	rest []byte // of a line that has not ended
}

// Write implements io.Writer.
func (p *plainLines) Write(text []byte) (int, error) {
	p.rest = append(p.rest, text...)
	end := bytes.LastIndexByte(p.rest, '\n') + 1
	var b strings.Builder
	for line := range strings.Lines(string(p.rest[:end])) {
		b.WriteString(printable(strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "    ")))
		b.WriteByte('\n')
	}
	p.rest = append(p.rest[:0], p.rest[end:]...)
	_, err := io.WriteString(p.out, b.String())
	return len(text), err
}
