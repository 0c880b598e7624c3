package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"github.com/spf13/cobra"
)

func newEntitlements() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "entitlements",
		Short: "Look at what apps, tenants and users may do, and set it",
		Long: `Asks a running grout. What somebody may do follows from manifests, which a platform
syncs for an app, a tenant or a user; from the manifest of this instance below all of
them (MOZAIKS_ENTITLEMENT_SOURCE); from the catalogue of plans; and from what is used.

The key comes from --key-file, else from INTERNAL_API_KEY, else from the secrets
which a grout on this machine keeps in its data directory.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newEntitlementsGet(), newEntitlementsSet(), newEntitlementsHistory(), newEntitlementsExplain())
	return cmd
}

func newEntitlementsGet() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get",
		Short: "Print what an app, a tenant or a user is entitled to, and how its budgets stand",
		Example: `  grout entitlements get --app shop
  grout entitlements get --app shop --user ann --as-of 2026-01-31`,
		Args: cobra.NoArgs,
	}
	format := outputFlag(cmd)
	appID := askFlags(cmd.Flags())
	user, tenant := whoFlags(cmd.Flags())
	asOf := cmd.Flags().String("as-of", "", "by what held at this time: 2026-01-31T08:00:00Z, 2026-01-31, yesterday, -24h")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q := whoQuery(*user, *tenant)
		if err := addTime(q, "as-of", *asOf); err != nil {
			return err
		}
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			text, err := to.ask(ctx, http.MethodGet, "/api/v1/entitlements/"+url.PathEscape(appOf(*appID)), q, nil)
			if err != nil {
				return err
			}
			return printAnswer(cmd, *format, text, printEntitled)
		})
	}
	return cmd
}

func whoQuery(user, tenant string) url.Values {
	q := url.Values{}
	for name, value := range map[string]string{"user_id": user, "tenant_id": tenant} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q
}

func newEntitlementsSet() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set FILE",
		Short: "Store a manifest, as a platform would sync it",
		Long: `Sends a manifest (JSON; - is the standard input) to a running grout. It replaces the one
of its app, tenant or user whole. The same one again changes nothing.`,
		Example: `  grout entitlements set manifest.json
  grout entitlements get --app shop -o json > before.json`,
		Args: cobra.ExactArgs(1),
	}
	format := outputFlag(cmd)
	_ = askFlags(cmd.Flags())
	_ = cmd.Flags().MarkHidden("app") // the manifest names it
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		manifest, err := readManifest(args[0], cmd.InOrStdin())
		if err != nil {
			return err
		}
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			text, err := to.ask(ctx, http.MethodPost, "/api/internal/entitlement/sync", nil, manifest)
			if err != nil {
				return err
			}
			return printAnswer(cmd, *format, text, printSynced)
		})
	}
	return cmd
}

const maxManifestFile = 16 << 20

func readManifest(path string, in io.Reader) ([]byte, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read manifest: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxManifestFile+1))
	if err == nil && len(text) > maxManifestFile {
		err = errors.New("it is too large to be one")
	}
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return text, nil
}

func newEntitlementsHistory() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Print the manifests that an app, a tenant or a user has had, newest first",
		Args:  cobra.NoArgs,
	}
	format := outputFlag(cmd)
	appID := askFlags(cmd.Flags())
	user, tenant := whoFlags(cmd.Flags())
	limit := cmd.Flags().Int("limit", 20, "versions on a page, at most 100")
	cursor := cmd.Flags().String("cursor", "", "next_cursor of the page before")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q := whoQuery(*user, *tenant)
		q.Set("limit", strconv.Itoa(*limit))
		if *cursor != "" {
			q.Set("cursor", *cursor)
		}
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			text, err := to.ask(ctx, http.MethodGet, "/api/v1/entitlements/"+url.PathEscape(appOf(*appID))+"/versions", q, nil)
			if err != nil {
				return err
			}
			return printAnswer(cmd, *format, text, printVersions)
		})
	}
	return cmd
}

func newEntitlementsExplain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Tell why something is allowed or refused, rule by rule",
		Long: `Asks what a check would be answered, and prints every rule it was held against: the
manifest (scope and revision), the limit, what is used and reserved of it, and the
paragraph of the contract. Nothing is counted. With --as-of it is judged by the
manifests and the configuration of that time; what was used is that of the whole
period in which it lies.

Exit codes: 0 allowed; 1 refused, or an error.`,
		Example: `  grout entitlements explain --app shop --user ann --model gpt-4 --tokens 2000
  grout entitlements explain --app shop --user ann --plugin notes --action export --as-of yesterday`,
		Args: cobra.NoArgs,
	}
	format := outputFlag(cmd)
	f := cmd.Flags()
	appID := askFlags(f)
	user, tenant := whoFlags(f)
	texts := map[string]*string{
		"plugin":  f.String("plugin", "", "plugin to run"),
		"action":  f.String("action", "", "action of the plugin"),
		"feature": f.String("feature", "", "feature that is needed"),
		"limit":   f.String("limit", "", "limit that is asked about"),
		"model":   f.String("model", "", "model to call"),
	}
	numbers := map[string]*int64{
		"needed":                  f.Int64("needed", 1, "how much of --limit"),
		"estimated_tokens":        f.Int64("tokens", 0, "tokens in all"),
		"estimated_input_tokens":  f.Int64("input-tokens", 0, "input tokens"),
		"estimated_output_tokens": f.Int64("output-tokens", 0, "output tokens"),
	}
	asOf := f.String("as-of", "", "by what held at this time: 2026-01-31T08:00:00Z, 2026-01-31, yesterday, -24h")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		body := map[string]any{"app_id": appOf(*appID)}
		texts["user_id"], texts["tenant_id"] = user, tenant
		for name, value := range texts {
			if *value != "" {
				body[name] = *value
			}
		}
		for flag, name := range map[string]string{"needed": "needed", "tokens": "estimated_tokens", "input-tokens": "estimated_input_tokens", "output-tokens": "estimated_output_tokens"} {
			if f.Changed(flag) {
				body[name] = *numbers[name]
			}
		}
		q := url.Values{}
		if err := addTime(q, "as-of", *asOf); err != nil {
			return err
		}
		question, err := json.Marshal(body)
		if err != nil {
			return err
		}
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			text, err := to.ask(ctx, http.MethodPost, "/api/entitlements/explain", q, question)
			if err != nil {
				return err
			}
			if err := printAnswer(cmd, *format, text, printExplained); err != nil {
				return err
			}
			return refusedCheck(text)
		})
	}
	return cmd
}

// refusedCheck is an error when the answer to a check is no.
func refusedCheck(text []byte) error {
	var said struct {
		Allowed bool
		Reason  string
		Detail  string
	}
	if err := json.Unmarshal(text, &said); err != nil {
		return fmt.Errorf("the answer is not grout's: %w", err)
	}
	if said.Allowed {
		return nil
	}
	if said.Detail == "" {
		return fmt.Errorf("refused: %s", said.Reason)
	}
	return fmt.Errorf("refused: %s (%s)", printable(said.Detail), said.Reason)
}
