package dispatch

import (
	"slices"
	"time"
)

// LatencyBounds divide decisions by how long they took.
var LatencyBounds = [...]time.Duration{
	100 * time.Microsecond, 200 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2 * time.Millisecond,
	5 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond,
}

func latencyBucket(d time.Duration) int {
	i, _ := slices.BinarySearch(LatencyBounds[:], d)
	return i
}

// counts are totals since the service began.
type counts struct {
	Policy    uint64   // decisions by the policy
	Reference []uint64 // by the reference, by reason
	Agreed    uint64   // of all with advice, those where both choose the same
	Advised   uint64
	Completed uint64
	Holds     [16]uint64 // begun, by guard
}

func reasonIndex(r Reason) int { return max(slices.Index(Reasons, r), 0) }

func (c *counts) add(d *Decision) {
	if c.Reference == nil {
		c.Reference = make([]uint64, len(Reasons))
	}
	if d.Reason == "" {
		c.Policy++
	} else {
		c.Reference[reasonIndex(d.Reason)]++
	}
	if d.Advice >= 0 {
		c.Advised++
		if d.Advice == d.Reference {
			c.Agreed++
		}
	}
}

// VersionStatus is one version that is kept.
type VersionStatus struct {
	Version   uint64    `json:"version"`
	Loaded    time.Time `json:"loaded"`
	Acting    bool      `json:"acting"`
	Threshold float64   `json:"surprise_threshold,omitempty"` // 0: not measured
}

// Status is what the service says of itself.
type Status struct {
	Run      string          `json:"run"`
	Stage    Stage           `json:"stage"`
	Share    float64         `json:"share"` // of the streams that the policy decides for, holds aside
	Since    time.Time       `json:"since"`
	Ready    bool            `json:"ready"`             // for a step up
	Lacks    string          `json:"lacks,omitempty"`   // what a step up lacks
	Pinned   bool            `json:"pinned"`            // newer versions wait
	Waiting  uint64          `json:"waiting,omitempty"` // the newest version, where it does not act
	Renewed  time.Time       `json:"renewed,omitzero"`  // when the newest version came
	Versions []VersionStatus `json:"versions"`
	Holds    []Hold          `json:"holds"` // of all streams, then of single ones, the first hundred

	Decisions uint64            `json:"decisions"`
	Policy    uint64            `json:"policy"`
	Reference map[Reason]uint64 `json:"reference"` // by reason
	Agreement float64           `json:"agreement"` // share of advice that is the reference's choice, too
	Completed uint64            `json:"completed"`

	// Replayed since the last step, on the same arrivals: mean completion times in
	// time units.
	Blocks        int     `json:"blocks"`
	PolicyCost    float64 `json:"policy_cost"`
	ReferenceCost float64 `json:"reference_cost"`
	Evidence      float64 `json:"evidence"` // that the policy is worse: 1 says nothing, EvidenceLimit holds
	EvidenceLimit float64 `json:"evidence_limit"`

	Streams     int    `json:"streams"`
	Held        int    `json:"held"` // streams held by themselves
	Forgotten   uint64 `json:"forgotten"`
	Unfinished  int    `json:"unfinished"` // jobs
	Swaps       uint64 `json:"swaps"`
	Refused     uint64 `json:"refused"`     // versions
	Skipped     uint64 `json:"skipped"`     // blocks not replayed
	EventsLost  uint64 `json:"events_lost"` // that nobody was told
	AuditFailed string `json:"audit_failed,omitempty"`

	HoldsBegun map[Reason]uint64              `json:"holds_begun"`
	Latency    [len(LatencyBounds) + 1]uint64 `json:"-"`
	Waited     time.Duration                  `json:"-"`
}

const maxHoldsTold = 100

// Status returns the present one.
func (s *Service) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := Status{
		Run: s.run, Stage: s.state.Stage, Share: s.share(), Since: s.state.Since, Pinned: s.state.Pinned,
		Lacks: s.unready(), Renewed: s.renewed, Versions: []VersionStatus{}, Holds: slices.Clone(s.state.Holds),
		Policy: s.counts.Policy, Reference: map[Reason]uint64{}, Completed: s.counts.Completed, HoldsBegun: map[Reason]uint64{},
		Blocks: s.blocks, Evidence: s.test.wealth(), Streams: len(s.streams.byName), Forgotten: s.streams.forgotten,
		Swaps: s.swaps, Refused: s.refused, Skipped: s.replay.skipped.Load(), EventsLost: s.alarm.lost.Load(),
		Latency: s.latency, Waited: s.waited,
	}
	t.Ready = t.Lacks == ""
	if alpha := s.plan.Guards.Cost.ErrorRate; alpha > 0 {
		t.EvidenceLimit = 2 / alpha
	}
	if t.Holds == nil {
		t.Holds = []Hold{}
	}
	if s.blocks > 0 {
		t.PolicyCost, t.ReferenceCost = s.policyCost/float64(s.blocks), s.referenceCost/float64(s.blocks)
	}
	if s.acting != nil && s.newest > s.acting.number {
		t.Waiting = s.newest
	}
	for _, v := range s.versions {
		status := VersionStatus{Version: v.number, Loaded: v.loaded, Acting: v == s.acting}
		if v.threshold < 1e300 {
			status.Threshold = v.threshold
		}
		t.Versions = append(t.Versions, status)
	}
	t.Decisions = t.Policy
	for i, r := range Reasons {
		t.HoldsBegun[r] = s.counts.Holds[i]
		if s.counts.Reference != nil {
			t.Reference[r] = s.counts.Reference[i]
			t.Decisions += s.counts.Reference[i]
		}
	}
	if s.counts.Advised > 0 {
		t.Agreement = float64(s.counts.Agreed) / float64(s.counts.Advised)
	}
	for _, st := range s.streams.byName {
		t.Unfinished += len(st.queues.jobs)
		if st.hold.Guard != "" {
			t.Held++
			if len(t.Holds) < maxHoldsTold {
				t.Holds = append(t.Holds, st.hold)
			}
		}
	}
	if s.audit != nil {
		if err := s.audit.failed(); err != nil {
			t.AuditFailed = err.Error()
		}
	}
	return t
}
