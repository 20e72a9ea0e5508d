package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// LateAfter is how old a heartbeat is when one has been missed: they come every
// 3.3 s, and after 10 s the process is gone.
const LateAfter = 6 * time.Second

// GoneAfter is how old a heartbeat is when the bus has dropped it: the process no
// longer counts as running.
const GoneAfter = 10 * time.Second

// State is all runs on a bus at one time.
type State struct {
	Time time.Time `json:"time"`
	Runs []Run     `json:"runs"` // by name
}

// Run is a run as its processes tell it.
type Run struct {
	Name string `json:"run"`
	// Health is "ok", or "attention" where there are Problems.
	Health   string   `json:"health"`
	Problems []string `json:"problems,omitempty"` // a sentence each

	Phase            string  `json:"phase,omitempty"`
	EnvSteps         int64   `json:"env_steps"`
	StepsPerSecond   float64 `json:"steps_per_second"` // acted by all actors together
	Updates          int64   `json:"updates"`
	UpdatesPerSecond float64 `json:"updates_per_second"`
	ParamVersion     uint64  `json:"param_version"`
	Staleness        float64 `json:"staleness"` // mean of what was replayed last, in versions
	SecondsLeft      float64 `json:"seconds_left,omitempty"`

	// Hosts are the machines that its processes are on.
	Hosts []string `json:"hosts"`
	// Processes are by role (learner, replay, dispatcher, actors) and name.
	Processes []Process `json:"processes"`
}

// Process is one heartbeat.
type Process struct {
	Role protocol.Role `json:"role"`
	Name string        `json:"name"`
	Age  float64       `json:"age"`  // of the heartbeat in seconds
	Late bool          `json:"late"` // one has been missed
	Gone bool          `json:"gone,omitempty"`
	protocol.Status
}

// Learner is the run's learner's status, nil without one.
func (r *Run) Learner() *protocol.LearnerStatus {
	for _, p := range r.Processes {
		if p.Status.Learner != nil && !p.Gone {
			return p.Status.Learner
		}
	}
	return nil
}

// Replay is the run's replay's status, nil without one.
func (r *Run) Replay() *protocol.ReplayStatus {
	for _, p := range r.Processes {
		if p.Status.Replay != nil && !p.Gone {
			return p.Status.Replay
		}
	}
	return nil
}

// roles in the order in which they are shown.
var roles = map[protocol.Role]int{protocol.RoleLearner: 0, protocol.RoleReplay: 1, protocol.RoleDispatcher: 2, protocol.RoleActor: 3}

// Of sorts heartbeats into runs, as they are at a time.
func Of(beats []protocol.Heartbeat, now time.Time) State {
	runs := map[string]*Run{}
	for _, b := range beats {
		r := runs[b.Run]
		if r == nil {
			r = &Run{Name: b.Run}
			runs[b.Run] = r
		}
		age := max(0, now.Sub(b.Time))
		r.Processes = append(r.Processes, Process{
			Role: b.Role, Name: b.Name, Age: age.Seconds(), Late: age >= LateAfter, Gone: age > GoneAfter, Status: b.Status,
		})
	}
	state := State{Time: now, Runs: []Run{}}
	for _, r := range runs {
		slices.SortFunc(r.Processes, func(x, y Process) int {
			return cmp.Or(cmp.Compare(roles[x.Role], roles[y.Role]), cmp.Compare(x.Name, y.Name))
		})
		r.sum()
		r.judge()
		state.Runs = append(state.Runs, *r)
	}
	slices.SortFunc(state.Runs, func(x, y Run) int { return cmp.Compare(x.Name, y.Name) })
	return state
}

