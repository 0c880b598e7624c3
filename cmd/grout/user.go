package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"grout/cmd/grout/app"
)

// tokenLife is how long a token lives that a command signs for itself.
const tokenLife = 10 * time.Minute

// asUser is how a command that acts for a user gets its token.
type asUser struct {
	user  *string
	roles *[]string
}

// userFlags declares what every command needs that asks a running grout as a user, and
// the flags of further settings.
func userFlags(f *pflag.FlagSet, settings ...string) asUser {
	app.AddFlags(f, append(settings, "data_dir")...)
	f.String("url", "http://127.0.0.1:8080", "address of the server")
	return asUser{
		f.String("user", app.DevUser, "user to act for, unless MOZAIKS_TOKEN is set"),
		f.StringSlice("role", nil, "role of the user, unless MOZAIKS_TOKEN is set; may be repeated"),
	}
}

// withServer runs what needs a client that acts for the user.
func (a asUser) withServer(cmd *cobra.Command, do func(ctx context.Context, to *sender) error) error {
	cfg, _, err := app.Load(cmd.Flags(), os.Environ())
	if err != nil {
		return err
	}
	token, err := a.token(&cfg)
	if err != nil {
		return err
	}
	base, _ := cmd.Flags().GetString("url")
	to, err := newSender(base, "", 1, 0)
	if err != nil {
		return err
	}
	to.token = token
	defer to.close()
	ctx, stop := untilInterrupted(cmd.Context())
	defer stop()
	return do(ctx, to)
}

// token is the one of the environment, or one that is signed as a server with the same
// settings takes it (contract §3).
func (a asUser) token(cfg *app.Config) (string, error) {
	if own := os.Getenv(app.EnvToken); own != "" {
		return own, nil
	}
	token, err := app.UserToken(cfg, app.TokenUser{ID: *a.user, Roles: *a.roles}, tokenLife)
	if err != nil {
		return "", fmt.Errorf("%w; or set MOZAIKS_TOKEN to a token of your own", err)
	}
	return token, nil
}
