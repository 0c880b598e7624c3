package app

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"grout/bus"
	"grout/handlers/deliver"
	"grout/handlers/identity"
	"grout/handlers/plugins"
	"grout/schemas"
)

// Production is the value of ENV that turns generated secrets off (contract §3).
const Production = "production"

// DefaultConfigFile is read when it lies in the working directory and no other
// file is named.
const DefaultConfigFile = "grout.yaml"

// Config is every setting of grout, read and parsed. Load makes one, Validate
// judges the settings against each other, LoadSecrets completes the secrets.
type Config struct {
	DataDir    string
	HTTPAddr   string
	NATSURL    string // addresses of a cluster's nodes; empty: the embedded server
	NATSListen string // empty: the embedded server listens nowhere
	Env        string // as given; see InProduction
	AppID      string
	AppTier    string
	AppName    string
	LogFormat  string // text or json
	LogLevel   string // debug, info, warn or error

	AuthMode      string // AuthExternal or AuthLocal; empty: see UserTokens
	JWKSURL       string
	Issuer        string
	Audience      string
	JWTAlgorithms []string // of external tokens
	JWTAlgorithm  string   // of local ones
	Claims        identity.Claims

	NATSUser         string // who grout is on the cluster, with NATSPassword or NATSPasswordFile
	NATSPassword     Secret
	NATSPasswordFile string
	NATSCreds        string // file of a JWT and its seed
	NATSNKey         string // file of an NKey's seed
	NATSCA           string // what the nodes' certificates are judged by
	NATSCert         string
	NATSKey          string
	NATSReplicas     int           // of every stream on a cluster
	LeaseTTL         time.Duration // after which another worker may own the state

	JWTSecret         Secret // of local tokens
	InternalKeys      Secret
	ServiceKeys       Secret
	ConsumerPasswords Secret
	AdminPasswords    Secret
	PluginPasswords   Secret
	PlatformPasswords Secret
	Publishers        Secret // with names and apps; see parsePublishers

	PlatformNKeys, ConsumerNKeys, AdminNKeys, PluginNKeys []string // public keys

	NATSTLSCert    string // of the embedded NATS server
	NATSTLSKey     string
	NATSTLSCA      string
	NATSTLSVerify  bool     // clients need a certificate
	NATSWebSocket  string   // empty: browsers reach no NATS
	AllowedOrigins []string // of pages that may use grout; without any only those of the same origin

	Partitions      int
	MaxBodyBytes    int64 // of a request as sent
	UnpackedBytes   int64 // of a compressed request
	CommandBytes    int64 // of MOZAIKS_CMD
	FactBytes       int64 // of MOZAIKS_EVT
	DeadLetterBytes int64 // of MOZAIKS_DLQ
	InBytes         int64 // of MOZAIKS_IN
	WaitLimit       time.Duration
	DuplicateWindow time.Duration
	FoldEvery       int // applied events
	SnapshotEvery   time.Duration
	CommandAge      time.Duration // of applied commands that are trimmed

	EntitlementSource string // of the manifest below all that are synced: SourceLocal, SourceEnv or SourceControlPlane
	ManifestPath      string // file of SourceLocal
	Manifest          string // JSON of SourceEnv
	ControlPlaneURL   string
	ControlPlanePoll  time.Duration
	ControlPlaneKey   Secret // sent to the control plane
	ConfigsPath       string // directory of the catalogue of plans
	PluginsPath       string
	PluginTimeout     time.Duration // of plugins that name none
	PluginUser        string        // uid:gid that plugins run as; empty: grout's own
	DrainLimit        time.Duration // what runs has so long at a stop
	RunSilence        time.Duration // after it a reported run that says nothing is lost
	AGUI              bool          // live streams mirror the lifecycle of runs
	LiveClients       int           // WebSockets and streams of events
	LivePerUser       int
	PlatformURL       string        // where usage is reported to; empty: nowhere
	PlatformKey       Secret        // sent to it
	UsageBatch        int           // events of a report
	UsageFlush        time.Duration // how long they gather
	UsageRetryMost    time.Duration // between tries
	Webhooks          []WebhookConfig
	WebhookTargets    deliver.Targets // that webhooks may reach beside the Internet
	WebhookTimeout    time.Duration
	WebhookRetryMost  time.Duration
	Monetization      bool
	Enforce           bool // entitlements; else decisions are reported and nothing is refused

	File string // settings that were read; empty: none

	origins  map[string]string
	now      func() time.Time     // the wall clock; nil is time.Now
	uptime   func() time.Duration // the clock that nobody sets; nil is the machine's
	ticks    time.Duration        // between ticks; 0 is schemas.TickInterval
	tickLook time.Duration        // how often it is looked whether one is due; 0 is tickLook

	sourceLook time.Duration  // how often files of configuration are looked at; 0 is sourceLook
	doorLook   time.Duration  // how often those of passwords and certificates are; 0 is doorLook
	hangups    chan os.Signal // which ask for a look now; nil: there are none

	deliveryMark time.Duration // how often places of deliveries are written into the log; 0 is the default

	functions map[string]plugins.Func // plugins of kind go beside those that are built in
	drain     time.Duration           // how long a stop waits; 0 is DrainLimit
}

