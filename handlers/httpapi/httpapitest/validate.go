// Package httpapitest holds tests against the API documents: every answer
// against openapi.json, every fact against asyncapi.json.
//
// It imports schemas and no other package of the project. Its invariant: what it
// lets pass is documented, field by field; a documented object is taken as
// complete, although the documents leave room for later additions.
package httpapitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"grout/schemas"
)

const (
	openAPI  = "mem:///openapi.json"
	asyncAPI = "mem:///asyncapi.json"
)

// Validator holds the documents and their compiled schemas. It may be shared.
type Validator struct {
	http, bus map[string]any

	mu       sync.Mutex
	compiler *jsonschema.Compiler
	compiled map[string]*jsonschema.Schema
}

// NewValidator reads the embedded documents. It panics when they are broken, as
// they are part of the program.
func NewValidator() *Validator {
	v := &Validator{compiler: jsonschema.NewCompiler(), compiled: map[string]*jsonschema.Schema{}}
	v.compiler.AssertFormat()
	v.http = v.add(openAPI, schemas.OpenAPI())
	v.bus = v.add(asyncAPI, schemas.AsyncAPI())
	return v
}

func (v *Validator) add(at string, text []byte) map[string]any {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		panic(fmt.Errorf("%s: %w", at, err))
	}
	root := doc.(map[string]any)
	closeObjects(dig(root, "components", "schemas"))
	if err := v.compiler.AddResource(at, root); err != nil {
		panic(fmt.Errorf("%s: %w", at, err))
	}
	return root
}

// closeObjects makes fields that are not documented a fault.
func closeObjects(node any) {
	switch n := node.(type) {
	case map[string]any:
		if _, object := n["properties"].(map[string]any); object && n["type"] == "object" {
			if _, said := n["additionalProperties"]; !said {
				n["additionalProperties"] = false
			}
		}
		for name, child := range n {
			if name != "examples" && name != "example" {
				closeObjects(child)
			}
		}
	case []any:
		for _, child := range n {
			closeObjects(child)
		}
	}
}

// dig follows keys into objects; nil when there is nothing.
func dig(node any, path ...string) any {
	for _, key := range path {
		m, _ := node.(map[string]any)
		node = m[key]
	}
	return node
}

// pointer is a JSON pointer as the fragment of a URL.
func pointer(path ...string) string {
	var b strings.Builder
	b.WriteByte('#')
	for _, p := range path {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(p)))
	}
	return b.String()
}

// schema compiles the schema at a place of a document.
func (v *Validator) schema(doc string, path ...string) (*jsonschema.Schema, error) {
	at := doc + pointer(path...)
	v.mu.Lock()
	defer v.mu.Unlock()
	if s := v.compiled[at]; s != nil {
		return s, nil
	}
	s, err := v.compiler.Compile(at)
	if err == nil {
		v.compiled[at] = s
	}
	return s, err
}

// resolve follows a local $ref and returns where the thing is.
func resolve(doc map[string]any, path []string) (map[string]any, []string) {
	node, _ := dig(doc, path...).(map[string]any)
	if ref, ok := node["$ref"].(string); ok {
		path = strings.Split(strings.TrimPrefix(ref, "#/"), "/")
		node, _ = dig(doc, path...).(map[string]any)
	}
	return node, path
}

// Check fails the test when an answer is not documented: its status, content
// type, required headers, and the schemas of headers and body.
func (v *Validator) Check(t testing.TB, req *http.Request, resp *http.Response, body []byte) {
	t.Helper()
	if err := v.check(req, resp, body); err != nil {
		t.Errorf("%s %s answered %d, which openapi.json does not allow: %v\n%.2000s", req.Method, req.URL.Path, resp.StatusCode, err, body)
	}
}

func (v *Validator) check(req *http.Request, resp *http.Response, body []byte) error {
	path, err := v.responseOf(req, resp.StatusCode)
	if err != nil {
		return err
	}
	response, path := resolve(v.http, path)
	if response == nil {
		return fmt.Errorf("status %d is not documented", resp.StatusCode)
	}
	if err := v.checkHeaders(path, response, resp.Header); err != nil {
		return err
	}
	if req.Method == http.MethodHead {
		if len(body) > 0 {
			return fmt.Errorf("HEAD was answered with a body")
		}
		return nil
	}
	return v.checkBody(path, response, resp.Header.Get("Content-Type"), body)
}

