package integration

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/open-feature/go-sdk-contrib/providers/ofrep"
	"github.com/open-feature/go-sdk/openfeature"

	"grout/integration/process"
)

// The SDK of OpenFeature for Go and its OFREP provider, as they are, read what manifests
// of app and user say.
func TestOpenFeatureSDK(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "data"), 1)
	for _, manifest := range []string{
		`{"version":"1.1","app_id":"dev_app","plan":{"tier":"starter"},"features":{"export":false,"beta":false},"rate_limits":{"requests_per_minute":60}}`,
		`{"version":"1.1","app_id":"dev_app","user_id":"ann","plan":{"tier":"pro","name":"Pro"},"features":{"export":true,"beta":false}}`,
	} {
		request(t, p, "POST", "/api/internal/entitlement/sync", manifest).want(t, 200)
	}
	provider := ofrep.NewProvider(p.URL, ofrep.WithBearerToken(process.ServiceKey))
	if err := openfeature.SetNamedProviderAndWait("grout", provider); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(openfeature.Shutdown)
	client, ctx := openfeature.NewClient("grout"), context.Background()
	ann := openfeature.NewEvaluationContext("ann", map[string]any{"app_id": "dev_app", "whatever": 7})
	ben := openfeature.NewEvaluationContext("ben", nil)
	on, err := client.BooleanValueDetails(ctx, "export", false, ann)
	if err != nil || !on.Value || on.Reason != openfeature.TargetingMatchReason || on.Variant != "on" {
		t.Errorf("%+v, %v", on, err)
	}
	if off, err := client.BooleanValue(ctx, "export", true, ben); err != nil || off {
		t.Errorf("%v, %v", off, err)
	}
	if off, err := client.BooleanValue(ctx, "beta", true, ann); err != nil || off {
		t.Errorf("%v, %v", off, err)
	}
	for user, tier := range map[string]string{"ann": "pro", "ben": "starter"} {
		if got, err := client.StringValue(ctx, "plan.tier", "none", openfeature.NewEvaluationContext(user, nil)); err != nil || got != tier {
			t.Errorf("%v, %v", got, err)
		}
	}
	if n, err := client.IntValue(ctx, "rate_limits.requests_per_minute", 1, ann); err != nil || n != 60 {
		t.Errorf("%v, %v", n, err)
	}
	plan, err := client.ObjectValue(ctx, "plan", nil, ann)
	if fields, ok := plan.(map[string]any); err != nil || !ok || fields["tier"] != "pro" || fields["name"] != "Pro" {
		t.Errorf("%v, %v", plan, err)
	}
	missing, err := client.BooleanValueDetails(ctx, "nothing", true, ann)
	if err == nil || !missing.Value || missing.ErrorCode != openfeature.FlagNotFoundCode {
		t.Errorf("%+v, %v", missing, err)
	}
	nobody, err := client.BooleanValueDetails(ctx, "export", false, openfeature.NewTargetlessEvaluationContext(nil))
	if err == nil || nobody.ErrorCode != openfeature.TargetingKeyMissingCode {
		t.Errorf("%+v, %v", nobody, err)
	}
	wrong, err := client.StringValueDetails(ctx, "export", "default", ann)
	if err == nil || wrong.Value != "default" || wrong.ErrorCode != openfeature.TypeMismatchCode {
		t.Errorf("%+v, %v", wrong, err)
	}
}
