package schemas

// PluginCaller is on whose behalf a plugin runs.
type PluginCaller struct {
	AppID, UserID string
	Username      string // empty: null
	Roles         []string
	Superadmin    bool
	Token         string // the raw user token; empty: null
	Entitlements  []byte // JSON of _entitlements
}

// AppendPluginInput adds what a plugin is given: the client's object, which must be one
// without the reserved keys, and beside it what only grout says (contract §4).
func AppendPluginInput(dst, data []byte, c *PluginCaller) []byte {
	if len(data) == 0 {
		data = []byte(`{}`)
	}
	end := len(data) - 1 // of the closing brace
	dst = append(dst, data[:end]...)
	if !emptyObject(data) {
		dst = append(dst, ',')
	}
	dst = AppendJSONString(append(dst, `"app_id":`...), c.AppID)
	dst = AppendJSONString(append(dst, `,"user_id":`...), c.UserID)
	dst = appendOrNull(append(dst, `,"user_jwt":`...), c.Token)
	dst = AppendJSONString(append(dst, `,"_context":{"app_id":`...), c.AppID)
	dst = AppendJSONString(append(dst, `,"user_id":`...), c.UserID)
	dst = appendOrNull(append(dst, `,"username":`...), c.Username)
	dst = append(dst, `,"roles":[`...)
	for i, role := range c.Roles {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendJSONString(dst, role)
	}
	dst = append(dst, `],"is_superadmin":`...)
	if c.Superadmin {
		dst = append(dst, "true"...)
	} else {
		dst = append(dst, "false"...)
	}
	dst = append(dst, `},"_entitlements":`...)
	if len(c.Entitlements) == 0 {
		return append(dst, "{}}"...)
	}
	return append(append(dst, c.Entitlements...), '}')
}

func emptyObject(data []byte) bool {
	s := jsonScanner{text: viewString(data)}
	s.pos = 1
	return s.peek() == '}'
}

func appendOrNull(dst []byte, text string) []byte {
	if text == "" {
		return append(dst, "null"...)
	}
	return AppendJSONString(dst, text)
}
