package plugins

import (
	"testing"

	"go.uber.org/goleak"
)

// asWorker runs this program as something else when it was started to be that: workers of
// tests are the test program itself. It ends the process then.
var asWorker = func() {}

func TestMain(m *testing.M) {
	asWorker()
	goleak.VerifyTestMain(m)
}
