package httpapi

import "grout/schemas"

// traceParent gives the traceparent a caller sent, or nothing when it is not valid.
func traceParent(v string) string { return schemas.TraceParent(v) }
