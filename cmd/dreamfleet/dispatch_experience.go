package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/actor"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// experiencePublisher sends a dispatcher's chunks to the run's replay, one after the
// other. What the bus does not take while it waits for room is dropped: decisions do
// not wait for learning.
type experiencePublisher struct {
	bus     *protocol.Bus
	name    string
	chunks  chan *protocol.Chunk
	dropped atomic.Uint64
	log     hclog.Logger
}

// experienceRoom is how many chunks wait.
const experienceRoom = 256

func newExperiencePublisher(bus *protocol.Bus, name string, log hclog.Logger) (*experiencePublisher, error) {
	name, err := actor.Incarnate(name[:min(len(name), protocol.MaxName-12)])
	if err != nil {
		return nil, err
	}
	return &experiencePublisher{bus: bus, name: name, chunks: make(chan *protocol.Chunk, experienceRoom), log: log}, nil
}

func (p *experiencePublisher) offer(c *protocol.Chunk) {
	select {
	case p.chunks <- c:
	default:
		p.dropped.Add(1)
	}
}

func (p *experiencePublisher) run(ctx context.Context) {
	for {
		select {
		case c := <-p.chunks:
			p.send(ctx, c)
		case <-ctx.Done():
			return
		}
	}
}

// send repeats until the stream has stored the chunk.
func (p *experiencePublisher) send(ctx context.Context, c *protocol.Chunk) {
	for wait := 250 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 10*time.Second) {
		result := make(chan error, 1)
		err := p.bus.PublishChunk(ctx, c, func(_ uint64, err error) { result <- err })
		if err == nil {
			err = <-result
		}
		if err == nil {
			return
		}
		p.log.Warn("experience is sent again", "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}
