package protocol

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Status is what a process says of itself in its heartbeat. One of Actor, Replay,
// Learner and Dispatch is there, the one that its role fills. Readers ignore keys that
// they do not know, and take those that are missing as zero.
type Status struct {
	Host    string    `json:"host"`
	Version string    `json:"version"` // of the program
	PID     int       `json:"pid"`
	Started time.Time `json:"started"` // when the process did

	Actor   *ActorStatus   `json:"actor,omitempty"`
	Replay  *ReplayStatus  `json:"replay,omitempty"`
	Learner *LearnerStatus `json:"learner,omitempty"`

	Dispatch *DispatchStatus `json:"dispatch,omitempty"`

	Bus Stats `json:"bus"` // counters of its connection
}

// ActorStatus sums up the actors of a process.
type ActorStatus struct {
	Actors         int     `json:"actors"`
	Environments   int     `json:"environments"`
	Steps          uint64  `json:"steps"` // of all environments since the process started
	Episodes       uint64  `json:"episodes"`
	StepsPerSecond float64 `json:"steps_per_second"`
	ParamVersion   uint64  `json:"param_version"` // the oldest that acts; 0: uniformly at random
	ParamsRejected uint64  `json:"params_rejected"`
	Dropped        uint64  `json:"dropped"` // chunks lost for want of room, or too large for the bus
	Failed         uint64  `json:"failed"`  // attempts at sending that are repeated
	SpoolChunks    int     `json:"spool_chunks"`
	SpoolBytes     int     `json:"spool_bytes"`
	Waiting        string  `json:"waiting,omitempty"` // what environments wait for; empty: nothing

	// Names are those of the actors, of whom a view can be asked; at most
	// maxStatusNames.
	Names []string `json:"names,omitempty"`
}

// ReplayStatus is the replay's.
type ReplayStatus struct {
	Steps            int     `json:"steps"`    // stored
	Capacity         int     `json:"capacity"` // in steps
	Chunks           int     `json:"chunks"`
	Bytes            int64   `json:"bytes"`
	Inserted         uint64  `json:"inserted"` // steps in the whole run
	Sampled          uint64  `json:"sampled"`
	InsertsPerSecond float64 `json:"inserts_per_second"` // steps
	SamplesPerSecond float64 `json:"samples_per_second"`
	Duplicates       uint64  `json:"duplicates"`
	RefreshMissed    uint64  `json:"refresh_missed"`

	// The limiter: which side it holds, and what that waits for.
	Limiter LimiterStatus `json:"limiter"`

	// Tasks are what is stored by task, the most first. Beyond maxStatusTasks
	// the last one, named "others", has the rest.
	Tasks []TaskShare `json:"tasks,omitempty"`
}

// LimiterStatus is the state of the replay's rate limiter.
type LimiterStatus struct {
	State   string  `json:"state"`             // one of those below
	Waiting string  `json:"waiting,omitempty"` // what the side that is held waits for
	Ratio   float64 `json:"ratio"`             // replayed steps for an inserted one
	Balance float64 `json:"balance"`           // replayed steps allowed and not yet sampled
	Budget  float64 `json:"budget"`            // the balance stays within plus and minus this
}

// States of the limiter: whom it holds.
const (
	LimiterFilling  = "filling"  // the learner: there are too few steps for a first sample
	LimiterBalanced = "balanced" // nobody
	LimiterActors   = "actors"   // actors: inserts are ahead
	LimiterLearner  = "learner"  // the learner: samples are ahead
)

// AgeBounds divide stored steps by age: bucket i of TaskShare.Steps has what at
// least AgeBounds[i-1] and fewer than AgeBounds[i] steps have been inserted
// after, the last bucket the rest.
var AgeBounds = [...]uint64{1_000, 10_000, 100_000, 1_000_000, 10_000_000}

// TaskShare is how many steps of a task are stored, by age.
type TaskShare struct {
	Task  string                     `json:"task"`
	Steps [len(AgeBounds) + 1]uint64 `json:"steps"`
}

// Total is the steps of all ages.
func (t TaskShare) Total() (steps uint64) {
	for _, n := range t.Steps {
		steps += n
	}
	return steps
}

// LearnerStatus is the learner's.
type LearnerStatus struct {
	Phase            string  `json:"phase"` // "filling the replay", "training" or "evaluating"
	Updates          int64   `json:"updates"`
	UpdatesPerSecond float64 `json:"updates_per_second"`
	ParamVersion     uint64  `json:"param_version"` // the newest

	EnvSteps        int64   `json:"env_steps"`                  // of the run
	StepLimit       int64   `json:"step_limit,omitempty"`       // budget of EnvSteps; 0: none
	ElapsedSeconds  float64 `json:"elapsed_seconds"`            // since the process started training
	DurationSeconds float64 `json:"duration_seconds,omitempty"` // budget of ElapsedSeconds; 0: none

	Staleness float64 `json:"staleness"` // mean age of what was replayed last, in parameter versions
	// StalenessCounts are sequences replayed lately by the age of the parameters that
	// acted: bucket 0 has age 0, bucket i ages from 2^(i-1) on and below 2^i.
	StalenessCounts []uint64 `json:"staleness_counts,omitempty"`

	Evaluation *EvaluationStatus  `json:"evaluation,omitempty"` // the latest
	Metrics    map[string]float64 `json:"metrics,omitempty"`    // the newest, by name; at most maxStatusMetrics
}