// InProduction says whether ENV is production, in whatever case it is written.
func (c *Config) InProduction() bool { return strings.EqualFold(strings.TrimSpace(c.Env), Production) }

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

// Load reads flags, environment and file, in this order of precedence, on top of
// the defaults. Warnings are for people: settings that look misspelt.
func Load(flags *pflag.FlagSet, environ []string) (c Config, warnings []string, err error) {
	vars := map[string]string{}
	for _, kv := range environ {
		name, text, _ := strings.Cut(kv, "=")
		vars[name] = text
	}
	path, must := DefaultConfigFile, false
	if p := vars[envConfigFile]; p != "" {
		path, must = p, true
	}
	if f := flags.Lookup(flagConfig); f != nil && f.Changed {
		path, must = f.Value.String(), true
	}
	file, err := fileLayer(path, must)
	if err != nil {
		return Config{}, nil, err
	}
	layers := []layer{flagLayer(flags), envLayer(vars), file}

	c = DefaultConfig()
	if _, err := os.Stat(path); err == nil {
		c.File = path
	}
	for i := range settings {
		s := &settings[i]
		for _, l := range layers {
			if !l.values.Exists(s.key) {
				continue
			}
			c.origins[s.key] = l.origin(s)
			if err := l.set(&c, s); err != nil {
				return Config{}, nil, fmt.Errorf("%s: %w", c.origins[s.key], err)
			}
			break
		}
	}
	if c.Webhooks, err = parseWebhooks(file.values.Get(webhooksKey)); err != nil {
		return Config{}, nil, fmt.Errorf("%s: %s: %w", path, webhooksKey, err)
	}
	c.origins[webhooksKey] = path
	if err := c.applyPort(vars[envPort]); err != nil {
		return Config{}, nil, err
	}
	for _, s := range allSecrets() {
		t, ok, err := s.given(vars)
		if err != nil {
			return Config{}, nil, err
		}
		if ok {
			*s.field(&c) = s.parse(t)
			if vars[s.env] == "" && s.env != envNATSPassword {
				s.field(&c).File = vars[s.env+fileSuffix]
			}
		}
	}
	return c, append(c.warnings(), unknownVariables(vars)...), nil
}

// applyPort puts PORT into the HTTP address unless a flag has named the address.
func (c *Config) applyPort(port string) error {
	if port == "" || strings.HasPrefix(c.origins["http_addr"], "flag") {
		return nil
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%s: %q is not a port; use a number from 1 to 65535", origin("environment", envPort), port)
	}
	host, _, err := net.SplitHostPort(c.HTTPAddr)
	if err != nil {
		return fmt.Errorf("http_addr %q: %w", c.HTTPAddr, err)
	}
	c.HTTPAddr = net.JoinHostPort(host, port)
	c.origins["http_addr"] += ", port from " + origin("environment", envPort)
	return nil
}

func (c *Config) warnings() []string {
	list := append(c.userTokenWarnings(), c.deliveryWarnings()...)
	if e := strings.ToLower(c.Env); e == "prod" || e == "live" {
		list = append(list, fmt.Sprintf("%s: %q is taken as development; write %s to have it treated as production", c.origin("env"), c.Env, Production))
	}
	return list
}

