package schemas

import (
	"encoding/json"
	"io/fs"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

func readJSON(t *testing.T, text []byte) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func at(node any, path ...string) any {
	for _, key := range path {
		m, _ := node.(map[string]any)
		node = m[key]
	}
	return node
}

// refsOf lists every $ref below node.
func refsOf(node any) (refs []string) {
	switch n := node.(type) {
	case map[string]any:
		for key, child := range n {
			if ref, ok := child.(string); ok && key == "$ref" {
				refs = append(refs, ref)
			}
			refs = append(refs, refsOf(child)...)
		}
	case []any:
		for _, child := range n {
			refs = append(refs, refsOf(child)...)
		}
	}
	return refs
}

func TestEveryReferenceResolvesAndEveryComponentIsUsed(t *testing.T) {
	for name, text := range map[string][]byte{"openapi.json": OpenAPI(), "asyncapi.json": AsyncAPI()} {
		doc := readJSON(t, text)
		refs := refsOf(doc)
		for _, ref := range refs {
			path, local := strings.CutPrefix(ref, "#/")
			if !local || at(doc, strings.Split(path, "/")...) == nil {
				t.Errorf("%s: %q leads nowhere", name, ref)
			}
		}
		for _, group := range []string{"schemas", "headers", "parameters", "messages"} {
			list, _ := at(doc, "components", group).(map[string]any)
			for component := range list {
				if !slices.Contains(refs, "#/components/"+group+"/"+component) {
					t.Errorf("%s: nobody uses the component %s/%s", name, group, component)
				}
			}
		}
	}
}

// inlined rewrites references between files into references between components.
func inlined(t *testing.T, node any) any {
	switch n := node.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, child := range n {
			if ref, ok := child.(string); ok && key == "$ref" {
				out[key] = "#/components/schemas/" + titleOf(t, strings.TrimSuffix(ref, ".json"))
				continue
			}
			out[key] = inlined(t, child)
		}
		return out
	case []any:
		out := make([]any, len(n))
		for i, child := range n {
			out[i] = inlined(t, child)
		}
		return out
	}
	return node
}

func titleOf(t *testing.T, name string) string {
	t.Helper()
	text := JSONSchema(name)
	if text == nil {
		t.Fatalf("there is no jsonschema/%s.json", name)
	}
	return readJSON(t, text)["title"].(string)
}

func schemaNames(t *testing.T) (names []string) {
	t.Helper()
	files, err := fs.Glob(jsonSchemas, "jsonschema/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d schemas: %v", len(files), err)
	}
	for _, f := range files {
		names = append(names, strings.TrimSuffix(strings.TrimPrefix(f, "jsonschema/"), ".json"))
	}
	return names
}

func TestComponentsEqualTheSchemaFiles(t *testing.T) {
	open := at(readJSON(t, OpenAPI()), "components", "schemas").(map[string]any)
	async := at(readJSON(t, AsyncAPI()), "components", "schemas").(map[string]any)
	files := map[string]bool{}
	for _, name := range schemaNames(t) {
		want := inlined(t, readJSON(t, JSONSchema(name))).(map[string]any)
		delete(want, "$schema")
		title := want["title"].(string)
		files[title] = true
		if open[title] == nil && async[title] == nil {
			t.Errorf("jsonschema/%s.json is in no document", name)
		}
		for doc, components := range map[string]map[string]any{"openapi.json": open, "asyncapi.json": async} {
			if got := components[title]; got != nil {
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s of %s differs from jsonschema/%s.json (-file +document):\n%s", title, doc, name, diff)
				}
			}
		}
	}
	for title := range open {
		if !files[title] {
			t.Errorf("openapi.json: %s is in no file of jsonschema", title)
		}
	}
	for title, schema := range async {
		if !files[title] && at(schema, "properties", "specversion") == nil {
			t.Errorf("asyncapi.json: %s is in no file of jsonschema and is no envelope", title)
		}
	}
}

