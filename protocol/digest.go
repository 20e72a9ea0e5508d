package protocol

import (
	"crypto/sha256"
	"fmt"
)

// Digest is the SHA-256 of what a replay keeps of a chunk as it came: of all but
// the contexts, which the learner recomputes, and the outcomes of episodes. What an
// actor has sent and what a replay holds are the same if their digests are.
func (c *Chunk) Digest() (sum [sha256.Size]byte, err error) {
	kept := *c
	kept.ContextLen, kept.Context, kept.Episodes = 0, nil, nil
	data, err := kept.AppendTo(nil)
	if err != nil {
		return sum, fmt.Errorf("digest: %w", err)
	}
	return sha256.Sum256(data), nil
}
