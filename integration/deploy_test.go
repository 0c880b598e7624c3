package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/knadh/koanf/parsers/yaml"

	"grout/integration/process"
)

func readFile(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{".."}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// compose is docker-compose.yml as far as its rules matter here.
func compose(t *testing.T) map[string]any {
	t.Helper()
	doc, err := yaml.Parser().Unmarshal([]byte(readFile(t, "docker-compose.yml")))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func object(v any) map[string]any { m, _ := v.(map[string]any); return m }

func list(v any) (out []string) {
	all, _ := v.([]any)
	for _, one := range all {
		switch one := one.(type) {
		case map[string]any:
			out = append(out, fmt.Sprint(one["source"]))
		default:
			out = append(out, fmt.Sprint(one))
		}
	}
	return out
}

// What a service refers to is there, and every service is confined.
func TestComposeFile(t *testing.T) {
	doc := compose(t)
	services := object(doc["services"])
	if len(services) != 4 {
		t.Errorf("%d services", len(services))
	}
	for name, v := range services {
		s := object(v)
		if s["user"] != "65532:65532" || s["read_only"] != true || !slices.Equal(list(s["cap_drop"]), []string{"ALL"}) || !slices.Contains(list(s["security_opt"]), "no-new-privileges:true") {
			t.Errorf("%s is not confined: %v", name, s)
		}
		if test := list(object(s["healthcheck"])["test"]); len(test) < 2 || test[0] != "CMD" {
			t.Errorf("%s has no health check", name)
		}
		for _, secret := range list(s["secrets"]) {
			if file, _ := object(object(doc["secrets"])[secret])["file"].(string); !strings.HasPrefix(file, "./secrets/") {
				t.Errorf("%s: secret %s is not a file of ./secrets", name, secret)
			}
		}
		for _, network := range list(s["networks"]) {
			if _, there := object(doc["networks"])[network]; !there {
				t.Errorf("%s: there is no network %s", name, network)
			}
		}
		for other, when := range object(s["depends_on"]) {
			if services[other] == nil || object(when)["condition"] != "service_healthy" {
				t.Errorf("%s depends on %s: %v", name, other, when)
			}
		}
		for _, port := range list(s["ports"]) {
			if !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("%s opens %s to others", name, port)
			}
		}
		for _, volume := range list(s["volumes"]) {
			from, _, _ := strings.Cut(volume, ":")
			if strings.HasPrefix(from, "./") {
				readFile(t, from)
				if !strings.HasSuffix(volume, ":ro") {
					t.Errorf("%s may write to %s", name, from)
				}
			} else if _, there := object(doc["volumes"])[from]; !there {
				t.Errorf("%s: there is no volume %s", name, from)
			}
		}
		readFile(t, fmt.Sprint(object(s["build"])["dockerfile"]))
	}
}

// Each node is told what its configuration asks for, and grout what it knows.
func TestComposeEnvironment(t *testing.T) {
	services := object(compose(t)["services"])
	asked := regexp.MustCompile(`\$(NATS_[A-Z_]+)`).FindAllStringSubmatch(readFile(t, "docs", "examples", "cluster", "nats.conf"), -1)
	if len(asked) < 6 {
		t.Fatalf("nats.conf asks for %v", asked)
	}
	for _, name := range []string{"nats-1", "nats-2", "nats-3"} {
		env := object(object(services[name])["environment"])
		for _, m := range asked {
			if env[m[1]] == nil {
				t.Errorf("%s is not told %s", name, m[1])
			}
		}
		if env["NATS_NAME"] != name {
			t.Errorf("%s is named %v", name, env["NATS_NAME"])
		}
	}
	env := object(object(services["grout"])["environment"])
	if urls := strings.Split(fmt.Sprint(env["NATS_URL"]), ","); len(urls) != 3 {
		t.Errorf("grout has the nodes %v", urls)
	}
	cmd := exec.Command(grout, "config", "show")
	cmd.Dir = t.TempDir()
	file := filepath.Join(cmd.Dir, "secret")
	if err := os.WriteFile(file, []byte("a-secret-of-a-file-0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "MOZAIKS_AUTH_MODE=local", "JWT_SECRET_FILE=" + file} // as grout.env says
	for name, value := range env {
		text := fmt.Sprint(value)
		switch {
		case strings.HasSuffix(name, "_FILE"):
			text = file
		case strings.HasPrefix(text, "${"):
			text = "some_app"
		}
		cmd.Env = append(cmd.Env, name+"="+text)
	}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "warning") || strings.Contains(string(out), "a-secret-of-a-file") {
		t.Errorf("grout does not take its environment: %v\n%s", err, out)
	}
}

// Where Docker and its plugin are, the file is what they take.
func TestComposeConfig(t *testing.T) {
	if out, err := exec.Command("docker", "compose", "version").CombinedOutput(); err != nil {
		t.Skipf("docker compose is not here: %v: %.100s", err, out)
	}
	cmd := exec.Command("docker", "compose", "-f", "docker-compose.yml", "config", "--quiet")
	cmd.Dir, cmd.Env = "..", append(os.Environ(), "MOZAIKS_APP_ID=some_app")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The steps of the Dockerfile, replayed by hand: what it copies is enough to build the
// program with its flags, and the program starts.
func TestDockerfile(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	if err := os.Mkdir(src, 0o700); err != nil {
		t.Fatal(err)
	}
	var build string
	var running, first bool
	lines := bufio.NewScanner(strings.NewReader(readFile(t, "docs", "examples", "Dockerfile")))
	stage := 0
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "FROM "):
			stage++
		case stage == 1 && strings.HasPrefix(line, "COPY "):
			for _, from := range words[1 : len(words)-1] {
				to := filepath.Join(src, words[len(words)-1])
				if out, err := exec.Command("cp", "-R", filepath.Join("..", from), to).CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", line, err, out)
				}
			}
			first = true
		case stage == 1 && strings.HasPrefix(line, "RUN ") && strings.Contains(line, "go build"):
			build = strings.TrimSuffix(strings.TrimPrefix(line, "RUN "), " \\")
			running = true
		}
	}
	if !first || !running {
		t.Fatal("the Dockerfile copies or builds nothing")
	}
	binary := filepath.Join(dir, "grout")
	cmd := exec.Command("sh", "-c", strings.ReplaceAll(build, "-o /grout", "-o "+binary))
	cmd.Dir = src
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	info, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	p, err := process.Start(t.Context(), process.Options{Binary: binary, Data: filepath.Join(dir, "data")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	t.Logf("the binary has %.1f MiB and is ready after %s", float64(info.Size())/(1<<20), p.Took)
	stop(t, p)
}

// The unit is one that systemd takes.
func TestSystemdUnit(t *testing.T) {
	unit := readFile(t, "docs", "examples", "grout.service")
	for _, want := range []string{"NoNewPrivileges=yes", "ProtectSystem=strict", "DynamicUser=yes", "CapabilityBoundingSet=\n", "StateDirectory=grout", "LoadCredential=internal_api_key:"} {
		if !strings.Contains(unit, want) {
			t.Errorf("the unit does not say %s", strings.TrimSpace(want))
		}
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not here")
	}
	path := filepath.Join(t.TempDir(), "grout.service")
	unit = strings.ReplaceAll(unit, "/usr/local/bin/grout", grout)
	if err := os.WriteFile(path, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", path).CombinedOutput()
	if err != nil || strings.Contains(string(out), "grout.service") {
		t.Errorf("systemd says %v\n%s", err, out)
	}
}
