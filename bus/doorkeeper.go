package bus

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// doorkeeper judges who connects, and knows what those who are in came in with, so that
// who has lost the right to it can be sent away. Passwords are compared by digest, in
// constant time.
type doorkeeper struct {
	account func(string) (*server.Account, error)
	present func(id uint64) bool
	away    func(id uint64) error

	mu    sync.Mutex
	table *userTable
	in    map[uint64]guest
}

type guest struct {
	credential
	apps []string
}

func newDoorkeeper(d Doors, grout string) *doorkeeper {
	return &doorkeeper{table: d.table(grout), in: map[uint64]guest{}}
}

// Check implements server.Authentication.
func (d *doorkeeper) Check(c server.ClientAuthentication) bool {
	if c.Kind() != server.CLIENT {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	came, ok := d.judge(c)
	if !ok || overWebSocket(c) && came.user != userConsumer {
		return false
	}
	u := d.table.users[came.user]
	account, err := d.account(u.account)
	if err != nil {
		return false
	}
	c.RegisterUser(&server.User{Username: came.user, Account: account, Permissions: u.may})
	d.remember(c.GetID(), guest{came, u.apps})
	return true
}

// judge takes a signed nonce, or a user and a password.
func (d *doorkeeper) judge(c server.ClientAuthentication) (credential, bool) {
	given := c.GetOpts()
	if given.Nkey != "" {
		user, known := d.table.keys[given.Nkey]
		return credential{user, sha256.Sum256([]byte(given.Nkey))}, known && signed(given.Nkey, given.Sig, c.GetNonce())
	}
	u, known := d.table.users[given.Username]
	digest := sha256.Sum256([]byte(given.Password))
	if !known {
		return credential{}, false
	}
	match := 0
	for i := range u.passwords {
		match |= subtle.ConstantTimeCompare(digest[:], u.passwords[i][:])
	}
	return credential{given.Username, digest}, match == 1
}

func signed(key, signature string, nonce []byte) bool {
	sig, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil { // as older clients write it
		if sig, err = base64.StdEncoding.DecodeString(signature); err != nil {
			return false
		}
	}
	pub, err := nkeys.FromPublicKey(key)
	return err == nil && len(nonce) > 0 && pub.Verify(nonce, sig) == nil
}

// overWebSocket tells how somebody came: the server says it in the connection's name. One
// that says neither counts as a browser, which may do least.
func overWebSocket(c server.ClientAuthentication) bool {
	named, ok := c.(fmt.Stringer)
	return !ok || !strings.Contains(named.String(), " - cid:")
}

// remember forgets those who have left whenever there are many.
func (d *doorkeeper) remember(id uint64, g guest) {
	if len(d.in) >= 2*maxConnections {
		for id := range d.in {
			if !d.present(id) {
				delete(d.in, id)
			}
		}
	}
	d.in[id] = g
}

// change puts other doors in, and sends those away who would not get in again as they
// came. It gives their number.
func (d *doorkeeper) change(doors Doors, grout string) int {
	d.mu.Lock()
	d.table = doors.table(grout)
	var gone []uint64
	for id, g := range d.in {
		if !d.present(id) {
			delete(d.in, id)
		} else if !d.table.opens(g.credential, g.apps) {
			gone = append(gone, id)
			delete(d.in, id)
		}
	}
	d.mu.Unlock()
	slices.Sort(gone)
	n := 0
	for _, id := range gone {
		if d.away(id) == nil { // else it has just left
			n++
		}
	}
	return n
}
