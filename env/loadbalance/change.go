package loadbalance

import (
	"errors"
	"fmt"
)

// Change is an event in the life of a server: from Time on its service rate is
// Rate. Zero means that it fails.
type Change struct {
	Time   int64
	Server int
	Rate   float64
}

// Schedule gives the running episode, right after Reset, its changes of the
// servers in order of time. What happens at a change:
//
//   - The job in service keeps its place: the time it has left is scaled by
//     old rate over new. Queued jobs take int(size/new rate) when their turn comes.
//   - A server that fails stands still with all that it holds, takes no jobs
//     (Step refuses it), and goes on where it stopped when it is back, at
//     whatever rate. It must come back, so that every job is finished.
//   - A server whose initial rate is 0 joins at its first change.
//   - A change comes after completions and before arrivals of the same instant.
//
// At every moment one server at least must be up. The settled reward is what is
// known at assignment: it takes all rates to stay as they are, so with changes
// only Park's reward sums to the true total time in system.
func (s *Sim) Schedule(changes []Change) error {
	if s.assigned > 0 || s.done {
		return errors.New("loadbalance: changes are scheduled right after Reset")
	}
	if err := checkChanges(s.rates, changes); err != nil {
		return err
	}
	s.changes = append(s.changes[:0], changes...)
	_, err := s.applyChanges(0, s.now)
	return err
}

// checkChanges validates changes against the rates that they start from.
func checkChanges(initial []float64, changes []Change) error {
	rates := append([]float64(nil), initial...)
	held := make([]bool, len(rates)) // down, perhaps with jobs
	up := 0
	for _, r := range rates {
		if r > 0 {
			up++
		}
	}
	for i, c := range changes {
		if c.Server < 0 || c.Server >= len(rates) {
			return fmt.Errorf("loadbalance: change %d: server %d of %d", i, c.Server, len(rates))
		}
		if c.Rate != 0 && !validRate(c.Rate) {
			return fmt.Errorf("loadbalance: change %d: rate %v, want 0 or %g to %g", i, c.Rate, MinRate, MaxRate)
		}
		if c.Time < 0 || c.Time > maxTime || (i > 0 && c.Time < changes[i-1].Time) {
			return fmt.Errorf("loadbalance: change %d: time %d is out of order", i, c.Time)
		}
		wasUp, isUp := rates[c.Server] > 0, c.Rate > 0
		if wasUp && !isUp {
			up--
			held[c.Server] = true
		}
		if !wasUp && isUp {
			up++
			held[c.Server] = false
		}
		rates[c.Server] = c.Rate
		if up == 0 {
			return fmt.Errorf("loadbalance: change %d: no server is up at time %d", i, c.Time)
		}
	}
	for i, h := range held {
		if h {
			return fmt.Errorf("loadbalance: server %d fails and never comes back", i)
		}
	}
	return nil
}

// applyChanges applies all changes up to and including until. It returns the
// time in system from since on of the jobs that finished on the way.
func (s *Sim) applyChanges(since, until int64) (float64, error) {
	integral := 0.0
	applied := 0
	for _, c := range s.changes {
		if c.Time > until {
			break
		}
		applied++
		v := &s.servers[c.Server]
		for v.finish <= c.Time {
			integral += float64(v.finish - since)
			s.finished++
			if !s.more {
				s.now = max(s.now, v.finish)
			}
			v.complete(s.jobs, int32(s.assigned))
		}
		s.rates[c.Server] = c.Rate
		if err := v.change(s.jobs, c); err != nil {
			return 0, err
		}
	}
	// Shifted, not sliced: the next episode reuses the buffer, and changes are few.
	s.changes = append(s.changes[:0], s.changes[applied:]...)
	return integral, nil
}

// change applies c to a server that has completed all that ends by c.Time.
func (v *server) change(jobs []queuedJob, c Change) error {
	left := v.held
	if v.finish != idle {
		left = v.finish - c.Time
	}
	v.finish, v.up = idle, c.Rate > 0
	if !v.up {
		v.held = left
		return nil
	}
	v.held, v.free = 0, c.Time
	if left > 0 {
		v.finish = c.Time + truncate(float64(left)*(v.rate/c.Rate), maxTime)
		v.free = v.finish
	}
	for k := v.head; k != nobody && v.free <= maxTime; k = jobs[k].next {
		jobs[k].duration = int64(float64(jobs[k].size) / c.Rate)
		v.free += jobs[k].duration
	}
	if v.free > maxTime {
		return fmt.Errorf("loadbalance: backlog of server %d exceeds %d at its new rate %g", c.Server, int64(maxTime), c.Rate)
	}
	v.rate = c.Rate
	return nil
}
