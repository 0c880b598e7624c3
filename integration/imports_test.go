package integration

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Who may import whom inside the project (architecture §1). A package that is not
// listed may not exist.
var mayImport = map[string][]string{
	"grout/docs/examples/consumers/go":   {},
	"grout/schemas":                      {},
	"grout/store":                        {"grout/schemas"},
	"grout/bus":                          {"grout/schemas"},
	"grout/bus/bustest":                  {"grout/schemas"},
	"grout/handlers":                     {"grout/schemas", "grout/store", "grout/handlers/entitlements"},
	"grout/handlers/entitlements":        {"grout/schemas"},
	"grout/handlers/httpapi":             {"grout/schemas"},
	"grout/handlers/deliver":             {"grout/schemas"},
	"grout/handlers/identity":            {"grout/schemas"},
	"grout/handlers/live":                {"grout/schemas"},
	"grout/handlers/plugins":             {"grout/schemas"},
	"grout/handlers/httpapi/httpapitest": {"grout/schemas"},
	"grout/cmd/grout/load":               {},
	"grout/cmd/grout/app":                {"grout/schemas", "grout/store", "grout/bus", "grout/handlers", "grout/handlers/deliver", "grout/handlers/entitlements", "grout/handlers/httpapi", "grout/handlers/identity", "grout/handlers/live", "grout/handlers/plugins"},
	"grout/cmd/grout":                    {"grout/bus", "grout/cmd/grout/app", "grout/cmd/grout/load", "grout/handlers/deliver", "grout/handlers/plugins", "grout/schemas"},
	"grout/integration":                  {"grout/cmd/grout/app", "grout/bus", "grout/schemas", "grout/handlers/httpapi/httpapitest", "grout/integration/process", "grout/integration/natsnode", "grout/integration/inject", "grout/integration/strict"},
	"grout/integration/inject":           {},
	"grout/integration/process":          {},
	"grout/integration/natsnode":         {},
	"grout/integration/strict":           {},
	"grout/integration/damage":           {"grout/integration/process"},
	"grout/integration/oracle":           {"grout/integration/process", "grout/integration/natsnode"},
}

// onlyUser says which package alone may import a library.
var onlyUser = map[string]string{
	"go.etcd.io/bbolt":                "grout/store",
	"github.com/nats-io/nats-server/": "grout/bus",
	"github.com/labstack/echo/":       "grout/handlers/httpapi",
	"github.com/golang-jwt/":          "grout/handlers/identity",
	"github.com/MicahParks/":          "grout/handlers/identity",
}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}|{{join .Imports ","}}|{{join .TestImports ","}},{{join .XTestImports ","}}`, "grout/...").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		parts := strings.Split(strings.TrimSpace(line), "|")
		name, imports, tests := parts[0], strings.Split(parts[1], ","), strings.Split(parts[2], ",")
		allowed, known := mayImport[name]
		if !known {
			t.Errorf("package %s is not in the table", name)
			continue
		}
		seen++
		for _, i := range imports {
			if strings.HasPrefix(i, "grout/") && !slices.Contains(allowed, i) {
				t.Errorf("%s imports %s", name, i)
			}
			for library, user := range onlyUser {
				if strings.HasPrefix(i+"/", library) && name != user && name != "grout/integration/natsnode" {
					t.Errorf("%s imports %s, which only %s may", name, i, user)
				}
			}
		}
		for _, i := range tests { // a test may use the doubles of its own package's users, never more than wiring may
			if strings.HasPrefix(i, "grout/cmd/") && !strings.HasPrefix(name, "grout/cmd/") && name != "grout/integration" {
				t.Errorf("a test of %s imports %s", name, i)
			}
		}
	}
	if seen != len(mayImport) {
		t.Errorf("%d packages, the table has %d", seen, len(mayImport))
	}
}
