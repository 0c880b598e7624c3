package bus

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"

	"grout/schemas"
)

// Accounts and users (contract §8). A publisher that the operator names has an account
// of its own: in one that it shared with others it would hear their answers.
const (
	accountGrout     = "GROUT"
	accountPlatform  = "PLATFORM"
	accountConsumer  = "CONSUMER"
	accountPlugin    = "PLUGIN"
	accountPublisher = "PUBLISHER_" // and the publisher's name

	userGrout    = "grout"
	userAdmin    = "admin"
	userPlatform = schemas.PublisherPlatform
	userConsumer = "consumer"
	userPlugin   = "plugin"
)

// Limits of the connections of an account: what a command may have, and what a request
// for facts may have.
const (
	commandPayload = publicSize
	readerPayload  = 256 << 10
	pluginPayload  = 5 << 20
)

// importsOfReaders are, by the subject in account GROUT, what pull consumers on
// MOZAIKS_EVT need; the second text is the subject in the reader's account when it is
// another one. The import of $JS.API.INFO takes the place of the answer "JetStream is
// not enabled", at which some clients give up.
var importsOfReaders = [][2]string{
	{"$JS.API.INFO", ""},
	{"$JS.API.STREAM.INFO.MOZAIKS_EVT", ""},
	{"$JS.API.CONSUMER.INFO.MOZAIKS_EVT.*", ""},
	{"$JS.API.CONSUMER.MSG.NEXT.MOZAIKS_EVT.*", ""},
	{"$JS.ACK.MOZAIKS_EVT.>", ""},
	{"mozaiks.v1.gate.names", "$JS.API.STREAM.NAMES"},
	{"mozaiks.v1.gate.create", "$JS.API.CONSUMER.CREATE.MOZAIKS_EVT"},
	{"mozaiks.v1.gate.create.>", "$JS.API.CONSUMER.CREATE.MOZAIKS_EVT.>"},
	{"mozaiks.v1.gate.durable.*", "$JS.API.CONSUMER.DURABLE.CREATE.MOZAIKS_EVT.*"},
	{"mozaiks.v1.gate.delete.*", "$JS.API.CONSUMER.DELETE.MOZAIKS_EVT.*"},
}

// servicesImports are the services of grout and what finds them.
var servicesImports = [][2]string{{"mozaiks.v1.svc.>", ""}, {"$SRV.>", ""}}

// commandImports lets an account publish commands, which arrive under its own name: the
// server puts it there, so nobody speaks as another one. A subject that names no app or
// no kind is not imported, so whoever publishes there hears that nobody listens.
func commandImports(prefix, publisher string) [][2]string {
	return [][2]string{{prefix + publisher + ".*.>", strings.TrimSuffix(schemas.SubjectsCommands, ">") + "*.>"}}
}

