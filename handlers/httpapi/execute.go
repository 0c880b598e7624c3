package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"grout/schemas"
)

const (
	headerRun      = "X-Mozaiks-Run-Id"
	headerReplayed = "Idempotency-Replayed"
	headerKey      = "Idempotency-Key"
)

// maxCallBytesInFlight bounds what callers of plugins have sent and what waits in memory for
// a worker, for another request with the same key, or for the log.
const maxCallBytesInFlight = 256 << 20

// call is one request to execute a plugin.
type call struct {
	who    caller
	plugin Plugin
	dryRun bool
	async  bool
	run    schemas.PluginExecution

	decided func() // others with its idempotency key need not wait any more; nil: none do
	held    *budget
}

// hold counts what the caller sent against the memory of all calls, until letGo.
func (x *call) hold(of *budget) error {
	if !of.take(int64(len(x.run.Data))) {
		return schemas.BusyPlugin(x.plugin.Name)
	}
	x.held = of
	return nil
}

// letGo forgets what the caller sent: it is in the log, or is not needed.
func (x *call) letGo() {
	if x.held != nil {
		x.held.give(int64(len(x.run.Data)))
		x.run.Data, x.held = nil, nil
	}
}

func (x *call) isDecided() {
	if x.decided != nil {
		x.decided()
	}
}

// execute serves POST /api/execute/{plugin_name} and its alias, which names the plugin
// otherwise (contract §4). The checks stand in the order of the contract; each of them
// stops.
func (s *Server) execute(plugin string) echo.HandlerFunc {
	return func(c echo.Context) error {
		x, err := s.readCall(c, plugin)
		if err != nil {
			return err
		}
		s.keepConnection(c, x)
		return s.runCall(c, x)
	}
}

func (s *Server) runCall(c echo.Context, x *call) error {
	if x.dryRun {
		return s.dryRun(c, x)
	}
	if err := x.hold(&s.calls); err != nil {
		return err
	}
	defer x.letGo()
	if x.run.Key != "" {
		return s.executeOnce(c, x)
	}
	return s.executeNew(c, x)
}

func (s *Server) readCall(c echo.Context, plugin string) (*call, error) {
	name, err := pathParam(c, plugin)
	if err != nil {
		return nil, err
	}
	if name == "" {
		return nil, echo.ErrNotFound
	}
	p, err := s.Plugins.Find(name)
	if err != nil {
		return nil, err
	}
	in, err := s.readInput(c.Request(), &p)
	if err != nil {
		return nil, err
	}
	key, err := idempotencyKey(c.Request().Header)
	if err != nil {
		return nil, err
	}
	if err := s.mayTalkIn(c, in.ChatID); err != nil {
		return nil, err
	}
	x := &call{who: callerOf(c), plugin: p, dryRun: in.DryRun, async: prefersAsync(c.Request().Header["Prefer"])}
	x.run = schemas.PluginExecution{
		Plugin: p.Name, Action: in.Action, UserID: x.who.UserID, Username: x.who.Username, ChatID: in.ChatID,
		Roles: x.who.Roles[:min(len(x.who.Roles), schemas.MaxRolesPerUser)], Superadmin: x.who.Superadmin,
		Key: key, BodyDigest: in.Digest, Data: in.Data,
		Timeout: int64(p.Timeout), QueueTimeout: int64(p.QueueTimeout), Rerun: p.Rerun, Keep: key != "" || x.async,
	}
	return x, nil
}

// readInput reads the body, which may be of any content type (contract §1).
func (s *Server) readInput(r *http.Request, p *Plugin) (in schemas.PluginInput, err error) {
	if e := r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return in, schemas.Errorf(schemas.CodeMediaType, "Content-Encoding %.40q is not supported: send the body as it is", e)
	}
	limit := min(s.MaxBodyBytes, schemas.MaxExecuteBytes)
	if p.MaxInputBytes > 0 {
		limit = min(limit, p.MaxInputBytes)
	}
	body, err := s.readUpTo(r, limit)
	if err != nil {
		return in, err
	}
	defer body.release()
	in, fault := schemas.ParsePluginInput(body.bytes)
	if fault != nil {
		return in, fault
	}
	in.Action, in.ChatID = schemas.ActionName(in.Action), strings.Clone(in.ChatID) // parts of the body
	return in, nil
}

