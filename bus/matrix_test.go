package bus

import (
	"slices"
	"testing"

	"github.com/nats-io/nats.go"

	"grout/bus/bustest"
)

const pluginDoor = "plugin-secret"

// target is the embedded server as bustest looks at it, with a publisher beside the users.
func target(t *testing.T, partitions int) bustest.Target {
	t.Helper()
	doors := testDoors()
	doors.Plugin = Door{Passwords: []string{pluginDoor}}
	doors.Publishers = []AppPublisher{{Name: bustest.Publisher, Apps: bustest.PublisherApps, Door: Door{Passwords: []string{"meter-secret"}}}}
	s := must1(StartServer(ServerOptions{Dir: t.TempDir(), Listen: "127.0.0.1:0", Doors: doors}))(t)
	t.Cleanup(s.Shutdown)
	cfg := smallConfig()
	cfg.Partitions = partitions
	openBus(t, connect(t, s), cfg)
	return bustest.Target{URL: s.ClientURL(), Grout: connect(t, s), Users: map[string]nats.Option{
		userPlatform:      nats.UserInfo(userPlatform, platformPassword),
		userConsumer:      nats.UserInfo(userConsumer, consumerPassword),
		userAdmin:         nats.UserInfo(userAdmin, adminPassword),
		userPlugin:        nats.UserInfo(userPlugin, pluginDoor),
		bustest.Publisher: nats.UserInfo(bustest.Publisher, "meter-secret"),
	}}
}

func TestPermissionMatrix(t *testing.T)  { bustest.Matrix(t, target(t, 1)) }
func TestPermissionAttacks(t *testing.T) { bustest.Attacks(t, target(t, 1)) }
func TestReadersOfFacts(t *testing.T)    { bustest.Facts(t, target(t, 1)) }
func TestPublishersOfCommands(t *testing.T) {
	for _, partitions := range []int{1, 5} {
		bustest.Commands(t, target(t, partitions))
	}
}

// The text for a cluster has the same accounts, with users in them.
func TestAccountsForClusters(t *testing.T) {
	var asked []string
	AccountsConfig([]string{"meter"}, func(account string) string {
		asked = append(asked, account)
		return ""
	})
	slices.Sort(asked)
	if want := []string{"CONSUMER", "GROUT", "PLATFORM", "PLUGIN", "PUBLISHER_meter"}; !slices.Equal(asked, want) {
		t.Errorf("accounts %v", asked)
	}
}
