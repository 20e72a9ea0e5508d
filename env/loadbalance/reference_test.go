package loadbalance

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
)

// reference is the load balancing environment written the obvious way, with an
// event heap and one object per job, as an independent check of Sim.
type reference struct {
	now      int64
	events   refEvents
	inserted int
	servers  []refServer
	jobs     []Job
	arrived  int
	incoming *refJob
}

type refJob struct {
	size, finish int64
	server       *refServer
}

type refServer struct {
	rate    float64
	queue   []*refJob
	current *refJob
}

type refEvent struct {
	time  int64
	order int
	job   *refJob // nil for an arrival
	size  int64
}

type refEvents []refEvent

func (e refEvents) Len() int      { return len(e) }
func (e refEvents) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e refEvents) Less(i, j int) bool {
	return e[i].time < e[j].time || e[i].time == e[j].time && e[i].order < e[j].order
}
func (e *refEvents) Push(x any) { *e = append(*e, x.(refEvent)) }
func (e *refEvents) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newReference(rates []float64, jobs []Job) *reference {
	r := &reference{jobs: jobs}
	for _, rate := range rates {
		r.servers = append(r.servers, refServer{rate: rate})
	}
	r.pushArrival()
	r.pop()
	return r
}

func (r *reference) push(e refEvent) {
	e.order = r.inserted
	r.inserted++
	heap.Push(&r.events, e)
}

func (r *reference) pushArrival() {
	if r.arrived < len(r.jobs) {
		j := r.jobs[r.arrived]
		r.push(refEvent{time: r.now + j.Gap, size: j.Size})
		r.arrived++
	}
}

func (r *reference) process(s *refServer) {
	if (s.current == nil || s.current.finish <= r.now) && len(s.queue) > 0 {
		s.current, s.queue = s.queue[0], s.queue[1:]
		s.current.finish = r.now + int64(float64(s.current.size)/s.rate)
		r.push(refEvent{time: s.current.finish, job: s.current})
	}
}

// pop handles one event and returns the time in system that passed before it.
func (r *reference) pop() (waited int64) {
	e := heap.Pop(&r.events).(refEvent)
	for _, s := range r.servers {
		waited += int64(len(s.queue)) * (e.time - r.now)
		if s.current != nil {
			waited += e.time - r.now
		}
	}
	r.now = e.time
	if e.job == nil {
		r.incoming = &refJob{size: e.size}
		r.pushArrival()
		return waited
	}
	s := e.job.server
	if s.current == e.job {
		s.current = nil
	}
	r.process(s)
	return waited
}

func (r *reference) step(choice int) (reward int64, done bool) {
	s := &r.servers[choice]
	r.incoming.server = s
	s.queue = append(s.queue, r.incoming)
	r.process(s)
	r.incoming = nil
	for len(r.events) > 0 && r.incoming == nil {
		reward -= r.pop()
	}
	return reward, r.incoming == nil
}

func (r *reference) observe() []float64 {
	obs := make([]float64, len(r.servers)+1)
	for i, s := range r.servers {
		for _, j := range s.queue {
			obs[i] += float64(j.size)
		}
		if s.current != nil {
			obs[i] += float64(s.current.finish - r.now)
		}
	}
	if r.incoming != nil {
		obs[len(r.servers)] = float64(r.incoming.size)
	}
	return obs
}

// Tiny times make ties, jobs that take no time, and both at once common.
func TestSimAgreesWithAnEventHeap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var s Sim
	ties := 0
	for episode := range 4000 {
		rates := make([]float64, 1+r.IntN(3))
		for i := range rates {
			rates[i] = []float64{0.5, 1, 1, 2, 3}[r.IntN(5)]
		}
		jobs := make(JobList, 1+r.IntN(40))
		for i := range jobs {
			jobs[i] = Job{Gap: max(0, int64(r.IntN(5)-1)), Size: int64(r.IntN(6))}
		}
		ref := newReference(rates, jobs)
		source := jobs
		if err := s.Reset(rates, len(jobs), &source); err != nil {
			t.Fatal(err)
		}
		obs := make([]float64, len(rates)+1)
		total, settledTotal := 0.0, 0.0
		for step := range jobs {
			choice := r.IntN(len(rates))
			wantReward, wantDone := ref.step(choice)
			park, settled, done, err := s.Step(choice)
			if err != nil {
				t.Fatal(err)
			}
			s.Observe(obs)
			got := fmt.Sprint(obs, park, done, s.Time())
			want := fmt.Sprint(ref.observe(), wantReward, wantDone, ref.now)
			if got != want {
				t.Fatalf("episode %d step %d of %v on %v:\n got %s\nwant %s", episode, step, jobs, rates, got, want)
			}
			total += park
			settledTotal += settled
			if s.ties {
				ties++
			}
		}
		if total != settledTotal || s.Return() != total || s.Finished() != len(jobs) {
			t.Fatalf("episode %d: returns %v and %v (%v), %d of %d jobs finished",
				episode, total, settledTotal, s.Return(), s.Finished(), len(jobs))
		}
	}
	if ties < 1000 {
		t.Errorf("only %d steps with stale completions: the test has lost its point", ties)
	}
}
