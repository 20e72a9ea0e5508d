package loadbalance

import (
	"errors"
	"fmt"
	"io"
	"math"
)

// Limits of a simulation, which keep every time and every sum exact.
const (
	MaxServers = 1024
	MaxJobs    = 1 << 24
	MinRate    = 1e-3
	MaxRate    = 1e6

	maxTime = 1 << 52
)

// DefaultObsHigh is Park's cap on each observed load and size.
const DefaultObsHigh = 500000.0

// DefaultRates returns Park's ten service rates, 0.15, 0.25 ... 1.05.
func DefaultRates() []float64 {
	return []float64{0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.05}
}

var (
	// ErrDone is returned by Step after the episode's last job.
	ErrDone = errors.New("loadbalance: the episode is over")
	// ErrMasked is wrapped by Step's error for a server that is down or that
	// does not exist.
	ErrMasked = errors.New("server takes no jobs")
)

// idle is the finish time of a server that serves nothing.
const idle = math.MaxInt64

// nobody ends a queue.
const nobody = -1

// server is a FIFO queue and the job in service. Its queue is a list threaded
// through Sim.jobs, so that one server may hold all jobs of the episode without
// any allocation.
type server struct {
	finish int64   // when the job in service ends, or idle
	free   int64   // when everything assigned so far is done, at today's rate
	queued int64   // sum of the sizes in the queue
	held   int64   // time the job in service had left when the server failed
	rate   float64 // the last rate above zero
	size   int64   // of the job in service, or the one before while idle
	began  int64   // when it went into service
	head   int32   // first job in the queue, or nobody
	tail   int32   // last job in the queue; undefined when head is nobody
	epoch  int32   // number of arrivals when the job in service started
	worked int64   // size of the last job that was completed
	took   int64   // its time in service
	stale  int32   // completions still to come at this instant of jobs replaced before
	up     bool
}

type queuedJob struct {
	size, duration int64
	next           int32
}

// Sim is Park's load_balance environment: jobs arrive one after another, and
// Step assigns the one that has just arrived to one of n FIFO servers. The zero
// value is ready for Reset. A Sim allocates in Reset only, and only when the
// episode is larger than any before.
//
// There is no event queue: servers are independent and FIFO, so each catches up
// by itself. What has to be kept is the order of events at one instant, because
// a job that should start then is still observed as queued (by its size, not its
// time) until its predecessor's completion is handled. Park orders by (time,
// order of insertion) and inserts an arrival when the one before it is handled:
// a completion comes before an arrival at the same instant exactly when its job
// had started before the previous arrival was handled. Hence server.epoch.
// An assignment also starts the next job of a server whose job ends at that
// instant; the completion that comes later is stale, but it asks the server to
// start a job like any other, which matters for jobs that take no time.
type Sim struct {
	// ObsHigh caps every value that Observe reports; 0 means DefaultObsHigh.
	ObsHigh float64

	servers []server
	rates   []float64
	jobs    []queuedJob
	changes []Change // those still to come
	src     Source

	now       int64
	size      int64 // of the incoming job, 0 when there is none
	next      Job   // the job after the incoming one
	more      bool  // whether next exists
	done      bool
	ties      bool // whether some server may have stale completions
	assigned  int
	finished  int
	parkTotal float64
}

// Reset starts an episode of at most the given number of jobs from src, on
// servers of the given service rates. It ends early where src does. A rate of 0
// is a server that is down; see Schedule for the rest of its life.
func (s *Sim) Reset(rates []float64, jobs int, src Source) error {
	s.done = true // until everything is in place
	if len(rates) == 0 || len(rates) > MaxServers {
		return fmt.Errorf("loadbalance: %d servers, want 1 to %d", len(rates), MaxServers)
	}
	if jobs < 1 || jobs > MaxJobs {
		return fmt.Errorf("loadbalance: %d jobs an episode, want 1 to %d", jobs, MaxJobs)
	}
	if cap(s.servers) < len(rates) {
		s.servers = make([]server, len(rates))
		s.rates = make([]float64, len(rates))
	}
	s.servers, s.rates = s.servers[:len(rates)], s.rates[:len(rates)]
	anyUp := false
	for i, rate := range rates {
		if rate != 0 && !validRate(rate) {
			return fmt.Errorf("loadbalance: service rate %v of server %d, want 0 or %g to %g", rate, i, MinRate, MaxRate)
		}
		s.servers[i] = server{finish: idle, head: nobody, rate: rate, up: rate > 0}
		s.rates[i] = rate
		anyUp = anyUp || rate > 0
	}
	if !anyUp {
		return errors.New("loadbalance: every server is down")
	}
	if cap(s.jobs) < jobs {
		s.jobs = make([]queuedJob, jobs)
	}
	s.jobs = s.jobs[:jobs]
	s.src, s.changes = src, s.changes[:0]
	s.now, s.assigned, s.finished, s.parkTotal, s.ties = 0, 0, 0, 0, false

	first, err := s.draw()
	if err != nil {
		return fmt.Errorf("loadbalance: first job: %w", err)
	}
	s.now, s.size = first.Gap, first.Size
	if err := s.lookAhead(1); err != nil {
		return err
	}
	s.done = false
	return nil
}

