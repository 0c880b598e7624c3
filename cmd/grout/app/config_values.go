package app

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"grout/bus"
)

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
