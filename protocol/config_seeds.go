package protocol

import (
	"fmt"
	"strconv"
	"strings"
)

// maxSeeds bounds a list of seeds, each of which is an episode to run.
const maxSeeds = 100_000

// ParseSeeds reads a list of evaluation seeds such as 2000-2029 or 1,5,7-9, in the order given. A
// seed has 32 bits, as Park's random streams have.
func ParseSeeds(text string) ([]uint64, error) {
	var seeds []uint64
	for item := range strings.SplitSeq(text, ",") {
		first, last, ranged := strings.Cut(strings.TrimSpace(item), "-")
		if !ranged {
			last = first
		}
		low, err := strconv.ParseUint(strings.TrimSpace(first), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q is no seed", first)
		}
		high, err := strconv.ParseUint(strings.TrimSpace(last), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q is no seed", last)
		}
		if high < low {
			return nil, fmt.Errorf("%d-%d runs backwards", low, high)
		}
		if high-low >= uint64(maxSeeds-len(seeds)) {
			return nil, fmt.Errorf("more than %d seeds", maxSeeds)
		}
		for s := low; s <= high; s++ {
			seeds = append(seeds, s)
		}
	}
	return seeds, nil
}
