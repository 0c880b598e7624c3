package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"grout/handlers/httpapi/httpapitest"
	"grout/integration/inject"
	"grout/integration/natsnode"
	"grout/integration/process"
)

// Binaries under test: grout with its fault points, and the oracle.
var grout, oracle string

var documents = httpapitest.NewValidator()

func TestMain(m *testing.M) {
	natsnode.Launch() // when this process is to become a node of a cluster
	inject.Launch()   // when this process is to become a grout whose calls can fail
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "grout-integration-")
		if err == nil {
			defer os.RemoveAll(dir)
			grout, oracle = filepath.Join(dir, "grout"), filepath.Join(dir, "oracle")
			err = errors.Join(build(grout, "grout/cmd/grout", "-tags", "faults"), build(oracle, "grout/integration/oracle"))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func build(out, target string, flags ...string) error {
	args := append([]string{"build", "-o", out}, flags...)
	if text, err := exec.Command("go", append(args, target)...).CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", target, err, text)
	}
	return nil
}

// eachPartitioning runs a test with one partition and with four.
func eachPartitioning(t *testing.T, test func(t *testing.T, partitions int)) {
	for _, p := range []int{1, 4} {
		t.Run(fmt.Sprintf("P=%d", p), func(t *testing.T) { test(t, p) })
	}
}

func start(t testing.TB, data string, partitions int, env ...string) *process.Process {
	t.Helper()
	p, err := process.Start(t.Context(), process.Options{
		Binary: grout, Data: data, Env: append([]string{fmt.Sprint("MOZAIKS_PARTITIONS=", partitions)}, env...),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func stop(t testing.TB, p *process.Process) {
	t.Helper()
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
}

// answer is what a request came to.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// request sends a request with the internal key and holds the answer against the
// API document.
func request(t testing.TB, p *process.Process, method, path string, body any, header ...string) answer {
	t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		r = bytes.NewReader(b)
	case string:
		r = bytes.NewReader([]byte(b))
	default:
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, p.URL+path, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Internal-API-Key", process.InternalKey)
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] == "" {
			req.Header.Del(header[i])
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	documents.Check(t, req, resp, text)
	return answer{resp.StatusCode, resp.Header, text}
}

// into decodes the answer's body.
func (a answer) into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("status %d, body %.300s: %v", a.status, a.body, err)
	}
}

func (a answer) want(t testing.TB, status int) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %.500s", a.status, status, a.body)
	}
	return a
}

func queryEscape(s string) string { return url.QueryEscape(s) }