// AccountsConfig is what crosses between the accounts, as text of a server's
// configuration. The embedded server has no users in it: they are judged by the
// doorkeeper, and their passwords are in no configuration; users is nil. For an external
// cluster users gives the lines that belong into an account, and what is published goes
// through the intake.
func AccountsConfig(publishers []string, users func(account string) string) string {
	arrival := doorPrefix
	if users == nil {
		users, arrival = func(string) string { return "" }, schemas.SubjectFrom
	}
	readers := []string{accountConsumer, accountPlatform}
	asking := slices.Clone(readers)
	var b strings.Builder
	account := func(name, limits, exports, imports string) {
		fmt.Fprintf(&b, "  %s {\n%s", name, limits)
		if lines := users(name); lines != "" {
			fmt.Fprintf(&b, "    %s\n", lines)
		}
		for _, part := range [][2]string{{"exports", exports}, {"imports", imports}} {
			if part[1] != "" {
				fmt.Fprintf(&b, "    %s: [\n%s    ]\n", part[0], part[1])
			}
		}
		b.WriteString("  }\n")
	}
	others := fmt.Sprintf("    default_permissions: {publish: {deny: [\"%s\"]}}\n", strings.Join(othersMayNot, `", "`))
	b.WriteString("accounts {\n")
	account(accountPlugin, limits(256, pluginPayload)+others, fmt.Sprintf("      {service: \">\", response_type: stream, accounts: [%s]}\n", accountGrout), "")
	account(accountConsumer, limits(256, readerPayload)+others, "", imports(importsOfReaders))
	account(accountPlatform, limits(256, commandPayload)+others, "", imports(importsOfReaders, servicesImports, commandImports(arrival, schemas.PublisherPlatform)))
	exports := exportTo(commandImports(arrival, schemas.PublisherPlatform)[0][0], "", accountPlatform)
	for _, name := range publishers {
		asking = append(asking, accountPublisher+name)
		account(accountPublisher+name, limits(64, commandPayload), "", imports(importsOfReaders[:1], commandImports(arrival, name)))
		exports += exportTo(commandImports(arrival, name)[0][0], "", accountPublisher+name)
	}
	exports += exportTo("$JS.API.INFO", "", asking...)
	for _, subject := range []string{"$JS.API.STREAM.INFO.MOZAIKS_EVT", "$JS.API.CONSUMER.INFO.MOZAIKS_EVT.*", "$JS.ACK.MOZAIKS_EVT.>", gateAll} {
		exports += exportTo(subject, "", readers...)
	}
	exports += exportTo("$JS.API.CONSUMER.MSG.NEXT.MOZAIKS_EVT.*", "stream", readers...)
	exports += exportTo("mozaiks.v1.svc.>", "", accountPlatform) + exportTo("$SRV.>", "stream", accountPlatform)
	account(accountGrout, "    jetstream: enabled\n", exports, fmt.Sprintf("      {service: {account: %s, subject: \">\"}, to: %q}\n", accountPlugin, pluginAll))
	b.WriteString("}\n")
	return b.String()
}

func limits(connections, payload int) string {
	return fmt.Sprintf("    limits: {max_connections: %d, max_payload: %d, max_subscriptions: 4096}\n", connections, payload)
}

func imports(lists ...[][2]string) string {
	var b strings.Builder
	for _, i := range slices.Concat(lists...) {
		to := ""
		if i[1] != "" {
			to = fmt.Sprintf(", to: %q", i[1])
		}
		fmt.Fprintf(&b, "      {service: {account: %s, subject: %q}%s}\n", accountGrout, i[0], to)
	}
	return b.String()
}

func exportTo(subject, responses string, accounts ...string) string {
	if responses != "" {
		responses = ", response_type: " + responses
	}
	return fmt.Sprintf("      {service: %q%s, accounts: [%s]}\n", subject, responses, strings.Join(accounts, ", "))
}

// adminMayNot keeps the operator from forging what only grout may say, or what only a
// publisher may: those subjects, and streams that would write there by a republish, a
// source or a restored copy. What is left, because a reply subject is under no
// permission, is that an existing message or an answer of the server can be made to
// appear under one of these subjects again. A repeated group changes nothing (source +
// id), and what is not a group of grout's is a dead letter.
var adminMayNot = []string{
	"mozaiks.v1.grp.>", "mozaiks.v1.evt.>", "mozaiks.v1.dlq.>", "mozaiks.v1.from.>", "mozaiks.v1.door.>", "mozaiks.v1.in.>",
	"mozaiks.v1.relay.>", "mozaiks.v1.reply.>", "mozaiks.v1.gate.>", pluginAll,
	"$JS.API.STREAM.CREATE.>", "$JS.API.STREAM.UPDATE.>", "$JS.API.STREAM.RESTORE.>",
}

// othersMayNot keeps those who share an account from asking the server about each other:
// it tells every account of its own connections, with addresses and names.
var othersMayNot = []string{"$SYS.REQ.SERVER.>", "$SYS.REQ.ACCOUNT.>"}

// publisherMay is what a publisher with an account of its own may publish; what it may
// hear is all that is in that account.
func publisherMay(apps []string) *server.Permissions {
	allowed := []string{"$JS.API.INFO"}
	for _, app := range apps {
		token := "*"
		if app != AllApps {
			token = schemas.EscapeToken(app)
		}
		allowed = append(allowed, strings.TrimSuffix(schemas.SubjectsCommands, ">")+token+".>")
	}
	return &server.Permissions{Publish: &server.SubjectPermission{Allow: allowed}}
}