// mayTalkIn refuses a chat that is somebody else's, or is a run of somebody else, which has
// its own chat: what an execution comes to is counted and told there.
func (s *Server) mayTalkIn(c echo.Context, chat string) error {
	who := callerOf(c)
	if chat == "" || who.wholeApp() {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	known, err := s.Reads.Chat(ctx, who.App, chat)
	if err != nil {
		return fmt.Errorf("chat of an execution: %w", err)
	}
	run, err := s.Runs.Run(ctx, who.App, chat)
	if err != nil {
		return fmt.Errorf("run of the chat of an execution: %w", err)
	}
	if known != nil && !who.owns(known.UserID) || run != nil && !who.owns(run.UserID) {
		return errNoChat
	}
	return nil
}

func idempotencyKey(h http.Header) (string, error) {
	key := strings.TrimSpace(h.Get(headerKey))
	if n := utf8.RuneCountInString(key); n > schemas.MaxIDChars || !utf8.ValidString(key) {
		msg := fmt.Sprintf("%s must have at most %d characters of valid UTF-8", headerKey, schemas.MaxIDChars)
		return "", invalid(msg, schemas.FieldError{Loc: []any{"header", headerKey}, Msg: msg, Type: "string_length"})
	}
	return key, nil
}

// dryRun says what an execution would take, and takes nothing.
func (s *Server) dryRun(c echo.Context, x *call) error {
	d, _, err := s.judgeCall(c, x)
	if err != nil {
		return err
	}
	if !d.Allowed {
		return s.refuseCall(c, &d)
	}
	s.metrics.decisions.WithLabelValues("dry_run", "allow").Inc()
	s.rateHeaders(c, &d, true)
	b := []byte(`{"dry_run":true,"allowed":true,"would_consume":`)
	takes, err := json.Marshal(d.WouldConsume) // by name
	if err != nil {
		return err
	}
	if d.WouldConsume == nil {
		takes = []byte("{}")
	}
	return sendJSON(c, http.StatusOK, append(append(b, takes...), '}'))
}

func (s *Server) judgeCall(c echo.Context, x *call) (d schemas.Decision, final bool, err error) {
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	d, final, err = s.Plugins.JudgeExecution(ctx, x.who.App, &x.run)
	if err != nil {
		return d, false, fmt.Errorf("judge an execution: %w", err)
	}
	return d, final, nil
}

// refuseCall refuses by what is committed; no command enters the log.
func (s *Server) refuseCall(c echo.Context, d *schemas.Decision) error {
	s.metrics.refusedEarly.WithLabelValues(string(d.Code)).Inc()
	s.rateHeaders(c, d, false)
	return schemas.Errorf(d.Code, "%s", d.Detail)
}

// executeNew runs a plugin that no earlier request stands for.
func (s *Server) executeNew(c echo.Context, x *call) error {
	d, final, err := s.judgeCall(c, x)
	if err != nil {
		return err
	}
	if !d.Allowed && final {
		return s.refuseCall(c, &d)
	}
	var ticket Ticket
	if d.Allowed && !x.async { // one that waits in the log needs no place in the queue
		if ticket, err = s.Plugins.Enter(c.Request().Context(), x.plugin.Name); err != nil {
			return err
		}
	}
	x.run.RunID = uuid.Must(uuid.NewV7()).String()
	e, err := s.Plugins.Expect(Expected{App: x.who.App, Run: x.run.RunID, Plugin: x.plugin.Name, Token: x.who.Token, Ticket: ticket})
	if err != nil {
		if ticket != nil {
			ticket.Leave()
		}
		return err
	}
	return s.submitCall(c, x, e)
}

// submitCall brings an execution into the log and waits for what comes of it.
func (s *Server) submitCall(c echo.Context, x *call, e Execution) error {
	payload := x.run.EncodePayload(nil)
	x.letGo()
	// Who goes away now does not stop what the log may hold.
	o, applied, err := s.runCommand(context.WithoutCancel(c.Request().Context()), c, schemas.ExecutePlugin.Name, x.who.App, payload)
	switch {
	case errors.Is(err, errMaybeStored):
		e.Leave()
		return err
	case err != nil:
		e.Drop()
		return err
	case !applied:
		e.Leave()
		return answerLater(c, x.run.RunID)
	case o.Code != "":
		e.Drop()
		if statusOf[o.Code] == http.StatusTooManyRequests {
			s.retryAfter(c, o.Body)
		}
		return schemas.Errorf(o.Code, "%s", o.Detail)
	}
	var said struct {
		RunID string `json:"run_id"`
	}
	if err := json.Unmarshal(o.Body, &said); err != nil {
		e.Drop()
		return fmt.Errorf("answer of an execution: %w", err)
	}
	if said.RunID != x.run.RunID { // another request with the key was faster
		e.Drop()
		return s.replayOf(c, x, said.RunID)
	}
	x.isDecided()
	if x.async {
		e.Leave()
		c.Response().Header().Set("Preference-Applied", "respond-async")
		return answerLater(c, x.run.RunID)
	}
	ctx, cancel := s.forCall(c, x)
	defer cancel()
	a, ended := e.Wait(ctx)
	switch {
	case !ended && c.Request().Context().Err() != nil:
		return fmt.Errorf("the caller of run %s went away: %w", x.run.RunID, context.Canceled)
	case !ended:
		return answerLater(c, x.run.RunID)
	}
	return s.answerCall(c, x, x.run.RunID, &a)
}

// forCall bounds a wait for an execution by the time that it may take.
func (s *Server) forCall(c echo.Context, x *call) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Request().Context(), x.plugin.QueueTimeout+x.plugin.Timeout+s.WaitLimit)
}

