package httpapi

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"
)

// origins are those of pages that may ask, beside the server's own (contract §1).
type origins []string

// named tells whether an origin is one of the list.
func (o origins) named(origin string) bool {
	return slices.ContainsFunc(o, func(known string) bool { return strings.EqualFold(known, origin) })
}

// allows tells whether a page may open a socket: browsers ask nobody before they do. Who is
// no browser names no origin.
func (o origins) allows(r *http.Request) bool {
	given := r.Header["Origin"]
	if len(given) == 0 {
		return true
	}
	u, err := url.Parse(given[0])
	own := err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
	return len(given) == 1 && (own || o.named(given[0]))
}

// Headers of other origins' pages (CORS).
const (
	corsMethods = "GET, HEAD, POST, DELETE"
	corsHeaders = "Authorization, Content-Type, Content-Encoding, X-Internal-API-Key, X-Mozaiks-Correlation-Id, X-Correlation-Id, Idempotency-Key, Prefer, Last-Event-ID, traceparent"
	corsExposed = "X-Mozaiks-Runtime-Version, X-Mozaiks-Correlation-Id, X-Mozaiks-Run-Id, Idempotency-Replayed, Retry-After, Location"
)

// answer lets a page of a named origin read the answer. Credentials are headers here, never
// cookies, so none are allowed.
func (o origins) answer(c echo.Context) {
	if len(o) == 0 {
		return
	}
	h := c.Response().Header()
	h.Add("Vary", "Origin")
	if origin := c.Request().Header.Get("Origin"); origin != "" && o.named(origin) {
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Expose-Headers", corsExposed)
	}
}

// preflight answers a browser that asks whether a page may ask, for a path that there is.
func (o origins) preflight(c echo.Context) bool {
	r, h := c.Request(), c.Response().Header()
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" || h.Get("Access-Control-Allow-Origin") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", corsHeaders)
	h.Set("Access-Control-Max-Age", "600")
	c.Response().WriteHeader(http.StatusNoContent)
	return true
}