func compile(t *testing.T, doc string, text []byte, pointer string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for _, name := range schemaNames(t) {
		if err := c.AddResource("mem:///"+name+".json", unmarshal(t, JSONSchema(name))); err != nil {
			t.Fatal(err)
		}
	}
	if text != nil {
		if err := c.AddResource("mem:///"+doc, unmarshal(t, text)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.Compile("mem:///" + doc + pointer)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func unmarshal(t *testing.T, text []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestExamplesFollowTheirSchemas(t *testing.T) {
	for _, name := range schemaNames(t) {
		schema := compile(t, name+".json", nil, "")
		examples, _ := at(unmarshal(t, JSONSchema(name)), "examples").([]any)
		for _, e := range examples {
			if err := schema.Validate(e); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	doc := unmarshal(t, AsyncAPI())
	for name, m := range at(doc, "components", "messages").(map[string]any) {
		schema := compile(t, "asyncapi.json", AsyncAPI(), at(m, "payload", "$ref").(string))
		for _, e := range at(m, "examples").([]any) {
			if err := schema.Validate(at(e, "payload")); err != nil {
				t.Errorf("message %s: %v", name, err)
			}
		}
	}
	errorSchema := compile(t, "error.json", nil, "")
	eachErrorExample(unmarshal(t, OpenAPI()), func(v any) {
		if err := errorSchema.Validate(v); err != nil {
			t.Errorf("example %v: %v", v, err)
		}
	})
}

// eachErrorExample visits the named examples of answers with the schema Error.
func eachErrorExample(node any, visit func(any)) {
	m, _ := node.(map[string]any)
	if at(m, "schema", "$ref") == "#/components/schemas/Error" {
		for _, e := range at(m, "examples").(map[string]any) {
			visit(at(e, "value"))
		}
	}
	for _, child := range m {
		eachErrorExample(child, visit)
	}
}

func TestEveryKindOfFactHasAChannel(t *testing.T) {
	doc := readJSON(t, AsyncAPI())
	types := map[string]string{} // type: address
	for _, ch := range at(doc, "channels").(map[string]any) {
		if address, _ := at(ch, "address").(string); !strings.HasPrefix(address, "mozaiks.v1.evt.") && !strings.HasPrefix(address, "mozaiks.v1.dlq.") {
			continue
		}
		for _, m := range at(ch, "messages").(map[string]any) {
			message := at(doc, strings.Split(strings.TrimPrefix(at(m, "$ref").(string), "#/"), "/")...)
			payload := at(doc, strings.Split(strings.TrimPrefix(at(message, "payload", "$ref").(string), "#/"), "/")...)
			named, _ := at(payload, "properties", "type", "const").(string) // plugins name their own
			types[named] = at(ch, "address").(string)
		}
	}
	for _, kind := range FactKinds() {
		want := strings.Replace(FactSubject("APP", kind), "APP", "{app}", 1)
		about := "{about}"
		if !strings.HasPrefix(kind, orchestration) {
			about = "{chat}"
		}
		if ChatItems(kind, 1) > 0 {
			want = strings.NewReplacer("APP", "{app}", "ABOUT", about).Replace(FactSubjectOf("APP", kind, "ABOUT"))
		}
		if got := types[TypeOf(kind)]; got != want {
			t.Errorf("%s: the channel's address is %q, want %q", kind, got, want)
		}
	}
	want := strings.NewReplacer("APP", "{app}", "KIND", "{kind}").Replace(DeadLetterSubject("APP", "KIND"))
	if got := types[TypeDeadLetter]; got != want {
		t.Errorf("dead letters: the channel's address is %q, want %q", got, want)
	}
	want = strings.NewReplacer("APP", "{app}", "NAME", "{name}").Replace(FactSubject("APP", PublishedKind("NAME")))
	if got := types[""]; got != want {
		t.Errorf("what plugins publish: the channel's address is %q, want %q", got, want)
	}
	if len(types) != len(FactKinds())+2 {
		t.Errorf("the document has %d types, the program %d", len(types), len(FactKinds())+2)
	}
}

// TestSchemasEqualTheGoTypes holds names, types and required fields of the wire
// structs against their schemas: required is what is not omitempty.
func TestSchemasEqualTheGoTypes(t *testing.T) {
	for name, value := range map[string]any{
		"usage.recorded": UsageRecordedData{}, "recorded-event": RecordedEvent{},
		"usage.rejected": UsageRejectedData{}, "rejected-in-batch": RejectedInBatch{},
		"dead-letter": DeadLetterData{}, "dead-letter-original": DeadLetterOriginal{},
		"chat.usage_delta": ChatUsageDeltaData{}, "chat-delta": ChatDeltaData{}, "chat.usage_summary": ChatUsageSummaryData{},
		"plugin.executed": PluginExecutedData{}, "plugin.execution_error": PluginErrorData{},
	} {
		schema := readJSON(t, JSONSchema(name))
		checkStruct(t, name, schema, reflect.TypeOf(value))
	}
	fields := at(readJSON(t, JSONSchema("error")), "properties", "errors", "items").(map[string]any)
	checkStruct(t, "error.errors", fields, reflect.TypeOf(FieldError{}))
}

func checkStruct(t *testing.T, name string, schema map[string]any, typ reflect.Type) {
	t.Helper()
	properties := schema["properties"].(map[string]any)
	var fields, required []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		field, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields = append(fields, field)
		if options != "omitempty" && options != "omitzero" {
			required = append(required, field)
		}
		if properties[field] == nil {
			t.Errorf("%s: the schema does not know %s", name, field)
			continue
		}
		if got, want := jsonTypeOf(t, properties[field]), jsonType(t, field, f.Type); got != want {
			t.Errorf("%s.%s is %s in the schema and %s in Go", name, field, got, want)
		}
	}
	for field := range properties {
		if !slices.Contains(fields, field) {
			t.Errorf("%s: Go does not know %s", name, field)
		}
	}
	var said []string
	for _, r := range schema["required"].([]any) {
		said = append(said, r.(string))
	}
	sort.Strings(said)
	sort.Strings(required)
	if diff := cmp.Diff(required, said); diff != "" {
		t.Errorf("%s: required (-Go +schema):\n%s", name, diff)
	}
}

func jsonTypeOf(t *testing.T, schema any) string {
	if ref, ok := at(schema, "$ref").(string); ok {
		schema = readJSON(t, JSONSchema(strings.TrimSuffix(ref, ".json")))
	}
	if types, _ := at(schema, "type").([]any); len(types) == 2 && types[1] == "null" {
		return types[0].(string)
	}
	typ, _ := at(schema, "type").(string)
	return typ
}

func jsonType(t *testing.T, field string, typ reflect.Type) string {
	switch typ {
	case reflect.TypeFor[json.Number]():
		return "number"
	case reflect.TypeFor[json.RawMessage]():
		return "object"
	}
	switch typ.Kind() {
	case reflect.String:
		return "string"
	case reflect.Int, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return "integer"
	case reflect.Float64:
		return "number"
	case reflect.Bool:
		return "boolean"
	case reflect.Slice:
		return "array"
	case reflect.Struct, reflect.Map:
		return "object"
	case reflect.Pointer:
		return jsonType(t, field, typ.Elem())
	}
	t.Fatalf("%s: no JSON type for %s", field, typ)
	return ""
}

func enumOf(t *testing.T, name string, path ...string) (list []string) {
	t.Helper()
	values, _ := at(readJSON(t, JSONSchema(name)), path...).([]any)
	for _, v := range values {
		list = append(list, v.(string))
	}
	return list
}

func TestCodesOfEventsAreDocumented(t *testing.T) {
	documented := enumOf(t, "event-error", "properties", "code", "enum")
	for _, c := range []Code{
		CodeNotAnObject, CodeMissingField, CodeInvalidType, CodeInvalidNumber, CodeOutOfRange, CodeInvalidLength, CodeInvalidText,
		CodeInvalidTimestamp, CodeTimestampTooOld, CodeTimestampInFuture, CodeTotalBelowSum, CodeRepeatedKey, CodeTooDeep,
		CodeMetadataTooLarge, CodeConflict, CodeBatchConflict,
	} {
		if !slices.Contains(documented, string(c)) {
			t.Errorf("%s is not documented", c)
		}
	}
	if diff := cmp.Diff(documented, enumOf(t, "rejected-in-batch", "properties", "code", "enum")); diff != "" {
		t.Error(diff)
	}
}

// TestBatchSchemaAgreesWithTheParser holds the schema of the request against
// what the parser takes.
func TestBatchSchemaAgreesWithTheParser(t *testing.T) {
	schema := compile(t, "usage-batch.json", nil, "")
	event := `{"event_id":"e","timestamp":"2026-01-26T15:30:00Z","app_id":"a","user_id":"u","model":"m","input_tokens":1,"output_tokens":2`
	for text, good := range map[string]bool{
		`{"events":[` + event + `}]}`:                                  true,
		`{"batch_id":null,"events":[` + event + `,"tenant_id":null}]}`: true,
		`{"batch_id":"","events":[` + event + `}]}`:                    false,
		`{"events":[]}`:    false,
		`{"batch_id":"b"}`: false,
		`{"events":{}}`:    false,
		`{"events":[` + event + `,"cost":"1.5"}]}`:                              true,
		`{"events":[` + event + `,"cost":"x"}]}`:                                false,
		`{"events":[` + event + `,"cost":1000000001}]}`:                         false,
		`{"events":[` + event + `,"cached":1}]}`:                                false,
		`{"events":[` + event + `,"chat_id":""}]}`:                              false,
		`{"events":[` + event + `,"unknown":[1]}]}`:                             true,
		`{"events":[` + event + `,"metadata":[]}]}`:                             false,
		`{"events":[` + event + `,"duration_sec":-1}]}`:                         false,
		`{"events":[` + event + `,"total_tokens":1000000001}]}`:                 false,
		`{"events":[` + strings.Replace(event, `"e"`, `null`, 1) + `}]}`:        false,
		`{"events":[` + strings.Replace(event, `"model":"m",`, ``, 1) + `}]}`:   false,
		`{"events":[` + strings.Replace(event, `15:30:00Z`, `25:30`, 1) + `}]}`: false,
	} {
		var b ParsedBatch
		err := ParseUsageBatch([]byte(text), &b)
		if taken := err == nil && len(b.Rejected) == 0; taken != good {
			t.Errorf("the parser's verdict on %s is %v: %v %v", text, taken, err, b.Rejected)
		}
		if verdict := schema.Validate(unmarshal(t, []byte(text))); (verdict == nil) != good {
			t.Errorf("the schema's verdict on %s is %v", text, verdict)
		}
	}
}