func validRate(rate float64) bool { return rate >= MinRate && rate <= MaxRate }

func (s *Sim) draw() (Job, error) {
	j, err := s.src.Next()
	if err != nil {
		return Job{}, err
	}
	if uint64(j.Gap) > MaxGap || uint64(j.Size) > MaxSize {
		return Job{}, fmt.Errorf("gap %d and size %d, want 0 to %d and 0 to %d", j.Gap, j.Size, int64(MaxGap), int64(MaxSize))
	}
	return j, nil
}

// lookAhead draws the job after the incoming one, which is number count.
func (s *Sim) lookAhead(count int) error {
	s.more = count < len(s.jobs)
	if !s.more {
		return nil
	}
	next, err := s.draw()
	switch {
	case err == io.EOF:
		s.more = false
	case err != nil:
		s.done = true
		return fmt.Errorf("loadbalance: job %d: %w", count, err)
	default:
		s.next = next
	}
	return nil
}

// Step assigns the incoming job to a server and runs until the next one
// arrives, or until all are finished when there is none.
//
// park is Park's reward: minus the integral over that time of the number of
// jobs in the system. settled is minus the time in system of the job just
// assigned, its queueing time included, as the servers now stand. Over an
// episode without changes of the servers both sum to minus the total time in
// system, to the last digit.
func (s *Sim) Step(choice int) (park, settled float64, done bool, err error) {
	if s.done {
		return 0, 0, true, ErrDone
	}
	if uint(choice) >= uint(len(s.servers)) || !s.servers[choice].up {
		return 0, 0, false, fmt.Errorf("loadbalance: server %d: %w", choice, ErrMasked)
	}
	sv := &s.servers[choice]
	duration := int64(float64(s.size) / sv.rate)
	sv.free = max(sv.free, s.now) + duration
	if sv.free > maxTime {
		s.done = true
		return 0, 0, false, fmt.Errorf("loadbalance: backlog of server %d exceeds %d", choice, int64(maxTime))
	}
	k := int32(s.assigned)
	s.assigned++
	s.jobs[k] = queuedJob{s.size, duration, nobody}
	settled = float64(s.now - sv.free)
	sv.push(s.jobs, k)
	epoch := int32(s.assigned)
	if sv.finish == s.now {
		s.finished++
		sv.ended()
		sv.stale++
		s.ties = true
		sv.start(s.jobs, s.now, epoch)
	} else if sv.finish == idle {
		sv.start(s.jobs, s.now, epoch)
	}

	since, until := s.now, int64(maxTime)
	if s.more {
		until = since + s.next.Gap
	}
	integral := 0.0
	if len(s.changes) > 0 {
		if integral, err = s.applyChanges(since, until); err != nil {
			s.done = true
			return 0, 0, false, err
		}
	}
	if s.more {
		integral += s.runUntil(since, until, epoch)
		s.now, s.size = until, s.next.Size
		if err := s.lookAhead(s.assigned + 1); err != nil {
			return 0, 0, false, err
		}
	} else {
		integral += s.runOut(since, epoch)
		s.size, s.done = 0, true
	}
	s.parkTotal -= integral
	return 0 - integral, settled, s.done, nil // 0 - 0 is no negative zero
}

func (v *server) push(jobs []queuedJob, k int32) {
	if v.head == nobody {
		v.head = k
	} else {
		jobs[v.tail].next = k
	}
	v.tail = k
	v.queued += jobs[k].size
}

// start takes the first job of a queue that is not empty into service.
func (v *server) start(jobs []queuedJob, now int64, epoch int32) {
	j := &jobs[v.head]
	v.head = j.next
	v.queued -= j.size
	v.finish = now + j.duration
	v.size, v.began = j.size, now
	v.epoch = epoch
}

// ended notes what the job in service took, when it is complete. One that took no time measures nothing.
func (v *server) ended() {
	if v.finish > v.began {
		v.worked, v.took = v.size, v.finish-v.began
	}
}

// complete ends the job in service and starts the next one at that instant.
func (v *server) complete(jobs []queuedJob, epoch int32) {
	v.ended()
	if v.head == nobody {
		v.finish = idle
	} else {
		v.start(jobs, v.finish, epoch)
	}
}

