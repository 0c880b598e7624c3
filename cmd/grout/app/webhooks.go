package app

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"grout/handlers/deliver"
)

// webhooksKey is the part of the settings file that lists webhooks.
const webhooksKey = "webhooks"

// Bounds of what the settings file says of webhooks.
const (
	maxWebhooks    = 32
	maxWebhookText = 256 // patterns and apps
	maxWebhookList = 64
	maxWebhookKeys = 8
	secretLook     = time.Second
	maxWebhookURL  = 2048
)

// WebhookConfig is one entry of webhooks in the settings file.
type WebhookConfig struct {
	Name    string
	URL     string
	Kinds   []string
	Apps    []string
	Enabled bool

	secrets []deliver.Key // of the settings file
	files   []string      // with one in each line
}

var (
	webhookName    = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	webhookPattern = regexp.MustCompile(`^[a-z_.*]+$`)
	webhookFields  = []string{"name", "url", "secrets", "secret_files", "kinds", "apps", "enabled"}
)

// parseWebhooks reads the list of the settings file.
func parseWebhooks(raw any) ([]WebhookConfig, error) {
	if raw == nil {
		return nil, nil
	}
	list, ok := raw.([]any)
	if !ok {
		return nil, errors.New("must be a list of webhooks")
	}
	if len(list) > maxWebhooks {
		return nil, fmt.Errorf("has more than %d webhooks", maxWebhooks)
	}
	hooks := make([]WebhookConfig, 0, len(list))
	for i, entry := range list {
		w, err := parseWebhook(entry)
		if err != nil {
			return nil, fmt.Errorf("webhook %d%s: %w", i+1, named(w.Name), err)
		}
		if slices.ContainsFunc(hooks, func(o WebhookConfig) bool { return o.Name == w.Name }) {
			return nil, fmt.Errorf("two webhooks have the name %q", w.Name)
		}
		hooks = append(hooks, w)
	}
	return hooks, nil
}

func named(name string) string {
	if name == "" {
		return ""
	}
	return fmt.Sprintf(" (%s)", name)
}

func parseWebhook(entry any) (w WebhookConfig, err error) {
	fields, ok := entry.(map[string]any)
	if !ok {
		return w, errors.New("is no set of fields")
	}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(webhookFields, key) {
			return w, fmt.Errorf("unknown field %q%s", key, suggest(key, webhookFields))
		}
	}
	w.Enabled = true
	if v, given := fields["enabled"]; given {
		if w.Enabled, ok = v.(bool); !ok {
			return w, errors.New("enabled must be true or false")
		}
	}
	if w.Name, ok = fields["name"].(string); !ok || !webhookName.MatchString(w.Name) {
		w.Name = ""
		return w, errors.New("name must have 1 to 64 characters of a–z, 0–9, _ and -")
	}
	if w.URL, ok = fields["url"].(string); !ok || len(w.URL) > maxWebhookURL || w.URL == "" {
		return w, errors.New("url must be an address")
	}
	if err := keysURL(w.URL); err != nil {
		return w, fmt.Errorf("url: %w", err)
	}
	if w.Kinds, err = texts(fields["kinds"], "kinds", webhookPattern); err != nil {
		return w, err
	}
	if w.Apps, err = texts(fields["apps"], "apps", nil); err != nil {
		return w, err
	}
	return w, w.readSecrets(fields)
}

func (w *WebhookConfig) readSecrets(fields map[string]any) (err error) {
	texts1, err := texts(fields["secrets"], "secrets", nil)
	if err != nil {
		return err
	}
	for i, text := range texts1 {
		key, err := deliver.ParseSecret(text)
		if err != nil {
			return fmt.Errorf("secret %d: %w", i+1, err)
		}
		w.secrets = append(w.secrets, key)
	}
	if w.files, err = texts(fields["secret_files"], "secret_files", nil); err != nil {
		return err
	}
	if len(w.secrets)+len(w.files) == 0 {
		return errors.New("needs secrets or secret_files; grout webhooks secret makes one")
	}
	if _, err := w.load(); err != nil {
		return err
	}
	return nil
}

// texts reads a list of texts, or a single one.
func texts(raw any, name string, like *regexp.Regexp) (list []string, err error) {
	items, ok := raw.([]any)
	switch text, single := raw.(string); {
	case raw == nil:
		return nil, nil
	case single:
		items = []any{text}
	case !ok || len(items) > maxWebhookList:
		return nil, fmt.Errorf("%s must be a list of at most %d texts", name, maxWebhookList)
	}
	for _, item := range items {
		text, ok := item.(string)
		if !ok || text == "" || len(text) > maxWebhookText || like != nil && !like.MatchString(text) {
			return nil, fmt.Errorf("%s holds something that is none", name)
		}
		list = append(list, text)
	}
	return list, nil
}

// load reads the secrets that sign now.
func (w *WebhookConfig) load() (keys []deliver.Key, err error) {
	keys = slices.Clone(w.secrets)
	for _, path := range w.files {
		text, err := readSecretFile(path)
		if err != nil {
			return nil, fmt.Errorf("secret file: %w", err)
		}
		lines := bufio.NewScanner(bytes.NewReader([]byte(text)))
		for n := 1; lines.Scan(); n++ {
			line := strings.TrimSpace(lines.Text())
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			key, err := deliver.ParseSecret(line)
			if err != nil {
				return nil, fmt.Errorf("secret file %s, line %d: %w", path, n, err)
			}
			keys = append(keys, key)
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("secret file %s: %w", path, err)
		}
	}
	if len(keys) == 0 || len(keys) > maxWebhookKeys {
		return nil, fmt.Errorf("has %d secrets, and needs 1 to %d", len(keys), maxWebhookKeys)
	}
	return keys, nil
}

