package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// standingOf is what GET /api/v1/entitlements/{app_id} answers, as far as it is printed.
type standingOf struct {
	AppID    string `json:"app_id"`
	UserID   string `json:"user_id"`
	TenantID string `json:"tenant_id"`
	Revision *int64 `json:"revision"`
	Plan     struct {
		Name      string
		Tier      string
		Status    string
		ExpiresAt string `json:"expires_at"`
	}
	Features   map[string]bool
	RateLimits map[string]int64 `json:"rate_limits"`
	Plugins    *struct {
		Allowed, Blocked []string
		Tiers            map[string]string
	}
	Source   string
	Budgets  []budgetStanding
	SyncedAt *string `json:"synced_at"`
}

type budgetStanding struct {
	Scope       string
	ScopeID     string `json:"scope_id"`
	Period      string
	ResetsAt    *string `json:"resets_at"`
	Allocations []struct {
		Name        string
		Limit       int64
		Effective   int64 `json:"effective_limit"`
		Used        int64
		Reserved    int64
		Remaining   int64
		Enforcement string
	}
}

func decodeAnswer(text []byte, v any) error {
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("the answer is not grout's: %w", err)
	}
	return nil
}

func printEntitled(out io.Writer, text []byte) error {
	var e standingOf
	if err := decodeAnswer(text, &e); err != nil {
		return err
	}
	line := func(name, format string, args ...any) {
		fmt.Fprintf(out, "%-12s"+format+"\n", append([]any{name}, args...)...)
	}
	line("app", "%s", printable(e.AppID))
	if e.TenantID != "" {
		line("tenant", "%s", printable(e.TenantID))
	}
	if e.UserID != "" {
		line("user", "%s", printable(e.UserID))
	}
	plan := e.Plan.Tier
	if e.Plan.Name != "" {
		plan += " (" + printable(e.Plan.Name) + ")"
	}
	if e.Plan.Status != "" {
		plan += ", " + e.Plan.Status
	}
	if e.Plan.ExpiresAt != "" {
		plan += ", until " + e.Plan.ExpiresAt
	}
	line("plan", "%s", plan)
	switch {
	case e.SyncedAt == nil:
		line("synced", "never: nothing is limited")
	case e.Revision == nil:
		line("synced", "%s, below all synced manifests", *e.SyncedAt)
	default:
		line("synced", "%s, revision %d", *e.SyncedAt, *e.Revision)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Features)) {
		line("feature", "%s %s", printable(name), map[bool]string{true: "on", false: "off"}[e.Features[name]])
	}
	for _, name := range slices.Sorted(maps.Keys(e.RateLimits)) {
		line("limit", "%s %s", printable(name), limitText(e.RateLimits[name]))
	}
	if p := e.Plugins; p != nil {
		line("plugins", "allowed %s, blocked %s", listText(p.Allowed, "all"), listText(p.Blocked, "none"))
		for _, name := range slices.Sorted(maps.Keys(p.Tiers)) {
			line("plugin", "%s has tier %s", printable(name), printable(p.Tiers[name]))
		}
	}
	if len(e.Budgets) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	return printBudgets(out, e.Budgets)
}

func limitText(n int64) string {
	if n < 0 {
		return "unlimited"
	}
	return thousands(n)
}

func listText(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	return printable(strings.Join(names, ", "))
}

func printBudgets(out io.Writer, budgets []budgetStanding) error {
	var t textTable
	t.columns("scope", "period", "allocation", "enforced")
	t.numbers("limit", "effective", "used", "reserved", "remaining")
	t.columns("resets")
	for _, b := range budgets {
		resets := "never"
		if b.ResetsAt != nil {
			resets = *b.ResetsAt
		}
		for _, a := range b.Allocations {
			t.rows = append(t.rows, []string{
				scopeText(b.Scope, b.ScopeID), b.Period, printable(a.Name), a.Enforcement,
				limitText(a.Limit), limitText(a.Effective), thousands(a.Used), thousands(a.Reserved), limitText(a.Remaining), resets,
			})
		}
	}
	return t.print(out)
}

func scopeText(kind, id string) string { return kind + " " + printable(id) }

