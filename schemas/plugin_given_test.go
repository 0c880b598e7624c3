package schemas

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAppendPluginInput(t *testing.T) {
	full := PluginCaller{AppID: "a", UserID: `u"1`, Username: "Ann", Roles: []string{"r", "s"}, Superadmin: true, Token: "t.o.k", Entitlements: []byte(`{"enforce":true}`)}
	for _, c := range []struct {
		data string
		who  PluginCaller
		want string
	}{
		{`{}`, PluginCaller{AppID: "a", UserID: "u"}, `{"app_id":"a","user_id":"u","user_jwt":null,"_context":{"app_id":"a","user_id":"u","username":null,"roles":[],"is_superadmin":false},"_entitlements":{}}`},
		{``, PluginCaller{AppID: "a", UserID: "u"}, `{"app_id":"a","user_id":"u","user_jwt":null,"_context":{"app_id":"a","user_id":"u","username":null,"roles":[],"is_superadmin":false},"_entitlements":{}}`},
		{"{ \n }", PluginCaller{AppID: "a", UserID: "u"}, "{ \n " + `"app_id":"a","user_id":"u","user_jwt":null,"_context":{"app_id":"a","user_id":"u","username":null,"roles":[],"is_superadmin":false},"_entitlements":{}}`},
		{`{"n":1.0}`, full, `{"n":1.0,"app_id":"a","user_id":"u\"1","user_jwt":"t.o.k","_context":{"app_id":"a","user_id":"u\"1","username":"Ann","roles":["r","s"],"is_superadmin":true},"_entitlements":{"enforce":true}}`},
	} {
		got := AppendPluginInput([]byte("x"), []byte(c.data), &c.who)[1:]
		if d := cmp.Diff(c.want, string(got)); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.data, d)
		}
		if !json.Valid(got) {
			t.Errorf("%s is no JSON", got)
		}
	}
}
