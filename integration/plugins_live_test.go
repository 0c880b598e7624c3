package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"grout/integration/process"
)

// A plugin is changed, broken and mended while it is called all the time: every call has
// an answer of one of its versions, and only a broken one fails.
func TestPluginsChangeUnderCalls(t *testing.T) {
	code := func(version int) string {
		return fmt.Sprintf("import time\n\ndef run(data):\n    time.sleep(0.02)\n    return {'version': %d}\n%s", version, strings.Repeat("#\n", version))
	}
	w := startPlugins(t, 1, map[string]string{"hot/logic.py": code(0)})
	var version, broken atomic.Int64
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for i := range 4 {
		user := fmt.Sprint("user", i)
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				before := broken.Load()
				a := w.execute(t, user, "hot", `{}`)
				var got int64
				switch _, err := fmt.Sscanf(string(a.body), `{"version":%d}`, &got); {
				case a.status == 200 && err == nil:
					version.Store(max(version.Load(), got))
				case a.status != 404 || before == 0 && broken.Load() == 0:
					t.Errorf("%d %s", a.status, a.body)
				}
			}
		})
	}
	for v := range 3 {
		pluginFiles(t, w.plugins, map[string]string{"hot/logic.py": code(v + 1)})
		waitFor(t, func() bool { return version.Load() > int64(v) })
	}
	broken.Store(1)
	pluginFiles(t, w.plugins, map[string]string{"hot/logic.py": "def run(:\n"})
	waitFor(t, func() bool {
		return strings.Contains(string(w.execute(t, "ann", "hot", `{}`).body), "PLUGIN_LOAD_FAILED")
	})
	request(t, w.Process, "GET", "/health", nil).text(t, 200, `{"status":"healthy","app_id":"dev_app","app_tier":"free","plugins_loaded":0}`)
	pluginFiles(t, w.plugins, map[string]string{"hot/logic.py": code(9)})
	waitFor(t, func() bool { return version.Load() == 9 })
	close(stop)
	callers.Wait()
	if err := os.RemoveAll(filepath.Join(w.plugins, "hot")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		return string(w.execute(t, "ann", "hot", `{}`).body) == `{"detail":"Plugin 'hot' not found or disabled","error_code":"NOT_FOUND","status_code":404}`
	})
}

// Services on NATS are plugins: they are found, share the calls, come and go.
func TestPluginsOnNATS(t *testing.T) {
	w := startPlugins(t, 1, map[string]string{
		"painter/plugin.yaml": "runtime: {kind: nats}\nlimits: {timeout: 2s}\n",
		"other/plugin.yaml":   "runtime: {kind: nats, subject: studio.paint}\n",
		"nobody/plugin.yaml":  "runtime: {kind: nats, subject: nobody.there}\n",
	})
	waitFor(t, func() bool {
		return strings.Contains(string(w.execute(t, "ann", "painter", `{}`).body), "PLUGIN_LOAD_FAILED")
	})
	var answered [2]atomic.Int64
	var services []micro.Service
	for i := range answered {
		nc, err := nats.Connect(w.NATS, nats.UserInfo("plugin", process.PluginPassword))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		service, err := micro.AddService(nc, micro.Config{Name: "painter", Version: "1.0.0"})
		if err != nil {
			t.Fatal(err)
		}
		services = append(services, service)
		err = service.AddEndpoint("execute", micro.HandlerFunc(func(r micro.Request) {
			answered[i].Add(1)
			switch text := string(r.Data()); {
			case strings.Contains(text, `"do":"fail"`):
				_ = r.Error("NO_PAINT", "out of paint", nil)
			case strings.Contains(text, `"do":"publish"`):
				_ = r.Respond([]byte(`{"coat":1}`), micro.WithHeaders(micro.Headers{"Grout-Publish": {"coat"}}))
				_ = r.Respond([]byte(`{"done":true}`))
			case strings.Contains(text, `"do":"nothing"`):
			default:
				var data struct {
					UserID string `json:"user_id"`
				}
				if err := json.Unmarshal(r.Data(), &data); err != nil {
					t.Error(err)
				}
				_ = r.Respond([]byte(`{"n":1.00,"user":"` + data.UserID + `"}`))
			}
		}), micro.WithEndpointSubject("studio.paint"))
		if err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, func() bool { return w.execute(t, "ann", "painter", `{}`).status == 200 })
	for range 40 {
		w.execute(t, "ann", "painter", `{"user_id":"forged"}`).text(t, 200, `{"n":1.00,"user":"ann"}`)
	}
	if a, b := answered[0].Load(), answered[1].Load(); a == 0 || b == 0 {
		t.Errorf("two services have answered %d and %d calls", a, b)
	}
	w.execute(t, "ann", "other", `{}`).text(t, 200, `{"n":1.00,"user":"ann"}`)
	w.execute(t, "ann", "painter", `{"do":"publish"}`).text(t, 200, `{"done":true}`)
	w.execute(t, "ann", "painter", `{"do":"fail"}`).text(t, 500, `{"detail":"Error executing plugin: out of paint","error_code":"NO_PAINT","status_code":500}`)
	w.execute(t, "ann", "painter", `{"do":"nothing"}`).text(t, 500, `{"detail":"Plugin execution timed out after 2.0 seconds","error_code":"PLUGIN_TIMEOUT","status_code":500}`)
	w.execute(t, "ann", "nobody", `{}`).text(t, 500, `{"detail":"Error executing plugin: no NATS service answers on nobody.there","error_code":"PLUGIN_ERROR","status_code":500}`)
	for _, service := range services {
		if err := service.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, func() bool {
		return strings.Contains(string(w.execute(t, "ann", "painter", `{}`).body), "PLUGIN_LOAD_FAILED")
	})
}
