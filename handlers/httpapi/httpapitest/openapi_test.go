package httpapitest

import (
	"context"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"grout/schemas"
)

// TestOpenAPIIsValid reads the document with a library of others, examples
// included.
func TestOpenAPIIsValid(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(schemas.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	if !doc.IsOpenAPI31OrLater() {
		t.Fatalf("the document is OpenAPI %s", doc.OpenAPI)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Fatal(err)
	}
}