// runUntil handles all completions that come before the arrival at until, and
// returns the integral of the number of jobs in the system from since on, for
// all jobs that have not been accounted for by applyChanges.
func (s *Sim) runUntil(since, until int64, epoch int32) float64 {
	if until == since {
		s.runInstant(until, epoch)
		return 0
	}
	if s.ties {
		s.ties = false
		for i := range s.servers {
			s.servers[i].stale = 0
		}
	}
	integral := 0.0
	for i := range s.servers {
		v := &s.servers[i]
		for v.finish < until || v.finish == until && v.epoch < epoch {
			integral += float64(v.finish - since)
			s.finished++
			v.complete(s.jobs, epoch)
		}
	}
	return integral + float64(s.assigned-s.finished)*float64(until-since)
}

// runInstant handles the completions between two arrivals of the same instant:
// those that were pending when the first of the two was handled. Each of them,
// stale or not, lets its server start one job if it serves none that goes on.
func (s *Sim) runInstant(now int64, epoch int32) {
	for i := range s.servers {
		v := &s.servers[i]
		pending := v.stale // to be handled here
		later := int32(0)  // inserted after the second arrival
		if v.finish == now {
			if v.epoch < epoch {
				pending++
				s.finished++
				v.ended()
				v.finish = idle
			} else {
				later++
			}
		}
		for ; pending > 0 && v.head != nobody && (v.finish == idle || v.finish == now); pending-- {
			if v.finish == now {
				s.finished++
				v.ended()
			}
			v.start(s.jobs, now, epoch)
			if v.finish == now {
				later++
			}
		}
		if v.finish == now {
			later-- // the job in service counts by itself
		}
		v.stale = later
		s.ties = s.ties || later > 0
	}
}

// runOut is runUntil the last completion.
func (s *Sim) runOut(since int64, epoch int32) float64 {
	integral := 0.0
	for i := range s.servers {
		v := &s.servers[i]
		for v.finish != idle {
			integral += float64(v.finish - since)
			s.finished++
			s.now = max(s.now, v.finish)
			v.complete(s.jobs, epoch)
		}
	}
	return integral
}

// Observe writes Park's observation into dst, which holds Servers()+1 values:
// for each server the sizes in its queue plus the remaining time of the job in
// service (Park mixes the two units), then the incoming job's size, 0 when the
// episode is over. Each is capped at ObsHigh; the number of capped values is
// returned.
func (s *Sim) Observe(dst []float64) (capped int) {
	high := s.ObsHigh
	if high == 0 {
		high = DefaultObsHigh
	}
	n := len(s.servers)
	dst = dst[:n+1]
	for i := range s.servers {
		v := &s.servers[i]
		load := v.queued + v.held
		if v.finish != idle {
			load += v.finish - s.now
		}
		dst[i] = float64(load)
		if dst[i] > high {
			dst[i] = high
			capped++
		}
	}
	dst[n] = float64(s.size)
	if dst[n] > high {
		dst[n] = high
		capped++
	}
	return capped
}

// Servers is the number of servers, up or down.
func (s *Sim) Servers() int { return len(s.servers) }

// Rates returns the present service rates, 0 for a server that is down. The
// slice belongs to the simulator and is valid until the next Step.
func (s *Sim) Rates() []float64 { return s.rates }

// Up reports whether a server takes jobs.
func (s *Sim) Up(server int) bool { return s.servers[server].up }

// Backlog is the time until a server has finished all that it holds, if its
// rate stays. It is 0 for a server that is down.
func (s *Sim) Backlog(server int) int64 {
	v := &s.servers[server]
	if !v.up {
		return 0
	}
	return max(v.free-s.now, 0)
}

// Measured is the rate that a dispatcher sees a server work at: the size of the job that it completed last over its time
// in service, failures of the server included. Jobs that take no time do not count. It is 0 before the
// first one of an episode.
func (s *Sim) Measured(server int) float64 {
	v := &s.servers[server]
	if v.took == 0 {
		return 0
	}
	return float64(v.worked) / float64(v.took)
}

// Time is the present: the arrival of the incoming job, or the last completion
// when the episode is over.
func (s *Sim) Time() int64 { return s.now }

// JobSize is the incoming job's size, 0 when the episode is over.
func (s *Sim) JobSize() int64 { return s.size }

// Assigned is the number of jobs assigned since Reset.
func (s *Sim) Assigned() int { return s.assigned }

// Finished is the number of jobs that have left the system.
func (s *Sim) Finished() int { return s.finished }

// Done reports whether the episode is over.
func (s *Sim) Done() bool { return s.done }

// Return is the sum of Park's rewards since Reset.
func (s *Sim) Return() float64 { return s.parkTotal }

// MeanJCT is the mean job completion time: the total time in system so far over
// the number of jobs assigned, so the exact mean when the episode is over.
func (s *Sim) MeanJCT() float64 {
	if s.assigned == 0 {
		return 0
	}
	return -s.parkTotal / float64(s.assigned)
}
