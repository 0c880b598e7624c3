package schemas

import (
	"fmt"
	"slices"
)

// TypeOf gives the CloudEvents type of a kind (contract §8).
func TypeOf(kind string) string { return "ai.mozaiks." + kind + ".v1" }

// TypeCommandGroup is the CloudEvents type of a message of MOZAIKS_CMD.
var TypeCommandGroup = TypeOf("command_group")

// TypeDeadLetter is the CloudEvents type of a message of MOZAIKS_DLQ.
var TypeDeadLetter = TypeOf("dead_letter")

// CommandKind is a kind of command together with the Go type of its payload.
type CommandKind[T any] struct{ Name string }

// FactKind is a kind of fact together with the Go type of its data.
type FactKind[T any] struct{ Name string }

// The table of kinds, filled by the declarations below and never changed after
// the program has started.
var commandNames, factNames, internalNames []string

// Command declares a kind of command.
func Command[T any](name string) CommandKind[T] {
	commandNames = declare(commandNames, name)
	return CommandKind[T]{name}
}

// Internal declares a kind of command that only grout itself writes. Nobody else can
// reach MOZAIKS_CMD; whatever takes commands from others refuses these kinds.
func Internal[T any](name string) CommandKind[T] {
	internalNames = append(internalNames, name)
	return Command[T](name)
}

// Fact declares a kind of fact.
func Fact[T any](name string) FactKind[T] {
	factNames = declare(factNames, name)
	return FactKind[T]{name}
}

func declare(names []string, name string) []string {
	if slices.Contains(names, name) {
		panic(fmt.Sprintf("kind %q declared twice", name))
	}
	return append(names, name)
}

// Every kind there is. A new one is one line here, its payload type beside it,
// and a function in handlers.
var (
	UsageIngest   = Command[UsageBatch]("usage.ingest")
	UsageRecorded = Fact[UsageRecordedData]("usage.recorded")
	UsageRejected = Fact[UsageRejectedData]("usage.rejected")

	UsageVoid    = Command[EventVoid]("usage.void")
	UsageAmend   = Command[EventAmendment]("usage.amend")
	UsageVoided  = Fact[UsageAdjustedData]("usage.voided")
	UsageAmended = Fact[UsageAdjustedData]("usage.amended")

	ClockSet      = Internal[ClockChange]("clock.set")
	ClockTick     = Internal[Tick]("clock.tick")
	SegmentExpire = Internal[SegmentExpiry]("segment.expire")
	ConfigSet     = Internal[ConfigChange]("config.set")
	EpochStart    = Internal[EpochBegin]("epoch.start")
	MarkDelivery  = Internal[DeliveryMark]("delivery.mark")
	RetryLetter   = Internal[LetterRetry]("letter.retry")
	DropLetter    = Internal[LetterDrop]("letter.drop")
	FileLetter    = Internal[LetterFiling]("letter.file")
	RefuseCommand = Internal[CommandRefusal]("command.refuse")

	SyncEntitlement     = Command[ManifestSync]("entitlement.sync")
	SyncSubscription    = Command[SubscriptionSync]("subscription.sync")
	CheckEntitlement    = Internal[EntitlementCheck]("entitlement.check")
	EntitlementSynced   = Fact[EntitlementSyncedData]("entitlement.synced")
	SubscriptionChanged = Fact[SubscriptionChangedData]("subscription.changed")
	EntitlementConsumed = Fact[EntitlementConsumedData]("entitlement.consumed")
	EntitlementLimit    = Fact[LimitReachedData]("entitlement.limit_reached")
	EntitlementBlocked  = Fact[FeatureBlockedData]("entitlement.feature_blocked")
	EntitlementReset    = Fact[PeriodResetData]("entitlement.period_reset")
	ReserveBudget       = Command[BudgetReserve]("budget.reserve")
	SettleBudget        = Command[BudgetSettle]("budget.settle")
	ExtendBudget        = Command[BudgetExtend]("budget.extend")
	ReleaseBudget       = Command[BudgetRelease]("budget.release")
	BudgetReached       = Fact[BudgetStandingFact]("budget.threshold_reached")
	BudgetCleared       = Fact[BudgetStandingFact]("budget.threshold_cleared")
	BudgetExceeded      = Fact[BudgetStandingFact]("budget.exceeded")
	BudgetExpired       = Fact[ReservationExpiredData]("budget.reservation_expired")

	ExecutePlugin      = Command[PluginExecution]("plugin.execute")
	FinishPlugin       = Internal[ExecutionEnd]("plugin.finish")
	RerunPlugin        = Internal[ExecutionRerun]("plugin.rerun")
	PublishPlugin      = Internal[PluginPublication]("plugin.publish")
	ReportRuns         = Command[RunReport]("orchestration.report")
	CancelRun          = Internal[RunCancel]("run.cancel")
	RunStartedFact     = Fact[RunEventData]("orchestration.run_started")
	RunCompletedFact   = Fact[RunEventData]("orchestration.run_completed")
	RunFailedFact      = Fact[RunEventData]("orchestration.run_failed")
	RunCancelledFact   = Fact[RunEventData]("orchestration.run_cancelled")
	AgentStartedFact   = Fact[RunEventData]("orchestration.agent_started")
	AgentCompletedFact = Fact[RunEventData]("orchestration.agent_completed")
	ToolStartedFact    = Fact[RunEventData]("orchestration.tool_started")
	ToolCompletedFact  = Fact[RunEventData]("orchestration.tool_completed")
	PluginExecuted     = Fact[PluginExecutedData]("plugin.executed")
	PluginFailed       = Fact[PluginErrorData]("plugin.execution_error")

	SummarizeChat    = Internal[ChatSummarize]("chat.summarize")
	ChatUsageDelta   = Fact[ChatUsageDeltaData]("chat.usage_delta")
	ChatUsageSummary = Fact[ChatUsageSummaryData]("chat.usage_summary")

	CommandRefused = Fact[CommandRefusedData]("command.refused")
)

// CommandKinds lists the names of all kinds of commands, in order of declaration.
func CommandKinds() []string { return slices.Clone(commandNames) }

// InternalKinds lists the names of the commands that only grout writes.
func InternalKinds() []string { return slices.Clone(internalNames) }

// FactKinds lists the names of all kinds of facts, in order of declaration.
func FactKinds() []string { return slices.Clone(factNames) }
