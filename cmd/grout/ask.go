package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"grout/cmd/grout/app"
)

// serverFlags declares what every command needs that asks a running grout.
func serverFlags(f *pflag.FlagSet) {
	app.AddFlags(f, "data_dir")
	f.String("url", "http://127.0.0.1:8080", "address of the server")
	f.String("key-file", "", "file with the internal key")
}

// askFlags declares the same and an app to ask about.
func askFlags(f *pflag.FlagSet) (appID *string) {
	serverFlags(f)
	return f.String("app", "", "app to ask about (default: MOZAIKS_APP_ID, else "+app.DefaultConfig().AppID+")")
}

// appOf is the app of a flag, of the environment, or the one without either.
func appOf(flag string) string {
	if flag != "" {
		return flag
	}
	if own := os.Getenv("MOZAIKS_APP_ID"); own != "" {
		return own
	}
	return app.DefaultConfig().AppID
}

// whoFlags declares whom of an app a command is about.
func whoFlags(f *pflag.FlagSet) (user, tenant *string) {
	return f.String("user", "", "user of the app"), f.String("tenant", "", "tenant of the app")
}

// addTime puts the instant of a flag into a query, when there is one. The parameter has the
// flag's name, with underscores.
func addTime(q url.Values, flag, text string) error {
	if text == "" {
		return nil
	}
	at, err := parseWhen(text, time.Now())
	if err != nil {
		return usagef("--%s: %w", flag, err)
	}
	q.Set(strings.ReplaceAll(flag, "-", "_"), instant(at.Time))
	return nil
}

// withServer runs what needs a client of the flags.
func withServer(cmd *cobra.Command, do func(ctx context.Context, to *sender) error) error {
	to, err := readerOf(cmd.Flags())
	if err != nil {
		return err
	}
	defer to.close()
	ctx, stop := untilInterrupted(cmd.Context())
	defer stop()
	return do(ctx, to)
}

// ask makes one request and gives the answer to a success.
func (s *sender) ask(ctx context.Context, method, path string, q url.Values, body []byte) ([]byte, error) {
	target := s.base.JoinPath(path)
	target.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	s.identify(req)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	target.RawQuery = ""
	switch {
	case resp.StatusCode == http.StatusAccepted:
		return nil, fmt.Errorf("%s %s: it is stored, and was not applied in time; the same again gives the result", method, target)
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return nil, s.refusal(method, target, resp.StatusCode, text, 0)
	}
	return text, nil
}

// printAnswer prints an answer as it came, or by a function that reads it.
func printAnswer(cmd *cobra.Command, format output, text []byte, print func(io.Writer, []byte) error) error {
	if format == "json" {
		_, err := cmd.OutOrStdout().Write(append(text, '\n'))
		return err
	}
	return print(cmd.OutOrStdout(), text)
}