// EvaluationStatus is a score of the policy: the interquartile mean of mean job
// completion times over LEFT's on the same jobs, and its 95 % interval.
type EvaluationStatus struct {
	EnvSteps int64      `json:"env_steps"`
	Ratio    float64    `json:"ratio"`
	Interval [2]float64 `json:"interval"`
}

// DispatchStatus is a dispatcher's.
type DispatchStatus struct {
	Stage              string  `json:"stage"`
	Share              float64 `json:"share"` // of the streams that the stage gives to the policy
	Decisions          uint64  `json:"decisions"`
	DecisionsPerSecond float64 `json:"decisions_per_second"`
	Fallbacks          uint64  `json:"fallbacks"` // decisions that a guard took from the policy
	Streams            int     `json:"streams"`
	HeldStreams        int     `json:"held_streams"`    // by themselves
	Holds              string  `json:"holds,omitempty"` // guards that hold all streams, separated by commas
	ParamVersion       uint64  `json:"param_version"`   // what advises; 0: none yet
	AuditFailed        bool    `json:"audit_failed"`    // decisions cannot be recorded
}

// Bounds of what a heartbeat lists: with names of the longest it is below the
// 16 KiB that the bucket takes.
const (
	maxStatusNames   = 64
	maxStatusTasks   = 16
	maxStatusMetrics = 96
	maxStatusTask    = 64 // bytes of a task's name
)

// encode bounds the lists and encodes the status. One that is too large all the
// same, with very long names, goes without them.
func (s Status) encode() ([]byte, error) {
	if a := s.Actor; a != nil && len(a.Names) > maxStatusNames {
		bounded := *a
		bounded.Names, s.Actor = a.Names[:maxStatusNames], &bounded
	}
	if r := s.Replay; r != nil {
		bounded := *r
		bounded.Tasks, s.Replay = boundTasks(r.Tasks), &bounded
	}
	if l := s.Learner; l != nil {
		bounded := *l
		bounded.Metrics, s.Learner = boundMetrics(l.Metrics), &bounded
	}
	text, err := json.Marshal(s)
	if err == nil && len(text) > maxHeartbeat {
		if s.Replay != nil {
			s.Replay.Tasks = nil
		}
		if s.Learner != nil {
			s.Learner.Metrics = nil
		}
		text, err = json.Marshal(s)
	}
	return text, err
}

// boundTasks keeps the first tasks and adds the others up.
func boundTasks(tasks []TaskShare) []TaskShare {
	var bounded []TaskShare
	for i, t := range tasks {
		t.Task = t.Task[:min(len(t.Task), maxStatusTask)]
		if i < maxStatusTasks {
			bounded = append(bounded, t)
			continue
		}
		others := &bounded[maxStatusTasks-1]
		others.Task = "others"
		for k, n := range t.Steps {
			others.Steps[k] += n
		}
	}
	return bounded
}

// boundMetrics keeps the first names in their order, without values that are no
// finite numbers, for which JSON has no words.
func boundMetrics(values map[string]float64) map[string]float64 {
	bounded := make(map[string]float64, min(len(values), maxStatusMetrics))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if v := values[name]; v-v == 0 && len(bounded) < maxStatusMetrics {
			bounded[name] = v
		}
	}
	return bounded
}

func decodeStatus(data []byte) (Status, error) {
	if len(data) > maxHeartbeat {
		return Status{}, fmt.Errorf("heartbeat of %d bytes, at most %d: %w", len(data), maxHeartbeat, ErrTooLarge)
	}
	var s Status
	if err := json.Unmarshal(data, &s); err != nil {
		return Status{}, fmt.Errorf("heartbeat: %w: %w", err, ErrCorrupt)
	}
	return s, nil
}

// Rate turns a counter that is looked at now and again into a rate: the mean
// over the last few looks. The zero value is ready; it belongs to one goroutine.
type Rate struct {
	seen [rateLooks]look // a ring
	n    int             // looks so far
}

type look struct {
	at    time.Time
	count uint64
}

// rateLooks spans the life of a heartbeat, as steady a rate as a table needs.
const rateLooks = 4

// Per returns the counter's rate a second, 0 at the first look and where it went
// back.
func (r *Rate) Per(now time.Time, count uint64) float64 {
	oldest := r.seen[r.n%rateLooks]
	if r.n < rateLooks {
		oldest = r.seen[0]
	}
	r.seen[r.n%rateLooks] = look{now, count}
	r.n++
	seconds := now.Sub(oldest.at).Seconds()
	if r.n == 1 || seconds <= 0 || count < oldest.count {
		return 0
	}
	return float64(count-oldest.count) / seconds
}
