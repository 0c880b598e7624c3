package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/MicahParks/jwkset"
)

const (
	maxKeySetBytes = 1 << 20
	maxKeys        = 256
	maxKeyID       = 256 // bytes
	leastRSABits   = 2048
	mostRSABits    = 16384
	maxTried       = 4 // keys that one token is tried with
)

// keySet is what was fetched: keys that can prove a signature. Others, such as symmetric
// ones and those for encryption, are not in it.
type keySet struct{ keys []publicKey }

type publicKey struct {
	id         string
	algorithms []string // that it can prove
	key        any
}

// parseKeySet reads a JSON Web Key Set. A key that cannot be used is left out, so that it
// does not lock everybody out; a set that cannot be read is an error.
func parseKeySet(text []byte) (*keySet, error) {
	var raw struct {
		Keys *[]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, errors.New("the answer is not a JSON Web Key Set")
	}
	switch {
	case raw.Keys == nil:
		return nil, errors.New("the answer has no list of keys")
	case len(*raw.Keys) > maxKeys:
		return nil, fmt.Errorf("the answer has more than %d keys", maxKeys)
	}
	set := &keySet{}
	for _, item := range *raw.Keys {
		if k, ok := parseKey(item); ok {
			set.keys = append(set.keys, k)
		}
	}
	return set, nil
}

// parseKey reads one key. What it refers to elsewhere (x5u) is not looked at.
func parseKey(text json.RawMessage) (publicKey, bool) {
	jwk, err := jwkset.NewJWKFromRawJSON(text, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{SkipX5UScheme: true})
	if err != nil {
		return publicKey{}, false
	}
	m := jwk.Marshal()
	if m.USE != "" && m.USE != jwkset.UseSig || len(m.KEYOPS) > 0 && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify) || len(m.KID) > maxKeyID {
		return publicKey{}, false
	}
	k := publicKey{id: m.KID, key: jwk.Key(), algorithms: algorithmsOf(jwk.Key())}
	if m.ALG != "" {
		if !slices.Contains(k.algorithms, m.ALG.String()) {
			return publicKey{}, false
		}
		k.algorithms = []string{m.ALG.String()}
	}
	return k, len(k.algorithms) > 0
}

// algorithmsOf binds a key to what it can prove: an elliptic curve belongs to one
// algorithm (RFC 7518 §3.4), and RSA keys that are too short prove nothing (§3.3).
func algorithmsOf(key any) []string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < leastRSABits || bits > mostRSABits || k.E < 3 {
			return nil
		}
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case *ecdsa.PublicKey:
		switch k.Params().BitSize {
		case 256:
			return []string{"ES256"}
		case 384:
			return []string{"ES384"}
		case 521:
			return []string{"ES512"}
		}
	case ed25519.PublicKey:
		return []string{"EdDSA"}
	}
	return nil
}

// fitting gives the keys with an id that can prove an algorithm. A token without an id
// was signed by the only key that can have done it, or by none.
func (s *keySet) fitting(algorithm, id string, named bool) (keys []any) {
	for _, k := range s.keys {
		if (k.id == id || !named) && slices.Contains(k.algorithms, algorithm) {
			keys = append(keys, k.key)
		}
	}
	if len(keys) > maxTried || !named && len(keys) > 1 {
		return nil
	}
	return keys
}
