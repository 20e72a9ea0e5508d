package dispatch

import (
	"container/list"
	"time"

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
)

// stream is what is known of one set of servers and the jobs that arrive for it.
// Service.mu guards it.
type stream struct {
	name     string
	position float64
	place    *list.Element // among the streams, by their last use
	queues   queues
	jobs     uint64 // named by the service so far
	busy     bool   // in the batch that is being decided

	memory []float32 // the recurrent context
	begun  bool      // else the next step is a trial's first
	settle int       // decisions until queues and memory are known

	settled float64 // reward of the last decision, as Sim.Step settles it
	size    int64   // of its job

	sums     surprise
	surprise float64 // of the acting version, by its calibration
	response smoothed
	hold     Hold // Guard is empty: none

	arrived time.Time         // the last job
	block   []loadbalance.Job // arrivals to be replayed
	record  *trajectory       // nil: not published
}

// calm forgets what guards have measured.
func (s *stream) calm() {
	clear(s.sums)
	s.surprise, s.response = 0, smoothed{}
}

// streams are those in use, bounded by forgetting the one that was used least
// recently.
type streams struct {
	limit     int
	byName    map[string]*stream
	used      *list.List // of *stream, the newest first
	forgotten uint64
}

func newStreams(limit int) streams {
	return streams{limit: limit, byName: map[string]*stream{}, used: list.New()}
}

// get returns a stream, new where it is not known.
func (t *streams) get(name string, build func() *stream) (s *stream, known bool) {
	if s, known = t.byName[name]; known {
		t.used.MoveToFront(s.place)
		return s, true
	}
	if len(t.byName) >= t.limit {
		for e := t.used.Back(); e != nil; e = e.Prev() {
			if old := e.Value.(*stream); !old.busy {
				t.forget(old)
				t.forgotten++
				break
			}
		}
	}
	s = build()
	s.place = t.used.PushFront(s)
	t.byName[name] = s
	return s, false
}

func (t *streams) forget(s *stream) {
	t.used.Remove(s.place)
	delete(t.byName, s.name)
}
