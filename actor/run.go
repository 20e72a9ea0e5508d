package actor

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/watchdog"
)

// drainTimeout bounds what Run does after its context has ended: a third of the
// time in which a whole process is expected to be gone.
const drainTimeout = 3 * time.Second

// Run acts until ctx ends, then sends what is complete and what is not. What
// can not be sent in time is reported in the log and in Stats; it is no error.
func (a *Actor) Run(ctx context.Context) error {
	// A replay that has what it wants says so within its interval.
	a.flow.CompareAndSwap(nil, &told{flow: protocol.Flow{Hold: true, Reason: "the replay has not been heard of yet"}, at: time.Now()})
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { a.sender.run(sending) })
	defer wg.Wait()
	defer cancel()

	loop := a.cfg.Watchdog.Loop("actor", "act")
	defer loop.End()
	var gate gate
	again := rollAgain
	for ctx.Err() == nil {
		if a.cfg.OnPolicy {
			if again = a.await(ctx, again, loop); ctx.Err() != nil {
				break
			}
		} else if a.hold(ctx, &gate, loop) || a.outrun(ctx, loop) {
			continue
		}
		loop.Do("tick")
		if err := a.Tick(); err != nil {
			return err
		}
		gate.left--
	}
	loop.Do("drain")
	return a.drain(sending)
}

// rollAgain and rollAgainLast bound how long an on-policy actor waits for the
// next parameters before it rolls once more with those it has: the learner may
// lack a chunk that got lost, or those of an actor that is gone. The time doubles
// from one to the other while none come, as the learner may be away, or slow.
const (
	rollAgain     = 5 * time.Second
	rollAgainLast = time.Minute
)

// await waits, between two rollouts, for parameters newer than those of the last
// one, or for so long, and returns how long to wait the next time. Without any
// parameters it waits for the first.
func (a *Actor) await(ctx context.Context, again time.Duration, loop *watchdog.Loop) time.Duration {
	if !a.rollout.between() {
		return again
	}
	var expired <-chan time.Time
	if a.params != nil {
		timer := time.NewTimer(again)
		defer timer.Stop()
		expired = timer.C
	}
	for a.pending.Load() == nil {
		loop.Wait("parameters")
		select {
		case <-a.newer:
		case <-expired:
			return min(2*again, rollAgainLast)
		case <-ctx.Done():
			return again
		}
	}
	return rollAgain
}

// hold waits while the replay wants none, and reports whether it did.
func (a *Actor) hold(ctx context.Context, gate *gate, loop *watchdog.Loop) bool {
	gate.hear(a.flow.Load())
	wait := gate.wait(time.Now(), a.leave())
	if wait <= 0 {
		return false
	}
	loop.Wait("replay")
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-a.flowCome:
	case <-timer.C:
	case <-ctx.Done():
	}
	return true
}

// outrun waits while the bus is taking chunks more slowly than the environments
// make them, and reports whether it did. One chunk of each stream under way and
// one waiting keep the bus busy; more would only be older when they arrive, and
// come in after the replay has said hold. In an outage nothing waits: the spool
// fills, and then its oldest chunks make way.
func (a *Actor) outrun(ctx context.Context, loop *watchdog.Loop) bool {
	changed := a.spool.crowded(2 * len(a.rollout.streams))
	if changed == nil {
		return false
	}
	if _, outage := a.sender.pause(); outage {
		return false
	}
	loop.Wait("bus")
	select {
	case <-changed:
	case <-ctx.Done():
	}
	return true
}

// leave is the ticks that fill leaveChunks chunks in each stream.
func (a *Actor) leave() int { return leaveChunks * a.cfg.ChunkLength }

// SetFlow takes in what the replay says.
func (a *Actor) SetFlow(f protocol.Flow) {
	a.flow.Store(&told{flow: f, at: time.Now(), leave: a.leave()})
	select {
	case a.flowCome <- struct{}{}:
	default:
	}
}

func (a *Actor) drain(ctx context.Context) error {
	a.rollout.finishPartial(a.spool.add)
	a.show()
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if err := a.spool.drained(ctx); err != nil {
		chunks, bytes, _ := a.spool.level()
		a.log.Warn("actor ends with chunks unsent", "actor", a.cfg.Name, "chunks", chunks, "bytes", bytes)
	}
	return nil
}

// Bus is the connection of a process that acts. *protocol.Bus is one.
type Bus interface {
	Publisher
	FollowParams(ctx context.Context, deliver func(version uint64, blob []byte)) error
	FollowFlow(ctx context.Context, handler func(protocol.Flow)) error
	FollowLooks(ctx context.Context, handler func(actor string)) error
	Heartbeat(ctx context.Context, fill func(*protocol.Status)) error
}

// followRetry spaces attempts at following the bus after an error; the
// connection itself comes back without.
const followRetry = time.Second

// Serve runs the actors of a process on one connection until ctx ends and all
// have drained, or until one fails.
func Serve(ctx context.Context, bus Bus, log hclog.Logger, actors ...*Actor) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var side sync.WaitGroup
	defer side.Wait()
	keep := func(what string, follow func() error) {
		side.Go(func() {
			for ctx.Err() == nil {
				if err := follow(); ctx.Err() == nil {
					log.Warn("following broke off, trying again", "what", what, "error", err)
					sleep(ctx, followRetry)
				}
			}
		})
	}
	keep("parameters", func() error {
		return bus.FollowParams(ctx, func(version uint64, blob []byte) {
			for _, a := range actors {
				a.SetParams(version, blob)
			}
		})
	})
	keep("flow", func() error {
		return bus.FollowFlow(ctx, func(f protocol.Flow) {
			for _, a := range actors {
				a.SetFlow(f)
			}
		})
	})
	keep("views", func() error {
		return bus.FollowLooks(ctx, func(actor string) {
			for _, a := range actors {
				if a.cfg.Name == actor && a.cfg.Viewer != nil {
					a.cfg.Viewer.Ask()
				}
			}
		})
	})
	keep("heartbeat", func() error { return bus.Heartbeat(ctx, status(actors)) })

	errs := make([]error, len(actors))
	var acting sync.WaitGroup
	for i, a := range actors {
		acting.Go(func() {
			if errs[i] = a.Run(ctx); errs[i] != nil {
				cancel()
			}
		})
	}
	acting.Wait()
	cancel()
	return errors.Join(errs...)
}
