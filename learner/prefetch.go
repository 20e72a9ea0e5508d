package learner

import (
	"context"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// prefetchDepth is the number of batches that wait beside the one that is
// trained on. One hides the time that sampling takes; more would only make
// sampled contexts older.
const prefetchDepth = 1

// prefetcher samples ahead on a goroutine of its own.
type prefetcher struct {
	full  chan *protocol.Batch
	empty chan *protocol.Batch
	inUse *protocol.Batch // with the caller of next
	err   error           // why full was closed
}

// prefetch starts sampling; it ends with ctx or with the first error, after
// which next returns it.
func prefetch(ctx context.Context, source Source) *prefetcher {
	p := &prefetcher{
		full:  make(chan *protocol.Batch, prefetchDepth+1),
		empty: make(chan *protocol.Batch, prefetchDepth+1),
	}
	for range prefetchDepth + 1 {
		p.empty <- new(protocol.Batch)
	}
	go func() {
		defer close(p.full)
		for {
			select {
			case b := <-p.empty:
				if p.err = source.Sample(ctx, b); p.err != nil {
					return
				}
				p.full <- b
			case <-ctx.Done():
				p.err = ctx.Err()
				return
			}
		}
	}()
	return p
}

// next returns the next batch and takes the one before back.
func (p *prefetcher) next() (*protocol.Batch, error) {
	if p.inUse != nil {
		p.empty <- p.inUse
		p.inUse = nil
	}
	b, ok := <-p.full
	if !ok {
		return nil, p.err
	}
	p.inUse = b
	return b, nil
}

// wait returns when the goroutine has ended; its context must have.
func (p *prefetcher) wait() {
	for range p.full {
	}
}
