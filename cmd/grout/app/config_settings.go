package app

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"grout/handlers/deliver"
	"grout/handlers/identity"
	"grout/schemas"
)

// setting is one row of the table: its flag is the key with dashes. Secrets have
// a table of their own, for they have neither flag nor key.
type setting struct {
	key   string
	env   string
	def   string
	help  string
	empty bool // an empty value means something and is not the same as none
	value value
}

// value connects the text of a setting with its field.
type value struct {
	set    func(c *Config, text string) error
	show   func(c *Config) string
	number bool // an unquoted number is fine in the file
	toggle bool // so is true or false
}

func (s *setting) flag() string { return strings.ReplaceAll(s.key, "_", "-") }

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
	gib = int64(1) << 30
	tib = int64(1) << 40
)

var settings = []setting{
	{"data_dir", "MOZAIKS_DATA_DIR", "./data", "directory that holds everything grout keeps", false, text(func(c *Config) *string { return &c.DataDir }, anyText)},
	{"http_addr", "MOZAIKS_HTTP_ADDR", "127.0.0.1:8080", "address of the HTTP API; PORT sets just its port", false, text(func(c *Config) *string { return &c.HTTPAddr }, hostPort)},
	{"nats_url", "NATS_URL", "", "addresses of the nodes of a NATS cluster, comma-separated; empty is the server inside grout", true, text(func(c *Config) *string { return &c.NATSURL }, natsURLs)},
	{"nats_user", "NATS_USER", "", "user that grout is on the cluster, with NATS_PASSWORD", true, text(func(c *Config) *string { return &c.NATSUser }, anyText)},
	{"nats_password_file", "NATS_PASSWORD_FILE", "", "file of that user's password, which is read at every connection", true, text(func(c *Config) *string { return &c.NATSPasswordFile }, anyText)},
	{"nats_creds", "NATS_CREDS", "", "credentials file (.creds) for the cluster", true, text(func(c *Config) *string { return &c.NATSCreds }, anyText)},
	{"nats_nkey", "NATS_NKEY", "", "file of an NKey seed for the cluster", true, text(func(c *Config) *string { return &c.NATSNKey }, anyText)},
	{"nats_ca", "NATS_CA", "", "file of the certificates that the nodes' certificates are judged by", true, text(func(c *Config) *string { return &c.NATSCA }, anyText)},
	{"nats_cert", "NATS_CERT", "", "file of grout's own certificate for the cluster", true, text(func(c *Config) *string { return &c.NATSCert }, anyText)},
	{"nats_key", "NATS_KEY", "", "file of its key", true, text(func(c *Config) *string { return &c.NATSKey }, anyText)},
	{"nats_replicas", "MOZAIKS_NATS_REPLICAS", "3", "nodes of the cluster that keep each stream", false, count(func(c *Config) *int { return &c.NATSReplicas }, 1, 5)},
	{"lease_ttl", "MOZAIKS_LEASE_TTL", "10s", "after how long without a word of the worker that owns the state another one takes it over", false, duration(func(c *Config) *time.Duration { return &c.LeaseTTL }, time.Second, 5*time.Minute)},
	{"nats_listen", "MOZAIKS_NATS_LISTEN", "127.0.0.1:4222", "address of the embedded NATS server; empty does not listen", true, text(func(c *Config) *string { return &c.NATSListen }, hostPort)},
	{"nats_websocket_listen", "MOZAIKS_NATS_WEBSOCKET_LISTEN", "", "address where browsers reach the embedded NATS server as the user consumer; other than loopback it needs TLS", true, text(func(c *Config) *string { return &c.NATSWebSocket }, hostPort)},
	{"nats_tls_cert", "MOZAIKS_NATS_TLS_CERT", "", "file of the embedded NATS server's certificate, with those of its authorities behind it; it is read again when it changes", true, text(func(c *Config) *string { return &c.NATSTLSCert }, anyText)},
	{"nats_tls_key", "MOZAIKS_NATS_TLS_KEY", "", "file of its key", true, text(func(c *Config) *string { return &c.NATSTLSKey }, anyText)},
	{"nats_tls_ca", "MOZAIKS_NATS_TLS_CA", "", "file of the authorities that clients' certificates are judged by", true, text(func(c *Config) *string { return &c.NATSTLSCA }, anyText)},
	{"nats_tls_verify", "MOZAIKS_NATS_TLS_VERIFY", "false", "whether NATS clients need a certificate of these authorities, beside password or NKey", false, toggle(func(c *Config) *bool { return &c.NATSTLSVerify })},
	{"nats_platform_nkey", "MOZAIKS_NATS_PLATFORM_NKEY", "", "public NKeys of the NATS user platform, comma-separated", true, natsKeys(func(c *Config) *[]string { return &c.PlatformNKeys })},
	{"nats_consumer_nkey", "MOZAIKS_NATS_CONSUMER_NKEY", "", "public NKeys of the NATS user consumer", true, natsKeys(func(c *Config) *[]string { return &c.ConsumerNKeys })},
	{"nats_admin_nkey", "MOZAIKS_NATS_ADMIN_NKEY", "", "public NKeys of the NATS user admin", true, natsKeys(func(c *Config) *[]string { return &c.AdminNKeys })},
	{"nats_plugin_nkey", "MOZAIKS_NATS_PLUGIN_NKEY", "", "public NKeys of the NATS user plugin", true, natsKeys(func(c *Config) *[]string { return &c.PluginNKeys })},
	{"env", "ENV", "", "production, or any other name for development", false, text(func(c *Config) *string { return &c.Env }, anyText)},
	{"app_id", "MOZAIKS_APP_ID", "dev_app", "app this instance belongs to; has no default in production", false, text(func(c *Config) *string { return &c.AppID }, chars(schemas.MaxIDChars))},
	{"app_tier", "APP_TIER", "free", "tier of the app", false, text(func(c *Config) *string { return &c.AppTier }, chars(schemas.MaxIDChars))},
	{"app_name", "APP_NAME", "grout", "name of the app", false, text(func(c *Config) *string { return &c.AppName }, chars(schemas.MaxNameChars))},
	{"log_format", "MOZAIKS_LOG_FORMAT", "text", "text or json", false, text(func(c *Config) *string { return &c.LogFormat }, oneOf("text", "json"))},
	{"log_level", "MOZAIKS_LOG_LEVEL", "info", "debug, info, warn or error", false, text(func(c *Config) *string { return &c.LogLevel }, oneOf("debug", "info", "warn", "error"))},
	{"partitions", "MOZAIKS_PARTITIONS", "1", "partitions of the state; fixed once the data directory exists", false, count(func(c *Config) *int { return &c.Partitions }, 1, 64)},
	{"max_body_bytes", "MOZAIKS_MAX_BODY_BYTES", "16MiB", "largest request body", false, size(func(c *Config) *int64 { return &c.MaxBodyBytes }, kib, 256*mib)},
	{"max_unpacked_bytes", "MOZAIKS_MAX_UNPACKED_BYTES", "64MiB", "largest request body once it is unpacked", false, size(func(c *Config) *int64 { return &c.UnpackedBytes }, kib, 256*mib)},
	{"command_max_bytes", "MOZAIKS_COMMAND_MAX_BYTES", "8GiB", "disk the command stream may use", false, size(func(c *Config) *int64 { return &c.CommandBytes }, 16*mib, 1024*tib)},
	{"fact_max_bytes", "MOZAIKS_FACT_MAX_BYTES", "4GiB", "disk the fact stream may use; the oldest facts go first", false, size(func(c *Config) *int64 { return &c.FactBytes }, 16*mib, 1024*tib)},
	{"dead_letter_max_bytes", "MOZAIKS_DEAD_LETTER_MAX_BYTES", "256MiB", "disk the dead letters may use; the oldest go first", false, size(func(c *Config) *int64 { return &c.DeadLetterBytes }, 16*mib, 1024*tib)},
	{"in_max_bytes", "MOZAIKS_IN_MAX_BYTES", "1GiB", "disk that commands published on NATS may use until they are in the command stream; publishers are refused beyond it", false, size(func(c *Config) *int64 { return &c.InBytes }, 16*mib, 1024*tib)},
	{"wait_limit", "MOZAIKS_WAIT_LIMIT", "10s", "how long an ingest request waits to be applied before it is answered 202", false, duration(func(c *Config) *time.Duration { return &c.WaitLimit }, time.Millisecond, 10*time.Minute)},
	{"duplicate_window", "MOZAIKS_DUPLICATE_WINDOW", "100ms", "duplicate window of the streams; grout's own ids do not need it", false, duration(func(c *Config) *time.Duration { return &c.DuplicateWindow }, 100*time.Millisecond, time.Hour)},
	{"fold_every", "MOZAIKS_FOLD_EVERY", "250000", "applied events after which sums in memory are folded into the store", false, count(func(c *Config) *int { return &c.FoldEvery }, 1, 1_000_000)},
	{"snapshot_every", "MOZAIKS_SNAPSHOT_EVERY", "1h", "how often the store is copied while it changes; the newest two copies are kept", false, duration(func(c *Config) *time.Duration { return &c.SnapshotEvery }, 100*time.Millisecond, 30*24*time.Hour)},
	{"entitlement_source", "MOZAIKS_ENTITLEMENT_SOURCE", SourceLocal, "where the manifest below all synced ones comes from: local (a file), env or control_plane", false, text(func(c *Config) *string { return &c.EntitlementSource }, oneOf(SourceLocal, SourceEnv, SourceControlPlane))},
	{"entitlement_manifest_path", "MOZAIKS_ENTITLEMENT_MANIFEST_PATH", "./entitlements.json", "file of that manifest for the source local; need not be there", false, text(func(c *Config) *string { return &c.ManifestPath }, anyText)},
	{"entitlement_manifest", "MOZAIKS_ENTITLEMENT_MANIFEST", "", "that manifest as JSON for the source env; empty is none", true, text(func(c *Config) *string { return &c.Manifest }, anyText)},
	{"control_plane_url", "MOZAIKS_CONTROL_PLANE_URL", "", "address that is polled for that manifest by the source control_plane, with the key of MOZAIKS_CONTROL_PLANE_KEY", true, text(func(c *Config) *string { return &c.ControlPlaneURL }, httpURL)},
	{"control_plane_poll", "MOZAIKS_CONTROL_PLANE_POLL", "1m", "how often it is polled", false, duration(func(c *Config) *time.Duration { return &c.ControlPlanePoll }, 100*time.Millisecond, 24*time.Hour)},
	{"configs_path", "MOZAIKS_CONFIGS_PATH", "./config", "directory of the catalogue of plans, " + CatalogueFile + ", which need not be there", false, text(func(c *Config) *string { return &c.ConfigsPath }, anyText)},
	{"plugins_path", "MOZAIKS_PLUGINS_PATH", "./plugins", "directory of the plugins, a folder for each", false, text(func(c *Config) *string { return &c.PluginsPath }, anyText)},
	{"plugin_timeout_seconds", "MOZAIKS_PLUGIN_TIMEOUT_SECONDS", "30", "how long a call of a plugin may take that says nothing else, in seconds", false, seconds(func(c *Config) *time.Duration { return &c.PluginTimeout }, time.Millisecond, 24*time.Hour)},
	{"plugin_user", "MOZAIKS_PLUGIN_USER", "", "user that plugins run as, uid:gid in numbers, when grout may change it; empty is grout's own", true, text(func(c *Config) *string { return &c.PluginUser }, numericUser)},
	{"drain_limit", "MOZAIKS_DRAIN_LIMIT", "20s", "how long a stop waits for requests and plugins that run; a plugin that is stopped then has lost its run", false, duration(func(c *Config) *time.Duration { return &c.DrainLimit }, time.Millisecond, time.Hour)},
	{"run_silence", "MOZAIKS_RUN_SILENCE", "24h", "after how long without an event a run that others report has failed with RUN_LOST", false, duration(func(c *Config) *time.Duration { return &c.RunSilence }, time.Second, time.Duration(schemas.MaxRunSilence))},
	{"platform_url", "MOZAIKS_PLATFORM_URL", "", "address of the Platform that usage is reported to, with the key of MOZAIKS_PLATFORM_API_KEY; empty reports nothing", true, text(func(c *Config) *string { return &c.PlatformURL }, httpURL)},
	{"usage_batch_size", "MOZAIKS_USAGE_BATCH_SIZE", "100", "most events of a report to the Platform", false, count(func(c *Config) *int { return &c.UsageBatch }, 1, 10_000)},
	{"usage_flush_interval", "MOZAIKS_USAGE_FLUSH_INTERVAL", "60s", "how long events gather for a report; a number is of seconds", false, secondsOrDuration(func(c *Config) *time.Duration { return &c.UsageFlush }, 10*time.Millisecond, time.Hour)},
	{"usage_retry_max", "MOZAIKS_USAGE_RETRY_MAX", "5m", "longest time between two tries to report usage", false, duration(func(c *Config) *time.Duration { return &c.UsageRetryMost }, 10*time.Millisecond, 24*time.Hour)},
	{"webhook_timeout", "MOZAIKS_WEBHOOK_TIMEOUT", "15s", "how long the endpoint of a webhook may take to answer", false, duration(func(c *Config) *time.Duration { return &c.WebhookTimeout }, 10*time.Millisecond, 5*time.Minute)},
	{"webhook_retry_max", "MOZAIKS_WEBHOOK_RETRY_MAX", "1h", "longest time between two tries to send a fact to a webhook", false, duration(func(c *Config) *time.Duration { return &c.WebhookRetryMost }, 10*time.Millisecond, 24*time.Hour)},
	{"webhook_allowed_networks", "MOZAIKS_WEBHOOK_ALLOWED_NETWORKS", "", "networks that webhooks may reach beside the Internet, and without TLS, comma-separated, such as 10.1.0.0/16", true, networks(func(c *Config) *deliver.Targets { return &c.WebhookTargets })},
	{"monetization", "MONETIZATION", "false", "whether plans decide about plugins", false, toggle(func(c *Config) *bool { return &c.Monetization })},
	{"enforce_entitlements", "MOZAIKS_ENFORCE_ENTITLEMENTS", "true", "false tells every decision and refuses nothing", false, toggle(func(c *Config) *bool { return &c.Enforce })},
	{"allowed_origins", "MOZAIKS_ALLOWED_ORIGINS", "", "origins of pages that browsers may use grout from, comma-separated, as https://host; empty is the same origin only", true, origins(func(c *Config) *[]string { return &c.AllowedOrigins })},
	{"auth_mode", "MOZAIKS_AUTH_MODE", "", "how user tokens are signed: external (or oidc, platform), local (or jwt); empty is external in production or with a JWKS address, else local", true, authMode()},
	{"jwks_url", "MOZAIKS_JWKS_URL", "", "address of the public keys of external user tokens", true, text(func(c *Config) *string { return &c.JWKSURL }, keysURL)},
	{"issuer", "MOZAIKS_ISSUER", "", "issuer that user tokens must name; required for external ones", true, text(func(c *Config) *string { return &c.Issuer }, anyText)},
	{"audience", "MOZAIKS_AUDIENCE", "", "audience that user tokens must name; required for external ones", true, text(func(c *Config) *string { return &c.Audience }, anyText)},
	{"jwt_algorithms", "MOZAIKS_JWT_ALGORITHMS", "RS256", "algorithms of external user tokens, comma-separated; never none or one of shared secrets", false, words(func(c *Config) *[]string { return &c.JWTAlgorithms }, oneOf(identity.PublicAlgorithms...))},
	{"jwt_algorithm", "JWT_ALGORITHM", "HS256", "algorithm of local user tokens", false, text(func(c *Config) *string { return &c.JWTAlgorithm }, oneOf(identity.SharedAlgorithms...))},
	{"user_id_claim", "MOZAIKS_USER_ID_CLAIM", "sub", "claim of a user token that is the user's id", false, text(func(c *Config) *string { return &c.Claims.UserID }, anyText)},
	{"email_claim", "MOZAIKS_EMAIL_CLAIM", "email", "claim with the e-mail address", false, text(func(c *Config) *string { return &c.Claims.Email }, anyText)},
	{"username_claim", "MOZAIKS_USERNAME_CLAIM", "", "claim with the user's name; empty makes it of the e-mail address, else of the id", true, text(func(c *Config) *string { return &c.Claims.Username }, anyText)},
	{"roles_claim", "MOZAIKS_ROLES_CLAIM", "roles", "claim with the roles, a list or a text; a path such as realm_access.roles will do", false, text(func(c *Config) *string { return &c.Claims.Roles }, anyText)},
	{"superadmin_claim", "MOZAIKS_SUPERADMIN_CLAIM", "", "claim that makes a superadmin when it is true; empty is none", true, text(func(c *Config) *string { return &c.Claims.Superadmin }, anyText)},
	{"superadmin_role", "MOZAIKS_SUPERADMIN_ROLE", "", "role that makes a superadmin, in whatever case; empty is none", true, text(func(c *Config) *string { return &c.Claims.SuperadminRole }, anyText)},
	{"agui_enabled", "MOZAIKS_AGUI_ENABLED", "true", "whether live streams mirror the lifecycle of runs as AG-UI events", false, toggle(func(c *Config) *bool { return &c.AGUI })},
	{"live_max_clients", "MOZAIKS_LIVE_MAX_CLIENTS", "10000", "most live streams, WebSockets and SSE, that may be open", false, count(func(c *Config) *int { return &c.LiveClients }, 1, 1_000_000)},
	{"live_max_per_user", "MOZAIKS_LIVE_MAX_PER_USER", "100", "most of them of one user", false, count(func(c *Config) *int { return &c.LivePerUser }, 1, 1_000_000)},
	{"command_age", "MOZAIKS_COMMAND_AGE", "72h", "age at which applied commands that are in two snapshots leave the command stream; sooner when it is half full", false, duration(func(c *Config) *time.Duration { return &c.CommandAge }, time.Second, 365*24*time.Hour)},
}

