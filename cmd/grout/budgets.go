package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"
)

func newBudgets() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "budgets",
		Short: "Look at token budgets, reserve of them, and give back",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBudgetsList(), newBudgetsReserve(), newBudgetsRelease())
	return cmd
}

func newBudgetsList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Print how the budgets of an app, a tenant or a user stand, and the app's open reservations",
		Args:  cobra.NoArgs,
	}
	format := outputFlag(cmd)
	appID := askFlags(cmd.Flags())
	user, tenant := whoFlags(cmd.Flags())
	limit := cmd.Flags().Int("limit", 100, "reservations on a page, at most 1000")
	cursor := cmd.Flags().String("cursor", "", "next_cursor of the page before")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		own := appOf(*appID)
		page := url.Values{"app_id": {own}, "limit": {strconv.Itoa(*limit)}}
		if *cursor != "" {
			page.Set("cursor", *cursor)
		}
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			entitled, err := to.ask(ctx, http.MethodGet, "/api/v1/entitlements/"+url.PathEscape(own), whoQuery(*user, *tenant), nil)
			if err != nil {
				return err
			}
			held, err := to.ask(ctx, http.MethodGet, "/api/budgets/reservations", page, nil)
			if err != nil {
				return err
			}
			return printBudgetList(cmd.OutOrStdout(), *format, entitled, held)
		})
	}
	return cmd
}

func printBudgetList(out io.Writer, format output, entitled, held []byte) error {
	var e struct{ Budgets json.RawMessage }
	var page struct {
		Reservations json.RawMessage
		Next         *string `json:"next_cursor"`
	}
	if err := decodeAnswer(entitled, &e); err != nil {
		return err
	}
	if err := decodeAnswer(held, &page); err != nil {
		return err
	}
	if e.Budgets == nil {
		e.Budgets = json.RawMessage("[]")
	}
	if format == "json" {
		return printJSON(out, map[string]any{"budgets": e.Budgets, "reservations": page.Reservations, "next_cursor": page.Next})
	}
	var budgets []budgetStanding
	if err := decodeAnswer(e.Budgets, &budgets); err != nil {
		return err
	}
	if len(budgets) == 0 {
		fmt.Fprintln(out, "no budget: tokens are unlimited")
	} else if err := printBudgets(out, budgets); err != nil {
		return err
	}
	fmt.Fprintln(out)
	return printHolds(out, page.Reservations, page.Next)
}

func printHolds(out io.Writer, text []byte, next *string) error {
	var holds []struct {
		ID       string  `json:"reservation_id"`
		UserID   *string `json:"user_id"`
		TenantID *string `json:"tenant_id"`
		Model    *string
		Tokens   int64  `json:"estimated_tokens"`
		Expires  string `json:"expires_at"`
	}
	if err := decodeAnswer(text, &holds); err != nil {
		return err
	}
	if len(holds) == 0 {
		_, err := fmt.Fprintln(out, "no open reservation")
		return err
	}
	var t textTable
	t.columns("reservation", "tenant", "user", "model")
	t.numbers("tokens")
	t.columns("until")
	for _, h := range holds {
		t.rows = append(t.rows, []string{printable(h.ID), orDash(h.TenantID), orDash(h.UserID), orDash(h.Model), thousands(h.Tokens), h.Expires})
	}
	if err := t.print(out); err != nil || next == nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\nmore: --cursor %s\n", printable(*next))
	return err
}

func newBudgetsReserve() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reserve TOKENS",
		Short: "Hold tokens of every budget that they touch, all or nothing",
		Example: `  grout budgets reserve 2000 --app shop --user ann --model gpt-4 --ttl 120 --id job-17
  grout budgets release job-17 --app shop`,
		Args: cobra.ExactArgs(1),
	}
	format := outputFlag(cmd)
	f := cmd.Flags()
	appID := askFlags(f)
	user, tenant := whoFlags(f)
	model := f.String("model", "", "model that the tokens are for")
	id := f.String("id", "", "id of the reservation (default: one is made); the same again is the same answer")
	ttl := f.Int64("ttl", 60, "seconds until it ends by itself, at most 3600")
	in, out := f.Int64("input-tokens", 0, "input tokens among them"), f.Int64("output-tokens", 0, "output tokens among them")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		tokens, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil || tokens < 0 {
			return usagef("%q is no number of tokens", abbreviate(args[0]))
		}
		body := map[string]any{"app_id": appOf(*appID), "estimated_tokens": tokens, "estimated_input_tokens": *in, "estimated_output_tokens": *out, "ttl_seconds": *ttl}
		for name, value := range map[string]string{"user_id": *user, "tenant_id": *tenant, "model": *model, "reservation_id": *id} {
			if value != "" {
				body[name] = value
			}
		}
		question, err := json.Marshal(body)
		if err != nil {
			return err
		}
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			text, err := to.ask(ctx, http.MethodPost, "/api/budgets/reservations", nil, question)
			if err != nil {
				return err
			}
			return printAnswer(cmd, *format, text, func(out io.Writer, text []byte) error {
				var r struct {
					ID        string `json:"reservation_id"`
					ExpiresAt string `json:"expires_at"`
					Decision  string
				}
				if err := decodeAnswer(text, &r); err != nil {
					return err
				}
				_, err := fmt.Fprintf(out, "reserved as %s until %s (%s)\n", printable(r.ID), r.ExpiresAt, r.Decision)
				return err
			})
		})
	}
	return cmd
}

func newBudgetsRelease() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "release RESERVATION",
		Short: "Give a reservation back",
		Args:  cobra.ExactArgs(1),
	}
	format := outputFlag(cmd)
	appID := askFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withServer(cmd, func(ctx context.Context, to *sender) error {
			text, err := to.ask(ctx, http.MethodDelete, "/api/budgets/reservations/"+url.PathEscape(args[0]), url.Values{"app_id": {appOf(*appID)}}, nil)
			if err != nil {
				return err
			}
			return printAnswer(cmd, *format, text, func(out io.Writer, _ []byte) error {
				_, err := fmt.Fprintf(out, "released %s\n", printable(args[0]))
				return err
			})
		})
	}
	return cmd
}