func printSynced(out io.Writer, text []byte) error {
	var s struct {
		AppID    string  `json:"app_id"`
		UserID   *string `json:"user_id"`
		TenantID *string `json:"tenant_id"`
		SyncedAt string  `json:"synced_at"`
		Previous *string `json:"previous_tier"`
		New      string  `json:"new_tier"`
		Revision int64
	}
	if err := decodeAnswer(text, &s); err != nil {
		return err
	}
	who := "app " + printable(s.AppID)
	if s.TenantID != nil {
		who += ", tenant " + printable(*s.TenantID)
	}
	if s.UserID != nil {
		who += ", user " + printable(*s.UserID)
	}
	before := "none"
	if s.Previous != nil {
		before = *s.Previous
	}
	_, err := fmt.Fprintf(out, "%s: revision %d, tier %s (before: %s), since %s\n", who, s.Revision, s.New, before, s.SyncedAt)
	return err
}

func printVersions(out io.Writer, text []byte) error {
	var page struct {
		Versions []struct {
			Revision      int64
			SyncedAt      string `json:"synced_at"`
			SyncedAs      string `json:"synced_as"`
			CorrelationID string `json:"correlation_id"`
			Manifest      struct {
				Plan   struct{ Tier, Status string }
				Source string
			}
		}
		Next *string `json:"next_cursor"`
	}
	if err := decodeAnswer(text, &page); err != nil {
		return err
	}
	var t textTable
	t.numbers("revision")
	t.columns("since", "synced as", "tier", "status", "source", "correlation id")
	for _, v := range page.Versions {
		t.rows = append(t.rows, []string{
			strconv.FormatInt(v.Revision, 10), v.SyncedAt, v.SyncedAs, v.Manifest.Plan.Tier, cmp.Or(v.Manifest.Plan.Status, "active"),
			cmp.Or(printable(v.Manifest.Source), "-"), cmp.Or(printable(v.CorrelationID), "-"),
		})
	}
	return t.printPage(out, page.Next)
}

func printExplained(out io.Writer, text []byte) error {
	type figures struct {
		Scope, Layer   *string
		ScopeID        *string `json:"scope_id"`
		Revision       *int64
		Limit, Used    *int64
		Reserved       *int64
		Remaining      *int64
		Rule, Decision string
		Reason         string
		Name           *string
		Needed         int64
		ResetsAt       *string `json:"resets_at"`
	}
	var c struct {
		Allowed bool
		figures
		Detail       string
		WouldConsume map[string]int64 `json:"would_consume"`
		Judgements   []figures
	}
	if err := decodeAnswer(text, &c); err != nil {
		return err
	}
	said := "allowed"
	if !c.Allowed {
		said = "refused"
	}
	fmt.Fprintf(out, "%s: %s, %s", said, c.Decision, c.Reason)
	if c.Detail != "" {
		fmt.Fprintf(out, ". %s", printable(c.Detail))
	}
	fmt.Fprintln(out)
	for _, name := range slices.Sorted(maps.Keys(c.WouldConsume)) {
		fmt.Fprintf(out, "would consume %s of %s\n", thousands(c.WouldConsume[name]), printable(name))
	}
	if len(c.Judgements) == 0 {
		_, err := fmt.Fprintln(out, "no rule is near: nothing that was asked about is limited")
		return err
	}
	fmt.Fprintln(out)
	var t textTable
	t.columns("rule", "of", "manifest", "says", "because")
	t.numbers("needed", "limit", "used", "reserved", "remaining")
	number := func(n *int64, text func(int64) string) string {
		if n == nil {
			return "-"
		}
		return text(*n)
	}
	for _, j := range c.Judgements {
		manifest := "-"
		if j.Scope != nil {
			manifest = scopeText(*j.Scope, *j.ScopeID)
			switch {
			case j.Revision != nil:
				manifest += ", revision " + strconv.FormatInt(*j.Revision, 10)
			case j.Layer != nil && *j.Layer == "below":
				manifest += ", below the synced ones"
			}
		}
		name := "-"
		if j.Name != nil {
			name = printable(*j.Name)
		}
		t.rows = append(t.rows, []string{
			"§" + j.Rule, name, manifest, j.Decision, j.Reason,
			thousands(j.Needed), number(j.Limit, limitText), number(j.Used, thousands), number(j.Reserved, thousands), number(j.Remaining, limitText),
		})
	}
	return t.print(out)
}
