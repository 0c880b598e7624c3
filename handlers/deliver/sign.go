package deliver

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"
)

const (
	secretPrefix = "whsec_"
	leastSecret  = 24 // bytes
	mostSecret   = 64
)

// Key signs what goes to a webhook. It shows itself to nobody.
type Key []byte

// String and its relatives keep a key out of logs.
func (Key) String() string { return "(hidden)" }

// GoString hides the key from %#v.
func (Key) GoString() string { return "(hidden)" }

// MarshalText hides the key from JSON.
func (Key) MarshalText() ([]byte, error) { return []byte("(hidden)"), nil }

// ParseSecret reads a secret of Standard Webhooks: whsec_ and base64 of 24 to 64 bytes.
// Its errors say nothing of the secret.
func ParseSecret(text string) (Key, error) {
	coded, found := strings.CutPrefix(strings.TrimSpace(text), secretPrefix)
	if !found {
		return nil, errors.New("a secret begins with " + secretPrefix)
	}
	key, err := base64.StdEncoding.DecodeString(coded)
	if err != nil {
		if key, err = base64.RawStdEncoding.DecodeString(coded); err != nil {
			return nil, errors.New("what follows " + secretPrefix + " is not base64")
		}
	}
	if len(key) < leastSecret || len(key) > mostSecret {
		return nil, errors.New("a secret has 24 to 64 bytes")
	}
	return key, nil
}

// FormatSecret writes a secret as ParseSecret reads it.
func FormatSecret(key []byte) string { return secretPrefix + base64.StdEncoding.EncodeToString(key) }

// sign gives the header webhook-signature: one signature for each key.
func sign(keys []Key, id string, at time.Time, body []byte) string {
	var list []string
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
		mac.Write(body)
		list = append(list, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(list, " ")
}

// messageID makes the header webhook-id of a fact's id, which stays the same however
// often it is sent. The specification wants no full stop in it.
func messageID(fact string) string { return strings.ReplaceAll(fact, ".", "_") }