// sum takes the run's numbers from its processes.
func (r *Run) sum() {
	for _, p := range r.Processes {
		if p.Host != "" && !slices.Contains(r.Hosts, p.Host) {
			r.Hosts = append(r.Hosts, p.Host)
		}
		if p.Actor != nil && !p.Gone {
			r.StepsPerSecond += p.Actor.StepsPerSecond
		}
	}
	slices.Sort(r.Hosts)
	if s := r.Replay(); s != nil {
		r.EnvSteps = int64(s.Inserted)
	}
	l := r.Learner()
	if l == nil {
		return
	}
	r.Phase, r.Updates, r.UpdatesPerSecond = l.Phase, l.Updates, l.UpdatesPerSecond
	r.ParamVersion, r.Staleness = l.ParamVersion, l.Staleness
	r.EnvSteps = max(r.EnvSteps, l.EnvSteps)
	if l.DurationSeconds > 0 {
		r.SecondsLeft = max(0, l.DurationSeconds-l.ElapsedSeconds)
	}
	if s := r.Replay(); l.StepLimit > 0 && s != nil && s.InsertsPerSecond > 0 {
		if left := max(0, float64(l.StepLimit-l.EnvSteps)/s.InsertsPerSecond); l.DurationSeconds == 0 || left < r.SecondsLeft {
			r.SecondsLeft = left
		}
	}
}

// judge finds what somebody should look at.
func (r *Run) judge() {
	problem := func(format string, args ...any) { r.Problems = append(r.Problems, fmt.Sprintf(format, args...)) }
	count := map[protocol.Role]int{}
	versions := map[string]bool{}
	var dropped, rejected, denied uint64
	var refused uint64
	for _, p := range r.Processes {
		if p.Gone {
			problem("%s %s has been gone for %s", p.Role, p.Name, seconds(p.Age))
			continue
		}
		count[p.Role]++
		versions[p.Version] = true
		if p.Late {
			problem("%s %s was last heard %.0f s ago", p.Role, p.Name, p.Age)
		}
		if p.Actor != nil {
			dropped += p.Actor.Dropped
			rejected += p.Actor.ParamsRejected
		}
		if d := p.Dispatch; d != nil && d.Holds != "" {
			problem("dispatcher %s: all streams are held by %s", p.Name, d.Holds)
		}
		if d := p.Dispatch; d != nil && d.AuditFailed {
			problem("dispatcher %s cannot record its decisions", p.Name)
		}
		denied += p.Bus.Denied
		for _, n := range p.Bus.Refused {
			refused += n
		}
		for _, n := range p.Bus.DeadLettered {
			refused += n
		}
	}
	training := count[protocol.RoleLearner]+count[protocol.RoleReplay]+count[protocol.RoleActor] > 0
	for _, role := range []protocol.Role{protocol.RoleLearner, protocol.RoleReplay, protocol.RoleActor} {
		// A run that has been trained may go on being dispatched by.
		if count[role] == 0 && (training || count[protocol.RoleDispatcher] == 0) {
			problem("no %s is running", role)
		}
	}
	for _, role := range []protocol.Role{protocol.RoleLearner, protocol.RoleReplay, protocol.RoleDispatcher} {
		if count[role] > 1 {
			problem("%d processes are %s, there must be one", count[role], role)
		}
	}
	if len(versions) > 1 {
		problem("processes are of %d versions of the program", len(versions))
	}
	if dropped > 0 {
		problem("actors have dropped %d chunks: the bus or the replay is too slow, or was away", dropped)
	}
	if rejected > 0 {
		problem("actors have refused %d versions of the parameters", rejected)
	}
	if refused > 0 {
		problem("%d messages could not be read: see stream DEAD", refused)
	}
	if denied > 0 {
		problem("the bus has denied %d times: see the logs", denied)
	}
	if l := r.Learner(); l != nil && (l.Metrics["learner/skipped"] > 0 || l.Metrics["learner/restores"] > 0) {
		problem("%.0f updates were not finite and skipped, checkpoints restored %.0f times", l.Metrics["learner/skipped"], l.Metrics["learner/restores"])
	}
	r.Health = "ok"
	if len(r.Problems) > 0 {
		r.Health = "attention"
	}
}
