package schemas

// Identity is who a user token speaks for (contract §3). The token itself is not in it.
type Identity struct {
	UserID     string
	Username   string // never empty
	Email      string // empty: the token names none
	Roles      []string
	Superadmin bool
	Expires    int64 // nanoseconds since 1970 UTC
}
