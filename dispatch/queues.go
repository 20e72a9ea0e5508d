package dispatch

import (
	"fmt"
	"time"

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
)

// queues tracks what the servers of a stream have to do, from the jobs assigned and
// their completions. Servers are first in, first out: the oldest job of a server is
// the one in service.
type queues struct {
	unit    time.Duration // a time unit
	assumed bool          // jobs end by themselves, when they must have
	measure bool
	rates   []float64 // as configured or measured; 0: not known yet
	servers []serverQueue
	jobs    map[string]int // server of each unfinished job
	at      time.Time      // until which area is
	area    float64        // integral of the number of jobs over time units, since takeArea
}

type serverQueue struct {
	jobs    []trackedJob // oldest first
	started time.Time    // when the oldest went into service
	queued  float64      // sizes of all but the oldest
}

type trackedJob struct {
	id      string
	size    float64
	arrived time.Time
}

func newQueues(p *Plan, servers int, now time.Time) queues {
	q := queues{
		unit: p.TimeUnit, assumed: p.Completions == "assumed", measure: p.Measure,
		rates: make([]float64, servers), servers: make([]serverQueue, servers), jobs: map[string]int{}, at: now,
	}
	copy(q.rates, p.Rates)
	return q
}

// units is a duration in time units.
func (q *queues) units(d time.Duration) float64 { return float64(d) / float64(q.unit) }

// rate is what a server is taken to do: as configured or measured, and no more than
// its job in service leaves room for, where rates are measured. 1 is as good as any
// as long as nothing is known.
func (q *queues) rate(server int, now time.Time) float64 {
	rate := q.rates[server]
	if rate == 0 {
		rate = 1
	}
	if s := &q.servers[server]; q.measure && len(s.jobs) > 0 {
		if elapsed := q.units(now.Sub(s.started)); elapsed*rate > s.jobs[0].size {
			rate = max(s.jobs[0].size/elapsed, loadbalance.MinRate)
		}
	}
	return rate
}

// advance brings the state to now.
func (q *queues) advance(now time.Time) {
	if q.assumed {
		for i := range q.servers {
			s := &q.servers[i]
			for len(s.jobs) > 0 {
				end := s.started.Add(time.Duration(s.jobs[0].size / q.rate(i, now) * float64(q.unit)))
				if end.After(now) {
					break
				}
				q.pop(i, 0, end)
			}
		}
	}
	if now.After(q.at) {
		q.area += float64(len(q.jobs)) * q.units(now.Sub(q.at))
		q.at = now
	}
}

// takeArea returns the integral of the number of jobs since the last call.
func (q *queues) takeArea() float64 {
	area := q.area
	q.area = 0
	return area
}

// loads writes each server's load as the simulator observes it: the sizes in its
// queue and the time that its job in service still needs.
func (q *queues) loads(dst []float64, now time.Time) {
	for i := range q.servers {
		s := &q.servers[i]
		dst[i] = s.queued
		if len(s.jobs) > 0 {
			dst[i] += max(s.jobs[0].size/q.rate(i, now)-q.units(now.Sub(s.started)), 0)
		}
	}
}

// backlog is the time that a server needs for what it has.
func (q *queues) backlog(server int, now time.Time) float64 {
	s := &q.servers[server]
	if len(s.jobs) == 0 {
		return 0
	}
	rate := q.rate(server, now)
	return max(s.jobs[0].size/rate-q.units(now.Sub(s.started)), 0) + s.queued/rate
}

// push assigns a job.
func (q *queues) push(server int, id string, size float64, now time.Time) error {
	if _, known := q.jobs[id]; known {
		return fmt.Errorf("%w: job %q is not complete and cannot arrive again", ErrRequest, id)
	}
	s := &q.servers[server]
	if len(s.jobs) == 0 {
		s.started = now
	} else {
		s.queued += size
	}
	s.jobs = append(s.jobs, trackedJob{id, size, now})
	q.jobs[id] = server
	return nil
}

// complete takes a job out and returns its response time.
func (q *queues) complete(id string, now time.Time) (response time.Duration, err error) {
	server, known := q.jobs[id]
	if !known {
		return 0, fmt.Errorf("job %q is %w: never assigned, complete already, or forgotten", id, ErrUnknown)
	}
	s := &q.servers[server]
	for k := range s.jobs {
		if s.jobs[k].id == id {
			response = now.Sub(s.jobs[k].arrived)
			q.pop(server, k, now)
			return response, nil
		}
	}
	panic("dispatch: a job is in no queue")
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// rateShare is the weight of the newest job in a measured rate.
const rateShare = 0.2

// pop takes job k of a server out at the time at.
func (q *queues) pop(server, k int, at time.Time) {
	s := &q.servers[server]
	job := s.jobs[k]
	if from := later(q.at, job.arrived); at.After(from) {
		q.area += q.units(at.Sub(from)) // the others are added up to the present
	}
	if k == 0 {
		if took := q.units(at.Sub(s.started)); q.measure && !q.assumed && took > 0 && job.size > 0 {
			rate := min(max(job.size/took, loadbalance.MinRate), loadbalance.MaxRate)
			if q.rates[server] == 0 {
				q.rates[server] = rate
			} else {
				// Times are averaged, not rates: a quick job says less than a slow one.
				q.rates[server] = 1 / ((1-rateShare)/q.rates[server] + rateShare/rate)
			}
		}
		s.started = at
		if len(s.jobs) > 1 {
			s.queued -= s.jobs[1].size
		}
	} else {
		s.queued -= job.size
	}
	s.jobs = append(s.jobs[:k], s.jobs[k+1:]...)
	delete(q.jobs, job.id)
}
