package schemas

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
)

// Limits of what config.set carries.
const (
	MaxConfigName  = 128
	MaxConfigBytes = 1 << 20
)

// ConfigDigest is the SHA-256 of a configuration's content.
type ConfigDigest [sha256.Size]byte

// ConfigChange is the payload of config.set, the only way in which configuration
// reaches handlers (architecture §2.4). Only grout writes it.
type ConfigChange struct {
	Name    string // 1 to MaxConfigName characters of a–z, 0–9, _, . and -
	Digest  ConfigDigest
	Content []byte // JSON, at most MaxConfigBytes
}

// NewConfigChange makes the change that gives a name its content.
func NewConfigChange(name string, content []byte) *ConfigChange {
	return &ConfigChange{Name: name, Digest: sha256.Sum256(content), Content: content}
}

// EncodePayload gives the stored form: form 1, name, digest, content.
func (c *ConfigChange) EncodePayload(dst []byte) []byte {
	dst = appendText(append(dst, 1), c.Name)
	dst = append(dst, c.Digest[:]...)
	dst = binary.AppendUvarint(dst, uint64(len(c.Content)))
	return append(dst, c.Content...)
}

// DecodePayload reads what EncodePayload wrote, and that it is what its digest says.
func (c *ConfigChange) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	c.Name = r.Text()
	copy(c.Digest[:], r.Bytes(sha256.Size))
	c.Content = r.Bytes(r.Uvarint())
	if err := r.end(); err != nil {
		return err
	}
	return c.Validate()
}

// Validate says what is wrong with a change.
func (c *ConfigChange) Validate() error {
	switch {
	case !configName(c.Name):
		return Errorf(CodeValidation, "%.200q is no name of a configuration", c.Name)
	case len(c.Content) > MaxConfigBytes:
		return Errorf(CodeValidation, "configuration %s has more than %d bytes", c.Name, MaxConfigBytes)
	case !json.Valid(c.Content):
		return Errorf(CodeValidation, "configuration %s is not JSON", c.Name)
	case c.Digest != sha256.Sum256(c.Content):
		return Errorf(CodeValidation, "configuration %s is not what its digest says", c.Name)
	}
	return nil
}

func configName(s string) bool {
	if s == "" || len(s) > MaxConfigName {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return true
}

// ConfigRules is the name under which the version of the rules stands.
const ConfigRules = "rules"

// Rules is the content of ConfigRules.
type Rules struct {
	Version int `json:"version"`
}

// ParseRules reads the content of ConfigRules.
func ParseRules(content []byte) (Rules, error) {
	var r Rules
	if err := json.Unmarshal(content, &r); err != nil {
		return r, Errorf(CodeValidation, "configuration %s cannot be read: %v", ConfigRules, err)
	}
	if r.Version < 1 {
		return r, Errorf(CodeValidation, "configuration %s has no version", ConfigRules)
	}
	return r, nil
}

// Change makes the change that sets the version.
func (r Rules) Change() *ConfigChange {
	content, err := json.Marshal(r)
	if err != nil {
		panic(err) // a number
	}
	return NewConfigChange(ConfigRules, content)
}
