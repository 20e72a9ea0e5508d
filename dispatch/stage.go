package dispatch

import (
	"hash/fnv"
)

// Stage is how much the policy decides.
type Stage string

// The stages.
const (
	Shadow Stage = "shadow" // nothing: its advice is recorded
	Canary Stage = "canary" // for a share of the streams
	Active Stage = "active" // for all
)

// position of a stream in [0, 1): the policy decides for it once the canary's share
// is above. It is the same in every process, and a share that rises keeps the
// streams that it had.
func position(stream string) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(stream)) // never fails
	// FNV's high bits hardly depend on the last bytes; a finaliser spreads them.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}
