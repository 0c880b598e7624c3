package identity

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Sign makes a token of mode local. Claims that it must have, those of Options and of
// time, take the place of extra ones.
func Sign(o Options, subject string, life time.Duration, extra map[string]any) (string, error) {
	algorithm := o.Algorithm
	if algorithm == "" {
		algorithm = SharedAlgorithms[0]
	}
	switch {
	case len(o.Secret) == 0:
		return "", errors.New("sign a user token: there is no secret")
	case !slices.Contains(SharedAlgorithms, algorithm):
		return "", fmt.Errorf("sign a user token: %q is no algorithm of shared secrets", algorithm)
	}
	now := time.Now
	if o.Now != nil {
		now = o.Now
	}
	claims := jwt.MapClaims{}
	maps.Copy(claims, extra)
	claims["sub"] = subject
	claims["iat"], claims["exp"] = now().Unix(), now().Add(life).Unix()
	if o.Issuer != "" {
		claims["iss"] = o.Issuer
	}
	if o.Audience != "" {
		claims["aud"] = o.Audience
	}
	token, err := jwt.NewWithClaims(jwt.GetSigningMethod(algorithm), claims).SignedString(o.Secret)
	if err != nil {
		return "", fmt.Errorf("sign a user token: %w", err)
	}
	return token, nil
}
