package schemas

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Error codes of the OpenFeature Remote Evaluation Protocol.
const (
	FlagNotFound       = "FLAG_NOT_FOUND"
	FlagParseError     = "PARSE_ERROR"
	FlagInvalidContext = "INVALID_CONTEXT"
	FlagKeyMissing     = "TARGETING_KEY_MISSING"
	FlagGeneral        = "GENERAL"
)

// FlagContext is whom a flag is evaluated for; empty: not named.
type FlagContext struct{ AppID, TenantID, UserID string }

// ParseFlagContext reads the body of an evaluation. Of its context only targetingKey,
// app_id and tenant_id count. fault is one of the codes above; empty: there is none.
func ParseFlagContext(body []byte) (c FlagContext, fault, detail string) {
	v, err := readJSONValue(bytes.Clone(body))
	switch {
	case err != nil && err.Code == CodeInvalidJSON:
		return c, FlagParseError, err.Detail
	case err != nil:
		return c, FlagInvalidContext, err.Detail
	case v.is() != '{':
		return c, FlagParseError, "the body must be an object"
	}
	v.each(func(name string, value jsonValue) {
		if name != "context" || fault != "" || value.null() {
			return
		}
		if value.is() != '{' {
			fault, detail = FlagInvalidContext, "context must be an object"
			return
		}
		value.each(func(name string, value jsonValue) {
			field := map[string]*string{"targetingKey": &c.UserID, "app_id": &c.AppID, "tenant_id": &c.TenantID}[name]
			if field == nil || fault != "" || value.null() {
				return
			}
			if value.is() != '"' {
				fault, detail = FlagInvalidContext, name+" must be a string"
				return
			}
			*field = value.string().decoded()
			if n := utf8.RuneCountInString(*field); n > MaxIDChars || n == 0 && name != "targetingKey" {
				fault, detail = FlagInvalidContext, name+" must have 1 to 128 characters"
			}
		})
	})
	return c, fault, detail
}

// Flag is a flag and its value, as JSON.
type Flag struct {
	Key     string
	Value   string
	Variant string
}

// Flags gives what somebody is entitled to as flags, by key: features under their own
// names, and beside them plan (an object), plan.tier, plan.status and rate_limits.<name>,
// as far as no feature has such a name.
func (d *EntitlementsData) Flags() []Flag {
	var list []Flag
	add := func(key, value, variant string) {
		if _, feature := d.Features[key]; !feature {
			list = append(list, Flag{key, value, variant})
		}
	}
	for key, on := range d.Features {
		f := Flag{key, "false", "off"}
		if on {
			f.Value, f.Variant = "true", "on"
		}
		list = append(list, f)
	}
	text := func(s string) string { return string(AppendJSONString(nil, s)) }
	plan := `{"tier":` + text(string(d.Plan.Tier))
	for _, p := range [...]struct{ name, value string }{
		{"status", string(d.Plan.Status)},
		{"id", d.Plan.ID},
		{"name", d.Plan.Name},
		{"billing_period", d.Plan.BillingPeriod},
		{"expires_at", d.Plan.ExpiresAt},
	} {
		if p.value != "" {
			plan += `,"` + p.name + `":` + text(p.value)
		}
	}
	add("plan", plan+"}", "")
	add("plan.tier", text(string(d.Plan.Tier)), "")
	if d.Plan.Status != "" {
		add("plan.status", text(string(d.Plan.Status)), "")
	}
	for name, limit := range d.RateLimits {
		add("rate_limits."+name, strconv.FormatInt(limit, 10), "")
	}
	slices.SortFunc(list, func(a, b Flag) int { return strings.Compare(a.Key, b.Key) })
	return list
}

// AppendJSON adds the flag as an evaluation of OFREP that succeeded.
func (f *Flag) AppendJSON(b []byte) []byte {
	b = AppendJSONString(append(b, `{"key":`...), f.Key)
	b = append(append(b, `,"value":`...), f.Value...)
	b = append(b, `,"reason":"TARGETING_MATCH"`...)
	b = appendTextField(b, `,"variant":`, f.Variant)
	return append(b, '}')
}
