package bus

import (
	"fmt"
	"strings"
)

// ClusterAccounts is the file accounts.conf of docs/examples/cluster: the accounts of the
// embedded server as configuration of a cluster's nodes, with users whose passwords are
// in a file of their own. Publishers are those that the operator names beside platform,
// with their apps.
func ClusterAccounts(publishers []AppPublisher) string {
	may := map[string]string{}
	var names []string
	for i := range publishers {
		p := &publishers[i]
		names = append(names, p.Name)
		may[accountPublisher+p.Name] = fmt.Sprintf(", permissions: {publish: {allow: [\"%s\"]}}", strings.Join(publisherMay(p.Apps).Publish.Allow, `", "`))
	}
	users := func(account string) string {
		name := strings.ToLower(account)
		if account != accountGrout {
			return fmt.Sprintf("users: [{user: %s, password: $%s_password%s}]", strings.TrimPrefix(name, strings.ToLower(accountPublisher)), strings.ReplaceAll(name, "-", "_"), may[account])
		}
		var deny strings.Builder
		for _, subject := range adminMayNot {
			fmt.Fprintf(&deny, "          %q\n", subject)
		}
		return "users: [\n      {user: grout, password: $grout_password}\n      {user: admin, password: $admin_password, permissions: {publish: {deny: [\n" +
			deny.String() + "      ]}}}\n    ]"
	}
	const system = "  SYS {\n    users: [{user: system, password: $system_password}]\n  }\n"
	return `# Who may do what on a cluster, as the server inside grout has it; grout doctor --accounts
# prints it, also with publishers of your own. The words are in passwords.conf.

include "./passwords.conf"

system_account: SYS

` + strings.Replace(AccountsConfig(names, users), "accounts {\n", "accounts {\n"+system, 1)
}