// keepConnection keeps the limits of the connection, which are those of short requests,
// out of the way of an execution. The end of the time to read would end it, too.
func (s *Server) keepConnection(c echo.Context, x *call) {
	const room = 60 * time.Second // for the answer on its way
	connection := http.NewResponseController(c.Response())
	// A connection without deadlines is none that they could end.
	_ = connection.SetReadDeadline(time.Time{})
	_ = connection.SetWriteDeadline(time.Now().Add(2*x.plugin.QueueTimeout + x.plugin.Timeout + 2*s.WaitLimit + room))
}

// answerCall gives what a plugin answered, as it was written. Every failure is 500,
// whatever code the plugin gives it (contract §4).
func (s *Server) answerCall(c echo.Context, x *call, run string, a *PluginAnswer) error {
	c.Response().Header().Set(headerRun, run)
	p := &schemas.Error{Code: a.Code, Detail: a.Detail}
	switch {
	case a.Status == schemas.RunCompleted:
		return sendJSON(c, http.StatusOK, a.Result)
	case a.Status == schemas.RunCancelled:
		return schemas.Errorf(schemas.CodeRunCancelled, "The run was cancelled")
	case schemas.NotCalled(x.plugin.Name, a.Code, a.Detail):
		return p // it waited in the log
	}
	return sendJSON(c, http.StatusInternalServerError, appendProblem(nil, p, http.StatusInternalServerError))
}

// answerLater is the 202 of an execution that is durable and has not ended.
func answerLater(c echo.Context, run string) error {
	location := "/api/runs/" + url.PathEscape(run)
	c.Response().Header().Set(headerRun, run)
	c.Response().Header().Set("Location", location)
	b := appendAnyText([]byte(`{"run_id":`), run)
	b = appendAnyText(append(b, `,"status_url":`...), location)
	return sendJSON(c, http.StatusAccepted, append(b, '}'))
}

// retryAfter tells when a limit that has refused a command resets.
func (s *Server) retryAfter(c echo.Context, decision []byte) {
	var d struct {
		ResetsAt *time.Time `json:"resets_at"`
	}
	if json.Unmarshal(decision, &d) != nil || d.ResetsAt == nil {
		return
	}
	if wait := d.ResetsAt.UnixNano() - s.Now().UnixNano(); wait > 0 {
		c.Response().Header().Set("Retry-After", strconv.FormatInt(ceilSeconds(wait), 10))
	}
}
