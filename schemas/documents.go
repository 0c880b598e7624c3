package schemas

import (
	"bytes"
	"embed"
)

//go:embed openapi.json
var openAPI []byte

//go:embed asyncapi.json
var asyncAPI []byte

//go:embed jsonschema/*.json
var jsonSchemas embed.FS

// OpenAPI is the OpenAPI 3.1 document of the HTTP interface.
func OpenAPI() []byte { return bytes.Clone(openAPI) }

// AsyncAPI is the AsyncAPI 3.0 document of what grout publishes on NATS.
func AsyncAPI() []byte { return bytes.Clone(asyncAPI) }

// JSONSchema gives the JSON Schema (draft 2020-12) of a data type by its name,
// such as "usage-batch", and nil when there is none. The documents above hold the
// same schemas as components.
func JSONSchema(name string) []byte {
	text, err := jsonSchemas.ReadFile("jsonschema/" + name + ".json")
	if err != nil {
		return nil
	}
	return text
}
