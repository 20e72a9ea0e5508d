package replay

import (
	"cmp"
	"slices"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// status returns what fills a heartbeat. It belongs to one goroutine: the rates
// are of what has come between two heartbeats.
func (s *Store) status() func(*protocol.Status) {
	var inserts, samples protocol.Rate
	return func(status *protocol.Status) {
		st, now := s.Stats(), s.cfg.Now()
		status.Replay = &protocol.ReplayStatus{
			Steps: st.Steps, Capacity: s.cfg.Capacity, Chunks: st.Chunks, Bytes: st.Bytes,
			Inserted: st.Inserted, Sampled: st.Sampled,
			InsertsPerSecond: inserts.Per(now, st.Inserted), SamplesPerSecond: samples.Per(now, st.Sampled),
			Duplicates: st.Duplicates, RefreshMissed: st.RefreshMissed,
			Limiter: s.limiterStatus(), Tasks: s.Composition(),
		}
	}
}

// limiterStatus says which side the limiter holds at this moment.
func (s *Store) limiterStatus() protocol.LimiterStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.limiter
	status := protocol.LimiterStatus{
		State: protocol.LimiterBalanced, Ratio: l.cfg.Ratio, Balance: l.balance(), Budget: float64(l.cfg.Budget),
	}
	if s.hold() {
		status.State, status.Waiting = protocol.LimiterActors, l.Holding(s.incoming)
		return status
	}
	if waiting := l.Waiting(s.cfg.Batch * s.cfg.Length); waiting != "" {
		status.State, status.Waiting = protocol.LimiterLearner, waiting
		if l.inserted() < uint64(l.cfg.MinSteps) {
			status.State = protocol.LimiterFilling
		}
	}
	return status
}

// Composition is what is stored by task and age, the task of the most steps
// first. It looks at every chunk: 0.1 ms for a million steps in chunks of 64.
func (s *Store) Composition() []protocol.TaskShare {
	s.mu.Lock()
	shares := make(map[*task]*protocol.TaskShare, len(s.index.tasks))
	// Chunks of a run have one length, but for the last ones of an actor's life.
	perChunk := float64(s.limiter.state.Inserted) / float64(max(s.number, 1))
	for i := range s.index.slots {
		c := &s.index.slots[i]
		if c.stream == nil {
			continue
		}
		share := shares[c.task]
		if share == nil {
			share = &protocol.TaskShare{Task: c.task.name}
			shares[c.task] = share
		}
		age := uint64(float64(s.number-1-c.number) * perChunk)
		bucket := 0
		for bucket < len(protocol.AgeBounds) && age >= protocol.AgeBounds[bucket] {
			bucket++
		}
		share.Steps[bucket] += uint64(c.steps)
	}
	s.mu.Unlock()
	all := make([]protocol.TaskShare, 0, len(shares))
	for _, share := range shares {
		all = append(all, *share)
	}
	slices.SortFunc(all, func(x, y protocol.TaskShare) int {
		return cmp.Or(cmp.Compare(y.Total(), x.Total()), cmp.Compare(x.Task, y.Task))
	})
	return all
}
