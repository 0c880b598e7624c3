package httpapi

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// flagProblem is a fault of an evaluation: the shape of contract §1, and in it what OFREP
// says of faults.
type flagProblem struct {
	known    *schemas.Error
	key      string
	code     string
	hasNoKey bool // the evaluation is of all flags
}

// evaluateFlag serves POST /ofrep/v1/evaluate/flags/{key}.
func (s *Server) evaluateFlag(c echo.Context) error {
	key, err := pathParam(c, "key")
	if err != nil {
		return err
	}
	flags, problem, err := s.flagsOf(c)
	switch {
	case err != nil:
		return err
	case problem != nil:
		problem.key = key
		return sendFlagProblem(c, problem)
	}
	for i := range flags {
		if flags[i].Key == key {
			return sendJSON(c, http.StatusOK, flags[i].AppendJSON(nil))
		}
	}
	return sendFlagProblem(c, &flagProblem{
		known: schemas.Errorf(schemas.CodeNotFound, "No feature, plan or limit is listed as %.200q", key), key: key, code: schemas.FlagNotFound,
	})
}

// evaluateFlags serves POST /ofrep/v1/evaluate/flags.
func (s *Server) evaluateFlags(c echo.Context) error {
	flags, problem, err := s.flagsOf(c)
	switch {
	case err != nil:
		return err
	case problem != nil:
		problem.hasNoKey = true
		return sendFlagProblem(c, problem)
	}
	b := []byte(`{"flags":[`)
	for i := range flags {
		if i > 0 {
			b = append(b, ',')
		}
		b = flags[i].AppendJSON(b)
	}
	b = append(b, `]}`...)
	sum := sha256.Sum256(b)
	tag := `"` + hex.EncodeToString(sum[:16]) + `"`
	c.Response().Header().Set("ETag", tag)
	if matches(c.Request().Header.Values("If-None-Match"), tag) {
		return c.NoContent(http.StatusNotModified)
	}
	return sendJSON(c, http.StatusOK, b)
}

// matches compares entity tags as If-None-Match does: weakly, with * for any.
func matches(headers []string, tag string) bool {
	for _, h := range headers {
		for part := range strings.SplitSeq(h, ",") {
			if part = strings.TrimSpace(part); part == "*" || strings.TrimPrefix(part, "W/") == tag {
				return true
			}
		}
	}
	return false
}

// flagsOf reads whom the flags are asked for, and gives them all.
func (s *Server) flagsOf(c echo.Context) ([]schemas.Flag, *flagProblem, error) {
	if _, err := readQuery(c.Request().URL.RawQuery); err != nil {
		return nil, nil, err
	}
	body, err := s.readJSON(c.Request())
	if err != nil {
		return nil, nil, err
	}
	asked, fault, detail := schemas.ParseFlagContext(body.bytes)
	body.release()
	if fault != "" {
		code := schemas.CodeInvalidRequest
		if fault == schemas.FlagParseError {
			code = schemas.CodeInvalidJSON
		}
		return nil, &flagProblem{known: schemas.Errorf(code, "%s", detail), code: fault}, nil
	}
	who := Subject{App: asked.AppID, User: asked.UserID, Tenant: asked.TenantID}
	by := callerOf(c)
	if by.Key {
		who.App = cmp.Or(who.App, s.AppID)
		if who.User == "" {
			return nil, &flagProblem{known: schemas.Errorf(schemas.CodeInvalidRequest, "targetingKey must name the user"), code: schemas.FlagKeyMissing}, nil
		}
	} else if who, err = by.flagsFor(s, who); err != nil {
		return nil, &flagProblem{known: errNotYours, code: schemas.FlagGeneral}, nil
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	text, err := s.Entitlements.Entitled(ctx, who, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("flags: %w", err)
	}
	var d schemas.EntitlementsData
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, nil, errors.Join(errors.New("flags: read what somebody is entitled to"), err)
	}
	return d.Flags(), nil, nil
}

// flagsFor lets a user ask for the own flags only, as for a check.
func (c caller) flagsFor(s *Server, who Subject) (Subject, error) {
	if who.Tenant != "" || who.User != "" && who.User != c.UserID {
		return who, errNotYours
	}
	who.User = c.UserID
	var err error
	who.App, err = c.appOf(s, who.App)
	return who, err
}

func sendFlagProblem(c echo.Context, p *flagProblem) error {
	status := statusOf[p.known.Code]
	b := []byte{'{'}
	if !p.hasNoKey {
		b = append(appendAnyText(append(b, `"key":`...), p.key), ',')
	}
	b = appendAnyText(append(b, `"errorCode":`...), p.code)
	b = appendAnyText(append(b, `,"errorDetails":`...), p.known.Detail)
	b = appendAnyText(append(b, `,"detail":`...), p.known.Detail)
	b = appendAnyText(append(b, `,"error_code":`...), string(p.known.Code))
	b = strconv.AppendInt(append(b, `,"status_code":`...), int64(status), 10)
	return sendJSON(c, status, append(b, '}'))
}
