package app

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"grout/handlers/deliver"
	"grout/handlers/identity"
	"grout/handlers/plugins"
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
