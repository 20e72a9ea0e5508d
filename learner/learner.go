package learner

import (
	"context"
	"io"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// Source is the replay as the loop sees it.
type Source interface {
	// Sample fills dst with a batch. It blocks until the rate limiter lets it
	// pass or ctx ends.
	Sample(ctx context.Context, dst *protocol.Batch) error
	// Refresh writes context rows back. Rows of sequences that are gone
	// meanwhile are dropped without an error.
	Refresh(ctx context.Context, r *protocol.Refresh) error
}

// Result is what came of one update.
type Result struct {
	Metrics map[string]float64 // losses and the like; non-finite values are left out of the means
	Refresh *protocol.Refresh  // context rows to write back; nil: none
	Skipped bool               // loss or gradient was not finite, and nothing was changed
}

// Algorithm is what learns.
type Algorithm interface {
	// Train makes one gradient step. When ctx ends before the parameters are
	// touched, it changes nothing and returns ctx's error. What the result
	// points to is valid until the next call.
	Train(ctx context.Context, b *protocol.Batch) (Result, error)
	// Params appends the acting parameters as a safetensors blob.
	Params(dst []byte) ([]byte, error)
	// Save writes everything: parameters, optimiser, normalisers, random
	// streams and step count. After Load of it, Train continues as if nothing
	// had happened.
	Save(w io.Writer) error
	Load(r io.Reader) error
}

// Publisher takes parameters to the actors.
type Publisher interface {
	// Publish sends a version; blob belongs to the publisher from then on.
	Publish(ctx context.Context, version uint64, blob []byte) error
}

// Recorder keeps metrics.
type Recorder interface {
	// Record is given the number of updates and the values since the last
	// call: means over the interval, rates, and totals.
	Record(step int64, values map[string]float64) error
}
