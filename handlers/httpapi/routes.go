package httpapi

import (
	"net/http"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"grout/schemas"
)

// route is one row of the table: what is served, to whom, and by which function.
type route struct {
	method, path string
	allow        rule
	serve        echo.HandlerFunc
}

// routes is every route there is. A GET route answers HEAD as well.
func (s *Server) routes() []route {
	metrics := promhttp.HandlerFor(s.Registry, promhttp.HandlerOpts{ErrorHandling: promhttp.PanicOnError})
	return []route{
		{"POST", "/api/usage/ingest", keysOrBasic, s.ingest},
		{"POST", "/api/billing/usage-events", serviceOnly, s.usageReports},
		{"GET", "/api/usage/batches/:batch_id", keys, s.batchStatus},
		{"GET", "/api/usage", keysOrUser, s.usage},
		{"GET", "/api/usage/events", keysOrUser, s.usageEvents},
		{"POST", "/api/usage/events/:event_id/void", keys, s.voidEvent},
		{"POST", "/api/usage/events/:event_id/amend", keys, s.amendEvent},
		{"GET", "/api/chats/:chat_id/usage", keysOrUser, s.chatUsage},
		{"POST", "/api/chats/:chat_id/usage/summary", keysOrUser, s.summarizeChat},
		{"POST", "/api/internal/entitlement/sync", internalOnly, s.syncEntitlement},
		{"POST", "/api/internal/subscription/sync", internalOnly, s.syncSubscription},
		{"POST", "/api/v1/entitlements/:app_id/sync", serviceOnly, s.syncApp},
		{"GET", "/api/v1/entitlements/:app_id", keysOrUser, s.entitled},
		{"GET", "/api/v1/entitlements/:app_id/versions", keys, s.versions},
		{"GET", "/api/v1/entitlements", keys, s.syncedApps},
		{"POST", "/api/entitlements/check", keysOrUser, s.check},
		{"POST", "/api/entitlements/explain", keysOrUser, s.explain},
		{"POST", "/api/budgets/reservations", keys, s.reserve},
		{"GET", "/api/budgets/reservations", keys, s.holds},
		{"POST", "/api/budgets/reservations/:reservation_id/settle", keys, s.settle},
		{"POST", "/api/budgets/reservations/:reservation_id/extend", keys, s.extend},
		{"DELETE", "/api/budgets/reservations/:reservation_id", keys, s.release},
		{"GET", "/api/plugins", usersOnly, s.plugins},
		{"GET", "/api/available-plugins", usersOnly, s.plugins},
		{"POST", "/api/execute/:plugin_name", usersOnly, s.execute("plugin_name")},
		{"POST", "/api/plugins/:name/execute", usersOnly, s.execute("name")},
		{"POST", "/api/orchestration/events", keys, s.reportRuns},
		{"GET", "/api/runs", keysOrUser, s.runList},
		{"GET", "/api/runs/:run_id", keysOrUser, s.runOne},
		{"GET", "/api/runs/:run_id/events", keysOrUser, s.runEvents},
		{"GET", "/api/runs/:run_id/usage", keysOrUser, s.runUsage},
		{"POST", "/api/runs/:run_id/cancel", keysOrUser, s.cancelRun},
		{"GET", "/api/dlq", keys, s.letters},
		{"GET", "/api/dlq/:letter_id", keys, s.letter},
		{"POST", "/api/dlq/:letter_id/retry", keys, s.retryLetter},
		{"DELETE", "/api/dlq/:letter_id", keys, s.dropLetter},
		{"GET", "/ws/:workflow_name/:app_id/:chat_id/:user_id", anybody, s.socket}, // judged behind the upgrade
		{"GET", "/api/events/stream", watchers, s.eventStream},
		{"POST", "/ofrep/v1/evaluate/flags/:key", keysOrUser, s.evaluateFlag},
		{"POST", "/ofrep/v1/evaluate/flags", keysOrUser, s.evaluateFlags},
		{"GET", "/api/webhooks", keys, s.webhooks},
		{"POST", "/api/webhooks/:name/test", keys, s.testWebhook},
		{"POST", "/api/webhooks/:name/resume", keys, s.resumeWebhook},
		{"GET", "/health", anybody, s.health},
		{"GET", "/ready", anybody, s.ready},
		{"GET", "/info", anybody, s.info},
		{"GET", "/metrics", anybody, echo.WrapHandler(metrics)},
		{"GET", "/openapi.json", anybody, document(schemas.OpenAPI())},
		{"GET", "/asyncapi.json", anybody, document(schemas.AsyncAPI())},
	}
}

// guard puts in front of a route what holds for all of them: a stopped server
// takes no writes, and the caller is known before anything of the body is read
// (contract §1).
func (s *Server) guard(r route) echo.HandlerFunc {
	writes := r.method != http.MethodGet
	return func(c echo.Context) error {
		if writes && s.stopped.Load() {
			c.Response().Header().Set("Connection", "close")
			return unavailable("The server is shutting down", nil)
		}
		if call := serviceOf(c.Request()); call != nil {
			c.Set(callerKey, &call.who)
			return r.serve(c)
		}
		who, err := s.admitTo(r.allow, c.Request())
		if err != nil {
			return err
		}
		c.Set(callerKey, who)
		return r.serve(c)
	}
}
