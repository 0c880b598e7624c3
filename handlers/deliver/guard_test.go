package deliver

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Which addresses webhooks reach, with TLS and without, by themselves and when a setting
// allows their network.
func TestTargets(t *testing.T) {
	for _, c := range []struct {
		address string
		public  bool
	}{
		{"8.8.8.8", true},
		{"1.1.1.1", true},
		{"172.15.255.255", true},
		{"172.32.0.1", true},
		{"100.63.255.255", true},
		{"100.128.0.0", true},
		{"192.167.255.255", true},
		{"223.255.255.255", true},
		{"2606:4700:4700::1111", true},
		{"2a00:1450::1", true},
		{"64:ff9b::8.8.8.8", true},
		{"2002:808:808::1", true},
		{"::ffff:8.8.8.8", true},

		{"0.0.0.0", false},
		{"0.1.2.3", false},
		{"10.0.0.1", false},
		{"10.255.255.255", false},
		{"100.64.0.1", false},
		{"100.100.100.200", false}, // metadata of a cloud
		{"127.0.0.1", false},
		{"127.255.255.254", false},
		{"169.254.169.254", false}, // metadata of others
		{"169.254.0.1", false},
		{"172.16.0.1", false},
		{"172.31.255.255", false},
		{"192.0.0.170", false},
		{"192.0.2.1", false},
		{"192.168.0.1", false},
		{"198.18.0.1", false},
		{"198.51.100.1", false},
		{"203.0.113.1", false},
		{"224.0.0.1", false},
		{"240.0.0.1", false},
		{"255.255.255.255", false},
		{"::", false},
		{"::1", false},
		{"::127.0.0.1", false},
		{"::ffff:127.0.0.1", false},
		{"::ffff:169.254.169.254", false},
		{"::ffff:0:0", false},
		{"64:ff9b::10.0.0.1", false},
		{"64:ff9b::169.254.169.254", false},
		{"64:ff9b:1::8.8.8.8", false},
		{"2002:7f00:1::1", false},
		{"2002:a9fe:a9fe::1", false},
		{"2001:0:1::1", false},
		{"2001:db8::1", false},
		{"fc00::1", false},
		{"fd00:ec2::254", false}, // metadata, too
		{"fe80::1", false},
		{"fe80::1%eth0", false},
		{"fec0::1", false},
		{"ff02::1", false},
		{"100::1", false},
	} {
		a := netip.MustParseAddr(c.address)
		if got := Targets(nil).judge(a, false) == nil; got != c.public {
			t.Errorf("%s: reached %v", c.address, got)
		}
		if Targets(nil).judge(a, true) == nil {
			t.Errorf("%s is reached without TLS", c.address)
		}
		own := Targets{netip.PrefixFrom(a.Unmap().WithZone(""), a.Unmap().BitLen())}
		if err := own.judge(a, true); err != nil {
			t.Errorf("%s is allowed: %v", c.address, err)
		}
	}
	for address, network := range map[string]string{"8.8.8.8:53": "udp4", "nonsense": "tcp4", "127.0.0.1": "tcp4", "/tmp/socket": "unix"} {
		if Targets(nil).control(false)(network, address, nil) == nil {
			t.Errorf("%s %s may be dialled", network, address)
		}
	}
}

// The scheme of an address may be spelled as one likes, and is the same for all that.
func TestPlain(t *testing.T) {
	for address, want := range map[string]bool{
		"http://example.com": true, "HTTP://example.com": true, "Http://example.com/hook?x=https:": true,
		"https://example.com": false, "HTTPS://example.com/http:": false,
	} {
		if plain(address) != want {
			t.Errorf("%s is plain: %v", address, !want)
		}
	}
}

// The address is judged where it is dialled, whatever name or form leads there.
func TestDialIsJudged(t *testing.T) {
	reached := false
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer server.Close()
	port := server.URL[strings.LastIndex(server.URL, ":"):]
	for _, host := range []string{"127.0.0.1", "localhost", "LOCALHOST", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::]"} {
		for _, scheme := range []string{"http://", "https://"} {
			w := NewWebhook(WebhookOptions{Name: "x", URL: scheme + host + port, Keys: testKeys(t, testSecret), Timeout: 5 * time.Second})
			got := w.Test(context.Background(), "x")
			if reached || got.Error == "" {
				t.Errorf("%s was reached", w.o.URL)
			}
			w.client.CloseIdleConnections()
		}
	}
	w := NewWebhook(WebhookOptions{Name: "x", URL: "http://localhost" + port, Keys: testKeys(t, testSecret), Targets: Targets{netip.MustParsePrefix("127.0.0.1/32")}})
	if got := w.Test(context.Background(), "x"); !reached {
		t.Errorf("%+v", got)
	}
	w.client.CloseIdleConnections()
}

// A proxy in the environment would see what the endpoint should, and dial for us.
func TestNoProxy(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	o := WebhookOptions{URL: "https://example.com"}
	transport := newClient(&o).Transport.(*http.Transport)
	if transport.Proxy != nil {
		u, err := transport.Proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: "example.com"}})
		t.Errorf("goes through %v, %v", u, err)
	}
}

// An endpoint must prove by its certificate who it is.
func TestCertificatesAreVerified(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a stranger was reached") }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	w := hook(t, server.URL, nil)
	defer w.client.CloseIdleConnections()
	if got := w.Test(t.Context(), "x"); !strings.Contains(got.Error, "certificate") {
		t.Errorf("%+v", got)
	}
}
