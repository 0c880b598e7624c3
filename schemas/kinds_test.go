package schemas

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func ExampleCommandKinds() {
	for _, kind := range CommandKinds() {
		fmt.Println("command", kind, TypeOf(kind))
	}
	for _, kind := range FactKinds() {
		fmt.Println("fact", kind, TypeOf(kind))
	}
	fmt.Println("group", TypeCommandGroup)
	fmt.Println("dead letter", TypeDeadLetter)
	// Output:
	// command usage.ingest ai.mozaiks.usage.ingest.v1
	// command usage.void ai.mozaiks.usage.void.v1
	// command usage.amend ai.mozaiks.usage.amend.v1
	// command clock.set ai.mozaiks.clock.set.v1
	// command clock.tick ai.mozaiks.clock.tick.v1
	// command segment.expire ai.mozaiks.segment.expire.v1
	// command config.set ai.mozaiks.config.set.v1
	// command epoch.start ai.mozaiks.epoch.start.v1
	// command delivery.mark ai.mozaiks.delivery.mark.v1
	// command letter.retry ai.mozaiks.letter.retry.v1
	// command letter.drop ai.mozaiks.letter.drop.v1
	// command letter.file ai.mozaiks.letter.file.v1
	// command command.refuse ai.mozaiks.command.refuse.v1
	// command entitlement.sync ai.mozaiks.entitlement.sync.v1
	// command subscription.sync ai.mozaiks.subscription.sync.v1
	// command entitlement.check ai.mozaiks.entitlement.check.v1
	// command budget.reserve ai.mozaiks.budget.reserve.v1
	// command budget.settle ai.mozaiks.budget.settle.v1
	// command budget.extend ai.mozaiks.budget.extend.v1
	// command budget.release ai.mozaiks.budget.release.v1
	// command plugin.execute ai.mozaiks.plugin.execute.v1
	// command plugin.finish ai.mozaiks.plugin.finish.v1
	// command plugin.rerun ai.mozaiks.plugin.rerun.v1
	// command plugin.publish ai.mozaiks.plugin.publish.v1
	// command orchestration.report ai.mozaiks.orchestration.report.v1
	// command run.cancel ai.mozaiks.run.cancel.v1
	// command chat.summarize ai.mozaiks.chat.summarize.v1
	// fact usage.recorded ai.mozaiks.usage.recorded.v1
	// fact usage.rejected ai.mozaiks.usage.rejected.v1
	// fact usage.voided ai.mozaiks.usage.voided.v1
	// fact usage.amended ai.mozaiks.usage.amended.v1
	// fact entitlement.synced ai.mozaiks.entitlement.synced.v1
	// fact subscription.changed ai.mozaiks.subscription.changed.v1
	// fact entitlement.consumed ai.mozaiks.entitlement.consumed.v1
	// fact entitlement.limit_reached ai.mozaiks.entitlement.limit_reached.v1
	// fact entitlement.feature_blocked ai.mozaiks.entitlement.feature_blocked.v1
	// fact entitlement.period_reset ai.mozaiks.entitlement.period_reset.v1
	// fact budget.threshold_reached ai.mozaiks.budget.threshold_reached.v1
	// fact budget.threshold_cleared ai.mozaiks.budget.threshold_cleared.v1
	// fact budget.exceeded ai.mozaiks.budget.exceeded.v1
	// fact budget.reservation_expired ai.mozaiks.budget.reservation_expired.v1
	// fact orchestration.run_started ai.mozaiks.orchestration.run_started.v1
	// fact orchestration.run_completed ai.mozaiks.orchestration.run_completed.v1
	// fact orchestration.run_failed ai.mozaiks.orchestration.run_failed.v1
	// fact orchestration.run_cancelled ai.mozaiks.orchestration.run_cancelled.v1
	// fact orchestration.agent_started ai.mozaiks.orchestration.agent_started.v1
	// fact orchestration.agent_completed ai.mozaiks.orchestration.agent_completed.v1
	// fact orchestration.tool_started ai.mozaiks.orchestration.tool_started.v1
	// fact orchestration.tool_completed ai.mozaiks.orchestration.tool_completed.v1
	// fact plugin.executed ai.mozaiks.plugin.executed.v1
	// fact plugin.execution_error ai.mozaiks.plugin.execution_error.v1
	// fact chat.usage_delta ai.mozaiks.chat.usage_delta.v1
	// fact chat.usage_summary ai.mozaiks.chat.usage_summary.v1
	// fact command.refused ai.mozaiks.command.refused.v1
	// group ai.mozaiks.command_group.v1
	// dead letter ai.mozaiks.dead_letter.v1
}

func TestKindsAreUniqueAndFitIntoSubjects(t *testing.T) {
	spelling := regexp.MustCompile(`^[a-z]+(\.[a-z_]+)+$`)
	types := []string{TypeCommandGroup, TypeDeadLetter}
	for _, kind := range slices.Concat(CommandKinds(), FactKinds()) {
		if !spelling.MatchString(kind) || kind != escapeKind(kind) {
			t.Errorf("kind %q cannot stand in a subject as it is", kind)
		}
		if slices.Contains(types, TypeOf(kind)) {
			t.Errorf("type %s twice", TypeOf(kind))
		}
		types = append(types, TypeOf(kind))
	}
	// TypeOf takes the kind verbatim, as CONTRACT §8 spells its example.
	if got := TypeOf("orchestration.run_started"); got != "ai.mozaiks.orchestration.run_started.v1" {
		t.Error(got)
	}
}

// What only grout writes is no fact and has nothing to do with usage.
func TestInternalKinds(t *testing.T) {
	want := []string{"clock.set", "clock.tick", "segment.expire", "config.set", "epoch.start", "delivery.mark", "letter.file", "command.refuse", "entitlement.check", "plugin.finish", "plugin.rerun", "plugin.publish", "run.cancel", "chat.summarize"}
	got := InternalKinds()
	for _, kind := range want {
		if !slices.Contains(got, kind) {
			t.Errorf("%s is not among the internal kinds", kind)
		}
	}
	for _, kind := range got {
		if !slices.Contains(CommandKinds(), kind) || strings.HasPrefix(kind, "usage.") {
			t.Errorf("%s is internal", kind)
		}
	}
}

func TestKindDeclaredTwice(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("declared usage.ingest again")
		}
	}()
	Command[UsageBatch](UsageIngest.Name)
}

// The lists that are handed out are the caller's own.
func TestKindsCannotBeChanged(t *testing.T) {
	CommandKinds()[0], FactKinds()[0] = "x", "x"
	if CommandKinds()[0] == "x" || FactKinds()[0] == "x" {
		t.Error("the table of kinds was changed")
	}
}