// keys gives the secrets as they are now: files are read again when they have changed, so
// that secrets rotate without a restart. What cannot be read leaves the last ones.
func (w *WebhookConfig) keys(logger *slog.Logger) func() ([]deliver.Key, error) {
	return w.keysEvery(logger, secretLook)
}

func (w *WebhookConfig) keysEvery(logger *slog.Logger, every time.Duration) func() ([]deliver.Key, error) {
	var mu sync.Mutex
	var known []deliver.Key
	var looked time.Time
	var seen, told string
	return func() ([]deliver.Key, error) {
		mu.Lock()
		defer mu.Unlock()
		if known != nil && (len(w.files) == 0 || time.Since(looked) < every) {
			return known, nil
		}
		looked = time.Now()
		state := fileStates(w.files)
		if known != nil && state == seen {
			return known, nil
		}
		keys, err := w.load()
		if err == nil {
			if known != nil {
				logger.Info("secrets of a webhook have changed", "webhook", w.Name, "secrets", len(keys))
			}
			known, seen, told = keys, state, ""
			return keys, nil
		}
		if known == nil {
			return nil, err
		}
		if err.Error() != told {
			told = err.Error()
			logger.Error("secrets of a webhook cannot be read; the last ones sign", "webhook", w.Name, "error", err)
		}
		return known, nil
	}
}

// fileStates tells files from what they become when they are changed.
func fileStates(paths []string) string {
	var b strings.Builder
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			fmt.Fprintf(&b, "%s: %v\n", path, err)
			continue
		}
		fmt.Fprintf(&b, "%s: %d %d\n", path, info.Size(), info.ModTime().UnixNano())
	}
	return b.String()
}

// shown is the address without its query, which may hold what only the endpoint knows.
func (w *WebhookConfig) shown() string { return shownURL(w.URL) }

func shownURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	if u.RawQuery != "" {
		u.RawQuery = "…"
	}
	return u.Redacted()
}

// showWebhooks adds the webhooks to the settings that are shown.
func (c *Config) showWebhooks() (list []Shown) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		value := w.shown() + " kinds=" + cmp.Or(strings.Join(w.Kinds, ","), "*")
		if len(w.Apps) > 0 {
			value += " apps=" + strings.Join(w.Apps, ",")
		}
		if !w.Enabled {
			value += " (disabled)"
		}
		list = append(list, Shown{Name: webhooksKey + "." + w.Name, Value: value, Origin: c.origin(webhooksKey)})
	}
	return list
}

// reportsUpstream tells whether usage is reported to a Platform.
func (c *Config) reportsUpstream() bool { return c.PlatformURL != "" && len(c.PlatformKey.Values) > 0 }

// deliveryWarnings tell of half of what upstream reporting needs, and of secrets that
// others can read.
func (c *Config) deliveryWarnings() (list []string) {
	switch key := len(c.PlatformKey.Values) > 0; {
	case c.PlatformURL != "" && !key:
		list = append(list, "MOZAIKS_PLATFORM_URL is set without MOZAIKS_PLATFORM_API_KEY: usage is not reported upstream")
	case c.PlatformURL == "" && key:
		list = append(list, "MOZAIKS_PLATFORM_API_KEY is set without MOZAIKS_PLATFORM_URL: usage is not reported upstream")
	}
	if slices.ContainsFunc(c.Webhooks, func(w WebhookConfig) bool { return len(w.secrets) > 0 }) {
		if info, err := os.Stat(c.File); err == nil && info.Mode().Perm()&0o077 != 0 {
			list = append(list, fmt.Sprintf("%s holds secrets of webhooks and can be read by others; run: chmod 600 %s", c.File, c.File))
		}
	}
	return list
}

// networks is a list of networks, which may be empty.
func networks(field func(*Config) *deliver.Targets) value {
	return value{
		set: func(c *Config, t string) error {
			*field(c) = nil
			for part := range strings.SplitSeq(t, ",") {
				if part = strings.TrimSpace(part); part == "" {
					continue
				}
				p, err := netip.ParsePrefix(part)
				if err != nil {
					a, err := netip.ParseAddr(part)
					if err != nil || a.Zone() != "" {
						return fmt.Errorf("%.80q is no network; write 10.1.0.0/16, or an address", part)
					}
					p = netip.PrefixFrom(a, a.BitLen())
				}
				*field(c) = append(*field(c), p.Masked())
			}
			return nil
		},
		show: func(c *Config) string {
			var list []string
			for _, p := range *field(c) {
				list = append(list, p.String())
			}
			return strings.Join(list, ",")
		},
	}
}

// secondsOrDuration reads 60 as well as 60s.
func secondsOrDuration(field func(*Config) *time.Duration, least, most time.Duration) value {
	d, s := duration(field, least, most), seconds(field, least, most)
	d.number = true
	set := d.set
	d.set = func(c *Config, t string) error {
		if s.set(c, t) == nil {
			return nil
		}
		return set(c, t)
	}
	return d
}