// responseOf finds where the document describes an answer.
func (v *Validator) responseOf(req *http.Request, status int) ([]string, error) {
	template := v.template(req.URL.EscapedPath())
	if template == "" {
		if status != http.StatusNotFound {
			return nil, fmt.Errorf("the path is not documented, and the answer is not 404")
		}
		return []string{"components", "responses", "NotFound"}, nil
	}
	method := strings.ToLower(req.Method)
	if method == "head" {
		method = "get"
	}
	if dig(v.http, "paths", template, method) == nil {
		if status != http.StatusMethodNotAllowed {
			return nil, fmt.Errorf("the method is not documented, and the answer is not 405")
		}
		return []string{"components", "responses", "MethodNotAllowed"}, nil
	}
	return []string{"paths", template, method, "responses", fmt.Sprint(status)}, nil
}

// template finds the documented path that a request's path belongs to, exact ones
// before those with parameters.
func (v *Validator) template(path string) string {
	paths, _ := v.http["paths"].(map[string]any)
	if paths[path] != nil {
		return path
	}
	given := strings.Split(path, "/")
	for t := range paths {
		parts := strings.Split(t, "/")
		fits := len(parts) == len(given)
		for i := 0; fits && i < len(parts); i++ {
			fits = parts[i] == given[i] || strings.HasPrefix(parts[i], "{") && given[i] != ""
		}
		if fits {
			return t
		}
	}
	return ""
}

func (v *Validator) checkHeaders(path []string, response map[string]any, given http.Header) error {
	headers, _ := response["headers"].(map[string]any)
	for name := range headers {
		header, at := resolve(v.http, append(append([]string(nil), path...), "headers", name))
		values := given.Values(name)
		if len(values) == 0 {
			if header["required"] == true {
				return fmt.Errorf("the header %s is missing", name)
			}
			continue
		}
		if len(values) > 1 {
			return fmt.Errorf("the header %s is there %d times", name, len(values))
		}
		var value any = values[0]
		if dig(header, "schema", "type") == "integer" {
			value = json.Number(values[0])
		}
		schema, err := v.schema(openAPI, append(append([]string(nil), at...), "schema")...)
		if err != nil {
			return err
		}
		if err := schema.Validate(value); err != nil {
			return fmt.Errorf("the header %s: %w", name, err)
		}
	}
	return nil
}

func (v *Validator) checkBody(path []string, response map[string]any, contentType string, body []byte) error {
	if dig(response, "content") == nil && len(body) == 0 && contentType == "" { // as of 304
		return nil
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return fmt.Errorf("content type %q: %w", contentType, err)
	}
	if dig(response, "content", media) == nil {
		return fmt.Errorf("content type %q is not documented", contentType)
	}
	if media != "application/json" {
		return nil
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("body: %w", err)
	}
	schema, err := v.schema(openAPI, append(append([]string(nil), path...), "content", media, "schema")...)
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// CheckFact fails the test when a structured CloudEvent is not what asyncapi.json
// says of its type.
func (v *Validator) CheckFact(t testing.TB, data []byte) {
	t.Helper()
	if err := v.checkFact(data); err != nil {
		t.Errorf("asyncapi.json does not allow this event: %v\n%.2000s", err, data)
	}
}

// describes reports whether a schema is that of one type, or of the types of what plugins
// publish under names of their own.
func describes(schema any, kind string) bool {
	if one, ok := dig(schema, "const").(string); ok {
		return one == kind
	}
	pattern, _ := dig(schema, "pattern").(string)
	own := kind == schemas.TypeOf(schemas.PluginExecuted.Name) || kind == schemas.TypeOf(schemas.PluginFailed.Name)
	return pattern != "" && !own && regexp.MustCompile(pattern).MatchString(kind)
}

func (v *Validator) checkFact(data []byte) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return err
	}
	kind, _ := dig(value, "type").(string)
	messages, _ := dig(v.bus, "components", "messages").(map[string]any)
	for name := range messages {
		payload, at := resolve(v.bus, []string{"components", "messages", name, "payload"})
		if !describes(dig(payload, "properties", "type"), kind) {
			continue
		}
		schema, err := v.schema(asyncAPI, at...)
		if err != nil {
			return err
		}
		return schema.Validate(value)
	}
	return fmt.Errorf("the type %q is not documented", kind)
}

// CheckFrame fails the test when a frame of a live stream is not what openapi.json says.
func (v *Validator) CheckFrame(t testing.TB, frame []byte) {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(frame))
	if err == nil {
		var schema *jsonschema.Schema
		if schema, err = v.schema(openAPI, "components", "schemas", "LiveFrame"); err == nil {
			err = schema.Validate(value)
		}
	}
	if err != nil {
		t.Errorf("openapi.json does not allow this frame: %v\n%.2000s", err, frame)
	}
}
