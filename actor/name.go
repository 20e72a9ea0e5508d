package actor

import (
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// incarnation is the number of characters that Incarnate draws: 40 bits, so
// that after a thousand restarts the odds of a repetition are one in two
// million.
const incarnation = 8

// Incarnate returns name with a random suffix, as the name of one life of an
// actor. A process that starts anew counts its chunks from 0; under its old
// name they would be taken for repetitions of earlier ones.
func Incarnate(name string) (string, error) {
	full := name + "-" + strings.ToLower(rand.Text()[:incarnation])
	if !protocol.ValidName(name) || !protocol.ValidName(full) {
		return "", fmt.Errorf("actor: name %q: a name has 1 to %d of the characters A-Z a-z 0-9 _ -", name, protocol.MaxName-incarnation-1)
	}
	return full, nil
}