// Validate judges what no setting can judge alone.
func (c *Config) Validate() error {
	if err := c.validateExternal(); err != nil {
		return err
	}
	if c.InProduction() && (c.AppID == "" || c.origins["app_id"] == "default") {
		return errors.New("ENV=production needs an app id; set MOZAIKS_APP_ID")
	}
	if err := c.validateUserTokens(); err != nil {
		return err
	}
	if c.EntitlementSource == SourceControlPlane && c.ControlPlaneURL == "" {
		return fmt.Errorf("%s: the source control_plane needs an address; set MOZAIKS_CONTROL_PLANE_URL", c.origin("entitlement_source"))
	}
	if err := c.validateDoors(); err != nil {
		return err
	}
	if c.Env != "" {
		return nil
	}
	for _, a := range []struct{ key, addr string }{{"http_addr", c.HTTPAddr}, {"nats_listen", c.NATSListen}, {"nats_websocket_listen", c.NATSWebSocket}} {
		if a.addr != "" && !isLoopback(a.addr) {
			return fmt.Errorf("%s: %s can be reached from other machines; use 127.0.0.1, or say where this runs by setting ENV (ENV=production, or any other name)",
				c.origin(a.key), a.addr)
		}
	}
	return nil
}

func (c *Config) origin(key string) string { return cmp.Or(c.origins[key], key) }

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// Shown is a setting as `grout config show` prints it.
type Shown struct {
	Name   string `json:"name"`
	Env    string `json:"env"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
}

// Show lists every setting with its value and where that came from. What a
// secret is worth is never in it.
func (c *Config) Show() []Shown {
	shown := make([]Shown, 0, len(settings)+len(secrets)+len(sentSecrets))
	for i := range settings {
		s := &settings[i]
		shown = append(shown, Shown{Name: s.key, Env: s.env, Value: s.value.show(c), Origin: c.origin(s.key)})
	}
	for _, s := range allSecrets() {
		shown = append(shown, s.show(c))
	}
	return append(shown, c.showWebhooks()...)
}

// layer is one place settings come from; the first layer that has one wins.
type layer struct {
	values *koanf.Koanf
	origin func(s *setting) string
}

func newLayer(values map[string]any, origin func(*setting) string) layer {
	k := koanf.New("\x00") // no key is a path
	// A map in memory cannot fail to load.
	_ = k.Load(confmap.Provider(values, ""), nil)
	return layer{k, origin}
}

func (l layer) set(c *Config, s *setting) error {
	switch v := l.values.Get(s.key).(type) {
	case nil:
		return errors.New(`has no value; give one, or "" for the empty text`)
	case string:
		if v == "" && !s.empty {
			return errors.New("is empty; give a value or leave it out")
		}
		return s.value.set(c, v)
	case int, int64, uint64, float64:
		if !s.value.number {
			return errors.New("is a number where text belongs; put it in quotes")
		}
		return s.value.set(c, fmt.Sprint(v))
	case bool:
		if !s.value.toggle {
			return errors.New("is true or false where text belongs; put it in quotes")
		}
		return s.value.set(c, strconv.FormatBool(v))
	default:
		return fmt.Errorf("has a value of the wrong kind (%T); put it in quotes", v)
	}
}

func origin(place, name string) string { return place + " " + name }

func flagLayer(flags *pflag.FlagSet) layer {
	values := map[string]any{}
	for i := range settings {
		s := &settings[i]
		if f := flags.Lookup(s.flag()); f != nil && f.Changed {
			values[s.key] = f.Value.String()
		}
	}
	return newLayer(values, func(s *setting) string { return origin("flag", "--"+s.flag()) })
}

func envLayer(vars map[string]string) layer {
	values, from := map[string]any{}, map[string]string{}
	for i := range settings {
		s := &settings[i]
		for _, name := range s.envNames() {
			t, ok := vars[name]
			if !ok || t == "" && (!s.empty || len(fallbacks[s.key]) > 0) {
				continue
			}
			values[s.key], from[s.key] = t, name
			break
		}
	}
	return newLayer(values, func(s *setting) string { return origin("environment", from[s.key]) })
}

func fileLayer(path string, must bool) (layer, error) {
	from := func(s *setting) string { return path + ": " + s.key }
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !must {
		return newLayer(nil, from), nil
	}
	if err != nil {
		return layer{}, fmt.Errorf("read settings file: %w", err)
	}
	k := koanf.New("\x00")
	if err := k.Load(rawbytes.Provider(text), yaml.Parser()); err != nil {
		return layer{}, fmt.Errorf("settings file %s: %w", path, err)
	}
	known := make([]string, 0, len(settings)+1)
	for i := range settings {
		known = append(known, settings[i].key)
	}
	known = append(known, webhooksKey)
	for _, key := range slices.Sorted(maps.Keys(k.Raw())) {
		if slices.Contains(known, key) {
			continue
		}
		for _, s := range allSecrets() {
			if strings.EqualFold(s.env, key) || strings.EqualFold(s.key(), key) {
				return layer{}, fmt.Errorf("%s: %s is a secret and does not belong in the settings file; set %s in the environment", path, key, s.env)
			}
		}
		return layer{}, fmt.Errorf("%s: unknown setting %q%s", path, key, suggest(key, known))
	}
	return layer{k, from}, nil
}

// unknownVariables warns of MOZAIKS_ variables that nothing reads.
func unknownVariables(vars map[string]string) (warnings []string) {
	known := []string{envConfigFile, EnvToken}
	for i := range settings {
		known = append(known, settings[i].envNames()...)
	}
	for _, s := range allSecrets() {
		known = append(known, s.env, s.env+fileSuffix)
	}
	for name := range vars {
		if strings.HasPrefix(name, "MOZAIKS_") && !slices.Contains(known, name) {
			warnings = append(warnings, fmt.Sprintf("environment %s is not a setting of this version%s", name, suggest(name, known)))
		}
	}
	slices.Sort(warnings)
	return warnings
}

// suggest names the nearest known name when it is near enough to be meant.
func suggest(name string, known []string) string {
	best, least := "", len(name)/3+2
	for _, k := range known {
		if d := editDistance(strings.ToLower(name), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", best)
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}

func text(field func(*Config) *string, check func(string) error) value {
	return value{
		set: func(c *Config, t string) error {
			*field(c) = t
			return check(t)
		},
		show: func(c *Config) string { return *field(c) },
	}
}

func anyText(string) error { return nil }

func hostPort(t string) error {
	if t == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(t)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%q is not an address; write host:port, such as 127.0.0.1:8080", t)
	}
	return nil
}

func chars(most int) func(string) error {
	return func(t string) error {
		if n := utf8.RuneCountInString(t); n < 1 || n > most || !utf8.ValidString(t) {
			return fmt.Errorf("must be UTF-8 text of 1 to %d characters", most)
		}
		return nil
	}
}

func oneOf(choices ...string) func(string) error {
	return func(t string) error {
		if slices.Contains(choices, t) {
			return nil
		}
		return fmt.Errorf("%q is not one of %s", t, strings.Join(choices, ", "))
	}
}

// httpURL takes the address of a server, which must not hold a key: settings are shown.
func httpURL(t string) error {
	if t == "" {
		return nil
	}
	u, err := url.Parse(t)
	if err == nil && u.RawQuery != "" {
		return errors.New("takes no query")
	}
	return keysURL(t)
}

// keysURL takes an address that may hold a query.
func keysURL(t string) error {
	if t == "" {
		return nil
	}
	u, err := url.Parse(t)
	switch {
	case err != nil:
		return errors.New("is not a URL")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("%q is not an address; write http://host:port or https://host", u.Redacted())
	case u.User != nil || u.Fragment != "":
		return errors.New("takes no user, password or fragment")
	}
	return nil
}

// words is a list of texts, separated by commas, of which there is at least one.
func words(field func(*Config) *[]string, check func(string) error) value {
	return value{
		set: func(c *Config, t string) error {
			*field(c) = nil
			for w := range strings.SplitSeq(t, ",") {
				w = strings.TrimSpace(w)
				if err := check(w); err != nil {
					return err
				}
				*field(c) = append(*field(c), w)
			}
			return nil
		},
		show: func(c *Config) string { return strings.Join(*field(c), ",") },
	}
}

// natsKeys is a list of public NKeys of users, which may be empty.
func natsKeys(field func(*Config) *[]string) value {
	return optional(words(field, bus.CheckNKey), field)
}

// origins is a list of origins of pages, which may be empty.
func origins(field func(*Config) *[]string) value {
	return optional(words(field, bus.CheckOrigin), field)
}

// optional takes the empty text for an empty list.
func optional(v value, field func(*Config) *[]string) value {
	set := v.set
	v.set = func(c *Config, t string) error {
		if strings.TrimSpace(t) == "" {
			*field(c) = nil
			return nil
		}
		return set(c, t)
	}
	return v
}

func toggle(field func(*Config) *bool) value {
	return value{
		number: true, toggle: true,
		set: func(c *Config, t string) error {
			switch strings.ToLower(strings.TrimSpace(t)) {
			case "1", "true", "yes", "on":
				*field(c) = true
			case "0", "false", "no", "off":
				*field(c) = false
			default:
				return fmt.Errorf("%q is neither true nor false", t)
			}
			return nil
		},
		show: func(c *Config) string { return strconv.FormatBool(*field(c)) },
	}
}

func count(field func(*Config) *int, least, most int) value {
	return value{
		number: true,
		set: func(c *Config, t string) error {
			n, err := strconv.Atoi(t)
			if err != nil || n < least || n > most {
				return fmt.Errorf("%q is not a whole number from %d to %d", t, least, most)
			}
			*field(c) = n
			return nil
		},
		show: func(c *Config) string { return strconv.Itoa(*field(c)) },
	}
}

func size(field func(*Config) *int64, least, most int64) value {
	return value{
		number: true,
		set: func(c *Config, t string) error {
			n, err := parseSize(t)
			if err != nil {
				return err
			}
			if n < least || n > most {
				return fmt.Errorf("%s is not between %s and %s", t, formatSize(least), formatSize(most))
			}
			*field(c) = n
			return nil
		},
		show: func(c *Config) string { return formatSize(*field(c)) },
	}
}

func duration(field func(*Config) *time.Duration, least, most time.Duration) value {
	return value{
		set: func(c *Config, t string) error {
			d, err := time.ParseDuration(t)
			if err != nil || d < least || d > most {
				return fmt.Errorf("%q is not a duration from %s to %s; write it as 500ms, 10s or 1m", t, least, most)
			}
			*field(c) = d
			return nil
		},
		show: func(c *Config) string { return field(c).String() },
	}
}

// seconds reads a number of seconds, which may have a fraction.
func seconds(field func(*Config) *time.Duration, least, most time.Duration) value {
	return value{
		number: true,
		set: func(c *Config, t string) error {
			n, err := strconv.ParseFloat(t, 64)
			if err != nil || !(n >= least.Seconds() && n <= most.Seconds()) {
				return fmt.Errorf("%q is not a number of seconds from %v to %v", t, least.Seconds(), most.Seconds())
			}
			*field(c) = time.Duration(n * float64(time.Second))
			return nil
		},
		show: func(c *Config) string { return strconv.FormatFloat(field(c).Seconds(), 'f', -1, 64) },
	}
}

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{
	{"TiB", tib},
	{"GiB", gib},
	{"MiB", mib},
	{"KiB", kib},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"KB", 1e3},
	{"B", 1},
}

func parseSize(t string) (int64, error) {
	digits, unit := strings.TrimSpace(t), int64(1)
	for _, u := range sizeUnits {
		if n := len(digits) - len(u.suffix); n >= 0 && strings.EqualFold(digits[n:], u.suffix) {
			digits, unit = strings.TrimSpace(digits[:n]), u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || int64(n) > (1<<63-1)/unit {
		return 0, fmt.Errorf("%q is not a size; write it as 8GiB, 256MiB or a number of bytes", t)
	}
	return int64(n) * unit, nil
}

func formatSize(n int64) string {
	for _, u := range sizeUnits[:4] {
		if n != 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}
