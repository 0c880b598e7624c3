package bus

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// SetDoors opens and closes doors of a server that runs. Who came in by what opens no
// door any more is sent away, and so is a publisher whose apps are others; closed is
// their number. A publisher that the server did not know when it started has no account:
// it is left out, and unknown names it.
func (s *Server) SetDoors(d Doors) (closed int, unknown []string, err error) {
	if err := d.Check(); err != nil {
		return 0, nil, err
	}
	d.Publishers = slices.DeleteFunc(slices.Clone(d.Publishers), func(p AppPublisher) bool {
		known := slices.Contains(s.accounts, p.Name)
		if !known {
			unknown = append(unknown, p.Name)
		}
		return !known
	})
	return s.door.change(d, s.password), unknown, nil
}

// ReloadTLS reads the files of the certificate and of the authorities anew. When they
// cannot be used the last ones stay in use, and the error says why. Connections that are
// open stay open.
func (s *Server) ReloadTLS() (changed bool, err error) {
	if s.certs == nil {
		return false, nil
	}
	return s.certs.reload()
}

// WebSocketURL is where browsers connect; empty when they cannot.
func (s *Server) WebSocketURL() string {
	if !s.browsers {
		return ""
	}
	return s.ns.WebsocketURL()
}

// webSocket adds the listener for browsers.
func (o *ServerOptions) webSocket(opts *server.Options) (err error) {
	if o.WebSocket == "" {
		return nil
	}
	ws := &opts.Websocket
	if ws.Host, ws.Port, err = splitAddress(o.WebSocket); err != nil {
		return err
	}
	ip := net.ParseIP(ws.Host)
	if loopback := strings.EqualFold(ws.Host, "localhost") || ip != nil && ip.IsLoopback(); opts.TLSConfig == nil && !loopback {
		return fmt.Errorf("the WebSocket address %s can be reached from other machines: it needs TLS, or a loopback address", o.WebSocket)
	}
	ws.TLSConfig, ws.NoTLS = opts.TLSConfig, opts.TLSConfig == nil
	ws.AuthTimeout, ws.HandshakeTimeout = opts.AuthTimeout, 5*time.Second
	ws.AllowedOrigins, ws.SameOrigin = o.Origins, len(o.Origins) == 0
	for _, origin := range o.Origins {
		if err := CheckOrigin(origin); err != nil {
			return err
		}
	}
	return nil
}

// CheckOrigin tells whether a text is the origin of a page.
func CheckOrigin(origin string) error {
	u, err := url.Parse(origin)
	if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil) {
		err = errors.New("write it as https://host or https://host:port")
	}
	if err == nil && u.Port() != "" {
		_, err = strconv.ParseUint(u.Port(), 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%q is not the origin of a page: %w", origin, err)
	}
	return nil
}
