package bus

import (
	"crypto/sha256"
	"crypto/subtle"

	"github.com/nats-io/nats-server/v2/server"
)

// Accounts and users (contract §8).
const (
	accountGrout    = "GROUT"
	accountConsumer = "CONSUMER"
	accountPlugin   = "PLUGIN"
	userGrout       = "grout"
	userAdmin       = "admin"
	userConsumer    = "consumer"
	userPlugin      = "plugin"
)

// accountsConfig is what crosses between the accounts. It names no user, because
// users are judged by the doorkeeper and their passwords are in no configuration.
// The import of $JS.API.INFO takes the place of the answer "JetStream is not
// enabled", at which some clients give up.
const accountsConfig = `
accounts {
  GROUT {
    jetstream: enabled
    exports: [
      {service: "$JS.API.INFO", accounts: [CONSUMER]}
      {service: "$JS.API.STREAM.INFO.MOZAIKS_EVT", accounts: [CONSUMER]}
      {service: "$JS.API.CONSUMER.INFO.MOZAIKS_EVT.*", accounts: [CONSUMER]}
      {service: "$JS.API.CONSUMER.MSG.NEXT.MOZAIKS_EVT.*", response_type: stream, accounts: [CONSUMER]}
      {service: "$JS.ACK.MOZAIKS_EVT.>", accounts: [CONSUMER]}
      {service: "mozaiks.v1.gate.>", accounts: [CONSUMER]}
    ]
    imports: [
      {service: {account: PLUGIN, subject: ">"}, to: "mozaiks.v1.plugin.>"}
    ]
  }
  PLUGIN {
    limits: {max_connections: 256, max_payload: 5242880, max_subscriptions: 4096}
    exports: [
      {service: ">", response_type: stream, accounts: [GROUT]}
    ]
  }
  CONSUMER {
    limits: {max_connections: 256, max_payload: 262144, max_subscriptions: 4096}
    imports: [
      {service: {account: GROUT, subject: "$JS.API.INFO"}}
      {service: {account: GROUT, subject: "$JS.API.STREAM.INFO.MOZAIKS_EVT"}}
      {service: {account: GROUT, subject: "$JS.API.CONSUMER.INFO.MOZAIKS_EVT.*"}}
      {service: {account: GROUT, subject: "$JS.API.CONSUMER.MSG.NEXT.MOZAIKS_EVT.*"}}
      {service: {account: GROUT, subject: "$JS.ACK.MOZAIKS_EVT.>"}}
      {service: {account: GROUT, subject: "mozaiks.v1.gate.names"}, to: "$JS.API.STREAM.NAMES"}
      {service: {account: GROUT, subject: "mozaiks.v1.gate.create"}, to: "$JS.API.CONSUMER.CREATE.MOZAIKS_EVT"}
      {service: {account: GROUT, subject: "mozaiks.v1.gate.create.>"}, to: "$JS.API.CONSUMER.CREATE.MOZAIKS_EVT.>"}
      {service: {account: GROUT, subject: "mozaiks.v1.gate.durable.*"}, to: "$JS.API.CONSUMER.DURABLE.CREATE.MOZAIKS_EVT.*"}
      {service: {account: GROUT, subject: "mozaiks.v1.gate.delete.*"}, to: "$JS.API.CONSUMER.DELETE.MOZAIKS_EVT.*"}
    ]
  }
}
`

// adminMayNot keeps the operator from forging what only grout may say: its
// subjects, and streams that would write there by a republish, a source or a
// restored copy. What is left, because a reply subject is under no permission, is
// that an existing message or an answer of the server can be made to appear under
// one of these subjects again. A repeated group changes nothing (source + id), and
// what is not a group of grout's is a dead letter.
var adminMayNot = []string{
	"mozaiks.v1.grp.>", "mozaiks.v1.evt.>", "mozaiks.v1.dlq.>",
	"mozaiks.v1.relay.>", "mozaiks.v1.reply.>", "mozaiks.v1.gate.>", pluginAll,
	"$JS.API.STREAM.CREATE.>", "$JS.API.STREAM.UPDATE.>", "$JS.API.STREAM.RESTORE.>",
}

type busUser struct {
	account   string
	passwords [][sha256.Size]byte
	may       *server.Permissions
}

// userTable leaves out users without a password, and empty passwords.
func userTable(grout string, consumer, admin, plugin []string) map[string]busUser {
	users := make(map[string]busUser)
	add := func(name, account string, passwords []string, may *server.Permissions) {
		u := busUser{account: account, may: may}
		for _, p := range passwords {
			if p != "" {
				u.passwords = append(u.passwords, sha256.Sum256([]byte(p)))
			}
		}
		if len(u.passwords) > 0 {
			users[name] = u
		}
	}
	add(userGrout, accountGrout, []string{grout}, nil)
	add(userAdmin, accountGrout, admin, &server.Permissions{Publish: &server.SubjectPermission{Deny: adminMayNot}})
	add(userConsumer, accountConsumer, consumer, nil)
	add(userPlugin, accountPlugin, plugin, nil)
	return users
}

// doorkeeper judges who connects. Passwords are compared by digest, in constant time.
type doorkeeper struct {
	users   map[string]busUser
	account func(string) (*server.Account, error)
}

// Check implements server.Authentication.
func (d *doorkeeper) Check(c server.ClientAuthentication) bool {
	if c.Kind() != server.CLIENT {
		return false
	}
	given := c.GetOpts()
	u, known := d.users[given.Username]
	digest := sha256.Sum256([]byte(given.Password))
	match := 0
	for i := range u.passwords {
		match |= subtle.ConstantTimeCompare(digest[:], u.passwords[i][:])
	}
	if !known || match != 1 {
		return false
	}
	account, err := d.account(u.account)
	if err != nil {
		return false
	}
	c.RegisterUser(&server.User{Username: given.Username, Account: account, Permissions: u.may})
	return true
}
