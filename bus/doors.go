package bus

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// Door is how a user gets in: with any of the passwords, or with the private key of any
// of the NKeys, of which these are the public ones. Several are valid while they
// rotate. A door without either is closed.
type Door struct {
	Passwords []string
	NKeys     []string
}

// AllApps stands for every app.
const AllApps = "*"

// AppPublisher is a publisher of commands with a name and an account of its own, which
// publishes for its apps and does nothing else.
type AppPublisher struct {
	Name string
	Door Door
	Apps []string // AllApps is all of them
}

// Doors are the doors of the embedded server.
type Doors struct {
	Platform, Consumer, Admin, Plugin Door
	Publishers                        []AppPublisher
}

// Names of the operator's publishers, and how many there may be.
const (
	maxPublishers    = 64
	maxPublisherApps = 256
)

var publisherName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)

// Check judges what can be wrong before anybody comes to a door.
func (d *Doors) Check() error {
	taken := []string{userGrout, userAdmin, userPlatform, userConsumer, userPlugin, "system", "sys"}
	keys := map[string]string{}
	door := func(user string, d *Door) error {
		for _, k := range d.NKeys {
			if err := CheckNKey(k); err != nil {
				return fmt.Errorf("NKey of %s: %w", user, err)
			}
			if other := keys[k]; other != "" && other != user {
				return fmt.Errorf("%s and %s have the same NKey", other, user)
			}
			keys[k] = user
		}
		return nil
	}
	err := errors.Join(door(userPlatform, &d.Platform), door(userConsumer, &d.Consumer), door(userAdmin, &d.Admin), door(userPlugin, &d.Plugin))
	if err != nil {
		return err
	}
	if len(d.Publishers) > maxPublishers {
		return fmt.Errorf("there are %d publishers, the most are %d", len(d.Publishers), maxPublishers)
	}
	for i := range d.Publishers {
		p := &d.Publishers[i]
		switch {
		case !publisherName.MatchString(p.Name):
			return fmt.Errorf("the publisher's name %q is not 1 to 32 of a-z, 0-9, _ and -, a letter first", p.Name)
		case slices.Contains(taken, p.Name):
			return fmt.Errorf("the publisher's name %q is taken", p.Name)
		case len(p.Apps) == 0 || len(p.Apps) > maxPublisherApps:
			return fmt.Errorf("publisher %s has %d apps; it needs 1 to %d, or %q", p.Name, len(p.Apps), maxPublisherApps, AllApps)
		case slices.Contains(p.Apps, ""):
			return fmt.Errorf("publisher %s has an app without a name", p.Name)
		}
		taken = append(taken, p.Name)
		if err := door(p.Name, &p.Door); err != nil {
			return err
		}
	}
	return nil
}

// CheckNKey tells whether a text is the public key of a user. It does not repeat the text,
// which may be a seed.
func CheckNKey(text string) error {
	if !nkeys.IsValidPublicUserKey(text) {
		return errors.New("it is not the public key of a user, which begins with U (nk -gen user -pubout)")
	}
	return nil
}

// names are those of the publishers.
func (d *Doors) names() (names []string) {
	for i := range d.Publishers {
		names = append(names, d.Publishers[i].Name)
	}
	return names
}

// credential is what somebody came in with: a user and the digest of a password or key.
type credential struct {
	user string
	sum  [sha256.Size]byte
}

// busUser is a user that has a door.
type busUser struct {
	account   string
	passwords [][sha256.Size]byte
	may       *server.Permissions
	apps      []string
}

// users and NKeys, by public key, of the doors that are not closed.
type userTable struct {
	users map[string]*busUser
	keys  map[string]string
}

// table leaves out empty passwords, and users without a way in.
func (d *Doors) table(grout string) *userTable {
	t := &userTable{map[string]*busUser{}, map[string]string{}}
	t.add(userGrout, busUser{account: accountGrout}, Door{Passwords: []string{grout}})
	t.add(userAdmin, busUser{account: accountGrout, may: &server.Permissions{Publish: &server.SubjectPermission{Deny: adminMayNot}}}, d.Admin)
	others := &server.Permissions{Publish: &server.SubjectPermission{Deny: othersMayNot}}
	t.add(userPlatform, busUser{account: accountPlatform, may: others}, d.Platform)
	t.add(userConsumer, busUser{account: accountConsumer, may: others}, d.Consumer)
	t.add(userPlugin, busUser{account: accountPlugin, may: others}, d.Plugin)
	for i := range d.Publishers {
		p := &d.Publishers[i]
		apps := slices.Sorted(slices.Values(p.Apps))
		t.add(p.Name, busUser{account: accountPublisher + p.Name, may: publisherMay(apps), apps: apps}, p.Door)
	}
	return t
}

func (t *userTable) add(name string, u busUser, d Door) {
	for _, p := range d.Passwords {
		if p != "" {
			u.passwords = append(u.passwords, sha256.Sum256([]byte(p)))
		}
	}
	for _, k := range d.NKeys {
		t.keys[k] = name
	}
	if len(u.passwords)+len(d.NKeys) > 0 {
		t.users[name] = &u
	}
}

// opens tells whether what somebody once came in with still opens that door.
func (t *userTable) opens(c credential, apps []string) bool {
	u := t.users[c.user]
	if u == nil || !slices.Equal(u.apps, apps) {
		return false
	}
	if slices.Contains(u.passwords, c.sum) {
		return true
	}
	for key, user := range t.keys {
		if user == c.user && sha256.Sum256([]byte(key)) == c.sum {
			return true
		}
	}
	return false
}
