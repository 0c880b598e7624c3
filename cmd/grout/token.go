package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"grout/cmd/grout/app"
)

func newToken() *cobra.Command {
	var u app.TokenUser
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Sign a user token for development",
		Long: `Signs a user token and prints it, for a server in local mode outside production that
uses this data directory or the same JWT_SECRET. Issuer, audience and names of claims
are those of the settings. Whoever has the token is that user until it expires.`,
		Example: `  grout token                                     for the user ` + app.DevUser + `
  grout token --user ann --role editor --ttl 1h
  curl -s http://127.0.0.1:8080/api/usage -H "Authorization: Bearer $(grout token --user ann)"`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&u.ID, "user", app.DevUser, "id of the user")
	flags.StringVar(&u.Email, "email", "", "e-mail address of the user")
	flags.StringVar(&u.Username, "username", "", "name of the user; needs MOZAIKS_USERNAME_CLAIM")
	flags.StringSliceVar(&u.Roles, "role", nil, "role of the user; may be repeated")
	flags.BoolVar(&u.Superadmin, "superadmin", false, "make the user a superadmin; needs MOZAIKS_SUPERADMIN_ROLE or MOZAIKS_SUPERADMIN_CLAIM")
	flags.DurationVar(&life, "ttl", app.TokenLife, "how long it is valid")
	app.AddFlags(flags, "data_dir", "env", "auth_mode", "jwks_url", "jwt_algorithm", "issuer", "audience",
		"user_id_claim", "email_claim", "username_claim", "roles_claim", "superadmin_claim", "superadmin_role")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(cmd)
		if err != nil {
			return err
		}
		token, err := app.UserToken(&cfg, u, life)
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), token)
		return nil
	}
	return cmd
}
