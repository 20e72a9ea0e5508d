package dispatch

import (
	"fmt"
	"time"
)

// judge runs the guards that look at each decision and says why the reference
// decides, or nothing where the policy does. Service.mu is held.
func (s *Service) judge(st *stream, l *look, v verdict, acting *version, now time.Time) Reason {
	s.guard(st, l, acting, now)
	unsettled := st.settle > 0
	if unsettled {
		st.settle--
	}
	switch {
	case !s.decides(st):
		return ReasonStage
	case s.audit != nil && s.audit.failed() != nil:
		s.warn(ReasonAudit, s.audit.failed().Error())
		return ReasonAudit
	case v.advice < 0:
		return ReasonParameters
	case len(s.state.Holds) > 0:
		return s.state.Holds[0].Guard
	case unsettled:
		s.warn(ReasonState, fmt.Sprintf("stream %q is not known: the reference decides its next %d jobs", st.name, st.settle+1))
		return ReasonState
	}
	return st.hold.Guard
}

// decides reports whether the stage gives a stream to the policy.
func (s *Service) decides(st *stream) bool {
	switch s.state.Stage {
	case Active:
		return true
	case Canary:
		return st.position < s.plan.Canary[s.state.Step]
	}
	return false
}

// guard holds a stream that is out of its bounds. Service.mu is held.
func (s *Service) guard(st *stream, l *look, acting *version, now time.Time) {
	g := &s.plan.Guards
	if st.hold.Guard != "" && st.hold.over(now) {
		s.raise("release", st.hold)
		st.hold = Hold{}
	}
	if acting != nil && st.settle == 0 && st.surprise > acting.threshold {
		s.hold(st, Hold{Guard: ReasonSurprise, Value: st.surprise, Limit: acting.threshold}, g.Surprise.Hold)
	}
	if limit := g.Queue.Backlog; limit > 0 {
		for i, load := range l.loads {
			if backlog := load / st.queues.rate(i, now); l.up[i] && backlog > limit {
				s.hold(st, Hold{Guard: ReasonQueue, Value: backlog, Limit: limit, Note: "server " + s.serverName(i)}, g.Queue.Hold)
				break
			}
		}
	}
	if limit := g.Latency.Limit; limit > 0 {
		if response := time.Duration(st.response.value()); response > limit {
			s.hold(st, Hold{Guard: ReasonLatency, Value: response.Seconds(), Limit: limit.Seconds()}, g.Latency.Hold)
		}
	}
}

// hold begins a hold of a stream, or of all, and escalates it. One that is held
// already stays as it is; but a stream's cool-down begins anew with each decision at
// which its guard still finds what it was held for, which it goes on to look at: the
// policy advises during a hold as in the shadow stage. Service.mu is held.
func (s *Service) hold(st *stream, h Hold, cooldown time.Duration) {
	h.Since = s.now()
	if cooldown > 0 {
		h.Until = h.Since.Add(cooldown)
	}
	if st != nil {
		if st.hold.Guard != "" {
			if st.hold.Guard == h.Guard && !st.hold.Until.IsZero() {
				st.hold.Until = h.Until
			}
			return
		}
		h.Stream = st.name
		st.hold = h
	} else {
		for _, held := range s.state.Holds {
			if held.Guard == h.Guard {
				return
			}
		}
		s.state.Holds = append(s.state.Holds, h)
		s.unsaved = true
	}
	s.counts.Holds[reasonIndex(h.Guard)]++
	s.raise("hold", h)
}

// warnEvery bounds how often one reason is escalated that holds nothing.
const warnEvery = 10 * time.Second

// warn escalates what ends by itself. Service.mu is held.
func (s *Service) warn(reason Reason, note string) {
	now := s.now()
	if last, ok := s.warned[reason]; ok && now.Sub(last) < warnEvery {
		return
	}
	s.warned[reason] = now
	s.raise("warning", Hold{Guard: reason, Since: now, Note: note})
}

func (s *Service) raise(kind string, h Hold) {
	e := Event{Time: s.now(), Run: s.run, Kind: kind, Stage: s.state.Stage, Hold: h}
	if s.acting != nil {
		e.Version = s.acting.number
	}
	s.alarm.raise(e)
}

const (
	rushShare = 1.0 / 256 // weight of the newest decision
	rushLimit = 0.1
)

// rush takes in whether a decision missed its deadline. Service.mu is held.
func (s *Service) rush(missed float64) {
	s.rushed += rushShare * (missed - s.rushed)
	if missed > 0 {
		s.warn(ReasonDeadline, fmt.Sprintf("the policy did not answer within %v", s.plan.Guards.Deadline.Limit))
	}
	if s.rushed > rushLimit {
		s.hold(nil, Hold{Guard: ReasonDeadline, Value: s.rushed, Limit: rushLimit}, s.plan.Guards.Deadline.Hold)
		s.rushed = 0
	}
}

// tend ends holds whose cool-down has passed, notices parameters that grow stale,
// takes the steps that the plan may take by itself, and saves what has changed.
func (s *Service) tend() {
	s.mu.Lock()
	now := s.now()
	kept := s.state.Holds[:0]
	for _, h := range s.state.Holds {
		if h.over(now) {
			s.raise("release", h)
			s.unsaved = true
			if h.Guard == ReasonCost {
				s.fresh()
			}
			continue
		}
		kept = append(kept, h)
	}
	s.state.Holds = kept
	if limit := s.plan.Guards.Parameters.MaxAge; limit > 0 && s.acting != nil {
		if age := now.Sub(s.renewed); age > limit {
			s.hold(nil, Hold{Guard: ReasonParameters, Value: age.Seconds(), Limit: limit.Seconds(), Note: "the newest parameters are stale"}, s.plan.Guards.Parameters.Hold)
		}
	}
	if s.plan.Approval == "plan" && s.unready() == "" && s.state.Stage != Active {
		s.stepUp()
	}
	unsaved := s.unsaved
	s.unsaved = false
	s.mu.Unlock()
	if unsaved {
		if err := s.save(); err != nil {
			s.log.Error("the dispatcher's state is not saved", "error", err)
		}
	}
}
