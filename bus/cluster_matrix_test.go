package bus

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"grout/bus/bustest"
	"grout/integration/natsnode"
)

// The accounts of a cluster hold what those of the embedded server hold.
func TestPermissionsOnACluster(t *testing.T) {
	c := startCluster(t, natsnode.Options{Accounts: func(string) string {
		text := ClusterAccounts([]AppPublisher{{Name: bustest.Publisher, Apps: bustest.PublisherApps}})
		return strings.Replace(text, "$publisher_meter_password", `"meter-secret"`, 1)
	}})
	b := openBus(t, connectExternal(t, asGrout(c)), clusterConfig())
	gate := must1(ServeGate(b.nc))(t)
	defer gate.Close()
	intake := must1(ServeIntake(connectExternal(t, asGrout(c))))(t)
	defer intake.Close()
	whole := bustest.Target{URL: c.URLs(), Grout: connectExternal(t, asGrout(c)), Users: map[string]nats.Option{
		userPlatform:      nats.UserInfo(userPlatform, c.Passwords.Platform),
		userConsumer:      nats.UserInfo(userConsumer, c.Passwords.Consumer),
		userAdmin:         nats.UserInfo(userAdmin, c.Passwords.Admin),
		userPlugin:        nats.UserInfo(userPlugin, c.Passwords.Plugin),
		bustest.Publisher: nats.UserInfo(bustest.Publisher, "meter-secret"),
	}}
	t.Run("matrix", func(t *testing.T) { bustest.Matrix(t, whole) })
	t.Run("attacks", func(t *testing.T) { bustest.Attacks(t, whole) })
	t.Run("commands", func(t *testing.T) { bustest.Commands(t, whole) })
	t.Run("facts", func(t *testing.T) { bustest.Facts(t, whole) })
}
