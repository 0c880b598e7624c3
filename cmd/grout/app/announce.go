package app

import (
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"grout/schemas"
)

// announce tells where grout can be reached and, in development, what to try.
// A secret is shown only by the start that made it (contract §3).
func (n *node) announce(out io.Writer, addr net.Addr, took time.Duration) {
	defer func() {
		n.logger.Info("ready", "http", addr.String(), "nats", n.natsURL(), "data", n.cfg.DataDir, "took", took.Round(time.Millisecond).String())
	}()
	if n.cfg.InProduction() {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\ngrout is ready (development mode, %s)\n\n", took.Round(time.Millisecond))
	fmt.Fprintf(&b, "  HTTP  http://%s   (/openapi.json, /asyncapi.json, /metrics)\n", addr)
	if url := n.natsURL(); url != "" {
		fmt.Fprintf(&b, "  NATS  %s   (users platform and consumer; docs/bus.md)\n", url)
	}
	fmt.Fprintf(&b, "  data  %s\n\n", n.cfg.DataDir)
	for i := range secrets {
		s := secrets[i].field(&n.cfg)
		switch {
		case s.Generated:
			fmt.Fprintf(&b, "  %s=%s   (new, kept in %s)\n", secrets[i].env, s.Values[0], s.Path)
		case s.Path != "":
			fmt.Fprintf(&b, "  %s is in %s\n", secrets[i].env, s.Path)
		}
	}
	n.offerToken(&b)
	n.suggest(&b, addr)
	_, _ = io.WriteString(out, b.String())
}

// DevUser is whose token is signed when nobody is named.
const DevUser = "dev"

// offerToken shows a token that the generated secret signs. Nothing is shown that a
// secret from outside would open.
func (n *node) offerToken(b *strings.Builder) {
	if n.cfg.JWTSecret.Path == "" {
		return
	}
	if token, err := UserToken(&n.cfg, TokenUser{ID: DevUser}, TokenLife); err == nil {
		fmt.Fprintf(b, "\n  A token of the user %s, for %s (others: grout token --user NAME):\n  %s\n", DevUser, TokenLife, token)
	}
}

func (n *node) suggest(b *strings.Builder, addr net.Addr) {
	key := n.cfg.InternalKeys.Path
	if key == "" {
		return
	}
	b.WriteString("\nTry (paste into another terminal, in this directory):\n\n")
	fmt.Fprintf(b, `  curl -s http://%s/api/usage/ingest -H 'Content-Type: application/json' -H "X-Internal-API-Key: $(cat %s)" -d '{"events":[{"event_id":"e-1","timestamp":"%s","app_id":"%s","user_id":"ann","model":"gpt-4","input_tokens":1500,"output_tokens":500}]}'`+"\n\n",
		addr, quote(key), time.Now().UTC().Format(time.RFC3339), n.cfg.AppID)
	fmt.Fprintf(b, `  curl -s "http://%s/api/usage?app_id=%s&window=hour&group_by=user_id,model" -H "X-Internal-API-Key: $(cat %s)"`+"\n\n", addr, n.cfg.AppID, quote(key))
	if pw := n.cfg.ConsumerPasswords.Path; pw != "" && n.natsURL() != "" {
		fmt.Fprintf(b, "  %s --user consumer --password \"$(cat %s)\" sub --stream MOZAIKS_EVT --all\n\n", n.natsCommand(), quote(pw))
	}
	if pw := n.cfg.PlatformPasswords.Path; pw != "" && n.natsURL() != "" {
		fmt.Fprintf(b, `  %s --user platform --password "$(cat %s)" pub --jetstream -H Nats-Msg-Id:%s %s '{"events":[{"event_id":"e-2","timestamp":"%s","app_id":"%s","user_id":"bob","model":"gpt-4","input_tokens":700,"output_tokens":300}]}'`+"\n\n",
			n.natsCommand(), quote(pw), fmt.Sprint("try-", time.Now().Unix()), quote(schemas.CommandSubject(n.cfg.AppID, "usage.ingest")), time.Now().UTC().Format(time.RFC3339), n.cfg.AppID)
	}
}

// natsCommand is how the nats command line reaches this server.
func (n *node) natsCommand() string {
	if n.cfg.NATSTLSCA == "" {
		return "nats --server " + n.natsURL()
	}
	return fmt.Sprintf("nats --server %s --tlsca %s", n.natsURL(), quote(n.cfg.NATSTLSCA))
}

// quote makes a path one word for a shell inside double quotes.
func quote(path string) string {
	if strings.ContainsAny(path, " '\"\\$`!*?[]()&;|<>#~") {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
