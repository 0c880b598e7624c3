package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"grout/cmd/grout/app"
)

// running starts a grout in this process, whose address and key the environment tells
// to the commands.
func running(t *testing.T) (url string) {
	t.Helper()
	dir := clean(t)
	cfg := app.DefaultConfig()
	cfg.DataDir, cfg.HTTPAddr, cfg.NATSListen, cfg.LogLevel = filepath.Join(dir, "data"), "127.0.0.1:0", "", "error"
	cfg.InternalKeys = app.Secret{Values: []string{"the-internal-key"}}
	i, err := app.Start(context.WithoutCancel(t.Context()), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("INTERNAL_API_KEY", "the-internal-key")
	t.Setenv("MOZAIKS_APP_ID", "shop")
	return i.URL
}

var (
	anInstant = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`)
	aUUID     = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	blanks    = regexp.MustCompile(` +`)
)

// plain takes out of a text what differs from run to run, and how columns are filled.
func plain(text string) string {
	text = aUUID.ReplaceAllString(anInstant.ReplaceAllString(text, "TIME"), "UUID")
	return strings.ReplaceAll(blanks.ReplaceAllString(text, " "), " \n", "\n")
}

func TestEntitlementCommands(t *testing.T) {
	url := running(t)
	if err := os.WriteFile("manifest.json", []byte(`{"version":"1.1","app_id":"shop","source":"crm","plan":{"tier":"pro","name":"Pro\u001b","expires_at":"2099-01-01T00:00:00Z"},
		"features":{"export":false,"chat":true},"rate_limits":{"requests_per_minute":60,"concurrent_workflows":-1},"plugins":{"blocked":["spam"],"tiers":{"notes":"gold"}},
		"token_budget":{"period":"monthly","total_tokens":{"limit":10000,"enforcement":"hard"},"per_model_limits":{"m":{"limit":-1}}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args string
		code int
		want string // stdout
		errs string // part of stderr
	}{
		{"entitlements get", 0, "app shop\nplan unlimited (Open Source)\nsynced never: nothing is limited\n", ""},
		{"budgets list", 0, "no budget: tokens are unlimited\n\nno open reservation\n", ""},
		{"entitlements set manifest.json", 0, "app shop: revision 1, tier pro (before: none), since TIME\n", ""},
		{"entitlements set manifest.json", 0, "app shop: revision 1, tier pro (before: none), since TIME\n", ""},
		{"entitlements history", 0, "revision since synced as tier status source correlation id\n 1 TIME manifest pro active crm UUID\n", ""},
		{
			"entitlements get", 0, "app shop\nplan pro (Pro\ufffd), active, until TIME\nsynced TIME, revision 1\n" +
				"feature chat on\nfeature export off\nlimit concurrent_workflows unlimited\nlimit requests_per_minute 60\n" +
				"plugins allowed all, blocked spam\nplugin notes has tier gold\n\n" +
				"scope period allocation enforced limit effective used reserved remaining resets\n" +
				"app shop monthly total_tokens hard 10,000 10,000 0 0 10,000 TIME\n" +
				"app shop monthly model:m none unlimited unlimited 0 0 unlimited TIME\n", "",
		},
		{"budgets reserve 6000 --id job-1 --user ann --model m", 0, "reserved as job-1 until TIME (allow)\n", ""},
		{"budgets reserve 6000 --id job-2", 1, "", "402 Token budget exceeded: 0/10000 tokens used. (TOKEN_BUDGET_EXCEEDED)"},
		{
			"budgets list", 0, "scope period allocation enforced limit effective used reserved remaining resets\n" +
				"app shop monthly total_tokens hard 10,000 10,000 0 6,000 4,000 TIME\n" +
				"app shop monthly model:m none unlimited unlimited 0 6,000 unlimited TIME\n\n" +
				"reservation tenant user model tokens until\njob-1 - ann m 6,000 TIME\n", "",
		},
		{"entitlements explain --tokens 4000 --limit requests_per_minute", 0, "allowed: allow, allowed\n\n" +
			"rule of manifest says because needed limit used reserved remaining\n" +
			"§5.2.8 total_tokens app shop, revision 1 allow allowed 4,000 10,000 0 6,000 4,000\n" +
			"§5.2.11 requests_per_minute app shop, revision 1 allow allowed 1 60 0 0 60\n", ""},
		{"entitlements explain --tokens 4001", 1, "refused: hard_reject, budget_exceeded. Token budget exceeded: 0/10000 tokens used.\n\n" +
			"rule of manifest says because needed limit used reserved remaining\n" +
			"§5.2.8 total_tokens app shop, revision 1 hard_reject budget_exceeded 4,001 10,000 0 6,000 4,000\n", "refused: Token budget exceeded"},
		{"entitlements explain --tokens 4001 --as-of 2020-01-01", 0, "allowed: allow, allowed\nno rule is near: nothing that was asked about is limited\n", ""},
		{"entitlements explain --feature export", 1, "refused: hard_reject, feature_disabled. Feature 'export' not available on pro tier\n\n" +
			"rule of manifest says because needed limit used reserved remaining\n" +
			"§5.2.4 export app shop, revision 1 hard_reject feature_disabled 0 - - - -\n", "refused: Feature 'export'"},
		{"budgets release job-1", 0, "released job-1\n", ""},
		{"budgets release job-1", 0, "released job-1\n", ""},
		{"budgets release nobody", 1, "", "404 The app has no reservation with this id (NOT_FOUND)"},
		{"budgets reserve many", 2, "", `"many" is no number of tokens`},
		{"entitlements get --as-of whenever", 2, "", "--as-of"},
		{"entitlements set nowhere.json", 1, "", "read manifest"},
		{"entitlements get --app other", 0, "app other\nplan unlimited (Open Source)\nsynced never: nothing is limited\n", ""},
	} {
		code, stdout, stderr := grout(t, append(strings.Fields(tt.args), "--url", url)...)
		if code != tt.code || plain(stdout) != tt.want || !strings.Contains(stderr, tt.errs) {
			t.Errorf("%s: exit %d, %s\n%s\nwant\n%s", tt.args, code, stderr, plain(stdout), tt.want)
		}
	}
	for _, args := range []string{"entitlements get", "entitlements history", "entitlements explain", "budgets list", "budgets reserve 1 --id j", "budgets release j"} {
		code, stdout, stderr := grout(t, append(strings.Fields(args), "--url", url, "-o", "json")...)
		if code != 0 || !json.Valid([]byte(stdout)) {
			t.Errorf("%s -o json: exit %d, %s\n%s", args, code, stderr, stdout)
		}
	}
}
