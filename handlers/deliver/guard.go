package deliver

import (
	"fmt"
	"net/netip"
	"syscall"
)

// A webhook's target is judged where it is dialled: behind the resolution of its name,
// so that no name can change its mind in between. Networks of one's own are reached only
// when a setting names them.

// special are networks that are nobody's out there.
var special = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
	"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
	"::/127", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/9", "ff00::/8",
)

// carriers hold an address of IPv4, from a byte on.
var carriers = []struct {
	net netip.Prefix
	at  int
}{
	{netip.MustParsePrefix("::/96"), 12},
	{netip.MustParsePrefix("64:ff9b::/96"), 12},
	{netip.MustParsePrefix("2002::/16"), 2},
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func within(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// public tells whether an address is one of the Internet.
func public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsValid() || a.Zone() != "" || within(special, a) {
		return false
	}
	for _, c := range carriers {
		if c.net.Contains(a) {
			b := a.As16()
			return public(netip.AddrFrom4([4]byte(b[c.at : c.at+4])))
		}
	}
	return true
}

// Targets says what webhooks may reach beside the Internet.
type Targets []netip.Prefix

// judge says why an address may not be reached; plain is without TLS, which nobody out
// there gets.
func (t Targets) judge(a netip.Addr, plain bool) error {
	switch {
	case within(t, a.Unmap().WithZone("")):
		return nil
	case !public(a):
		return fmt.Errorf("%s is not an address of the Internet, and no setting allows it (MOZAIKS_WEBHOOK_ALLOWED_NETWORKS)", a)
	case plain:
		return fmt.Errorf("%s would be sent to without TLS; use https", a)
	}
	return nil
}

// control is of a net.Dialer: it sees the address that was resolved.
func (t Targets) control(plain bool) func(network, address string, _ syscall.RawConn) error {
	return func(network, address string, _ syscall.RawConn) error {
		if network != "tcp4" && network != "tcp6" {
			return fmt.Errorf("network %s is not used", network)
		}
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("address %q cannot be read", address)
		}
		return t.judge(to.Addr(), plain)
	}
}
