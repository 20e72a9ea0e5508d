package dispatch

import (
	"time"
)

// Reason says why the reference decided.
type Reason string

// The reasons. All but the first two are guards'.
const (
	ReasonStage      Reason = "stage"      // shadow, or a stream outside the canary's share
	ReasonAudit      Reason = "audit"      // decisions cannot be recorded, so the policy takes none
	ReasonSurprise   Reason = "surprise"   // the world model did not expect what it sees
	ReasonQueue      Reason = "queue"      // a queue is longer than its bound
	ReasonLatency    Reason = "latency"    // response times are above their bound
	ReasonCost       Reason = "cost"       // the policy is worse than the reference
	ReasonParameters Reason = "parameters" // there are none, they are stale, or not finite
	ReasonState      Reason = "state"      // the stream's queues and memory are not known
	ReasonDeadline   Reason = "deadline"   // the policy did not answer in time
)

// Reasons are all reasons, in the order in which they are looked at.
var Reasons = []Reason{
	ReasonStage, ReasonAudit, ReasonCost, ReasonParameters, ReasonDeadline, ReasonState, ReasonQueue, ReasonLatency, ReasonSurprise,
}

// Hold is a guard's: while it lasts, the reference decides.
type Hold struct {
	Guard  Reason    `json:"guard"`
	Stream string    `json:"stream,omitempty"` // empty: all
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // zero: until somebody releases it; later while its guard still finds it
	Value  float64   `json:"value"`          // what was measured
	Limit  float64   `json:"limit"`          // and what it exceeds
	Note   string    `json:"note,omitempty"`
}

// over reports whether the cool-down has passed.
func (h *Hold) over(now time.Time) bool { return !h.Until.IsZero() && !now.Before(h.Until) }

// Event is an escalation: a hold that begins, or something that a human should look at.
type Event struct {
	Time    time.Time `json:"time"`
	Run     string    `json:"run"`
	Kind    string    `json:"kind"` // hold, release or warning
	Stage   Stage     `json:"stage"`
	Version uint64    `json:"version"`
	Hold    Hold      `json:"hold"`
}