// fallbacks are further environment names of settings, which count when the first one is
// not set (contract §3).
var fallbacks = map[string][]string{
	"jwks_url": {"MOZAIKS_PLATFORM_JWKS_URL"},
	"issuer":   {"MOZAIKS_PLATFORM_ISSUER"},
	"audience": {"MOZAIKS_PLATFORM_AUDIENCE"},

	"plugin_timeout_seconds": {"PLUGIN_EXEC_TIMEOUT_S"},
}

// envNames are all environment names of a setting, the first one first.
func (s *setting) envNames() []string { return append([]string{s.env}, fallbacks[s.key]...) }

// Variables that are read without a row of their own.
const (
	envConfigFile = "MOZAIKS_CONFIG"
	envPort       = "PORT"
	flagConfig    = "config"
)

// EnvToken holds the user token that the command line asks a server with.
const EnvToken = "MOZAIKS_TOKEN"

// AddFlags declares --config and the flags of the named settings, or of all of
// them when none is named. Secrets have no flags.
func AddFlags(flags *pflag.FlagSet, keys ...string) {
	flags.String(flagConfig, "", "settings file (env "+envConfigFile+"; ./"+DefaultConfigFile+" is read when it is there)")
	for i := range settings {
		s := &settings[i]
		if len(keys) == 0 || slices.Contains(keys, s.key) {
			flags.String(s.flag(), s.def, s.help+" (env "+s.env+")")
		}
	}
}

// DefaultConfig is the configuration of an empty environment without a file.
func DefaultConfig() Config {
	c := Config{origins: map[string]string{}}
	for i := range settings {
		s := &settings[i]
		if err := s.value.set(&c, s.def); err != nil {
			panic(fmt.Sprintf("default of %s: %v", s.key, err))
		}
		c.origins[s.key] = "default"
	}
	return c
}
