package protocol

import "fmt"

// MaxName is the longest name in bytes. NATS advises names below 32, since
// they become folders of its store.
const MaxName = 31

// ValidName reports whether s may name a run, an actor or a role: 1 to 31 of
// the characters A-Z a-z 0-9 _ and -, all of which are safe in a NATS subject,
// a stream name and a file name.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > MaxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func checkName(field, s string) error {
	if ValidName(s) {
		return nil
	}
	if len(s) > 2*MaxName {
		s = s[:2*MaxName] + "..."
	}
	return fmt.Errorf("%s is %q: a name has 1 to %d of the characters A-Z a-z 0-9 _ -", field, s, MaxName)
}
