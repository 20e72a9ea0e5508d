package replay

import (
	"fmt"
	"math"
)

// LimiterConfig sets how many steps are replayed for each step inserted.
type LimiterConfig struct {
	Ratio    float64 // replayed steps per inserted step, above 0
	MinSteps int     // steps inserted before the first sample, at least 1; they are owed no samples
	Budget   int     // replayed steps by which either side may run ahead, at least those of one batch

	// Shards is among how many replays the run is divided, 0 or 1 for one. All else is of
	// all together: each shard owes no samples for its part of MinSteps, and looks at the
	// sum of what it and the others have, see Others.
	Shards int
}

// own is the shard's part of MinSteps.
func (c LimiterConfig) own() uint64 {
	return uint64((c.MinSteps + max(1, c.Shards) - 1) / max(1, c.Shards))
}

// Limiter keeps sampling and inserting in proportion, after Reverb's
// SampleToInsertRatio (Cassirer et al. 2021, arXiv 2102.04736). Its balance is the
// number of replayed steps that the inserted ones allow and that have not been
// sampled yet:
//
//	balance = Ratio * (steps inserted beyond MinSteps) - steps sampled
//
// Samples are ahead when one more batch would take the balance below -Budget,
// inserts when it is above +Budget. The balance is summed up as it goes, so
// that another Ratio on resume counts from there on and not backwards.
//
// Never do both sides wait: a batch is at most Budget steps, so where sampling
// is refused the balance is below zero, and inserting is not.
type Limiter struct {
	cfg    LimiterConfig
	state  LimiterState
	others LimiterState // sum of the other shards'
}

// Others takes in what the other shards have together, as they have told it last.
func (l *Limiter) Others(sum LimiterState) { l.others = sum }

func (l *Limiter) inserted() uint64 { return l.state.Inserted + l.others.Inserted }
func (l *Limiter) balance() float64 { return l.state.Balance + l.others.Balance }

// LimiterState is what a Limiter saves.
type LimiterState struct {
	Inserted, Sampled uint64  // steps in all
	Balance           float64 // replayed steps allowed and not yet sampled
}

// NewLimiter checks the configuration against the steps of one batch and the
// replay's capacity in steps. Settings under which both sides could wait for
// each other are refused.
func NewLimiter(cfg LimiterConfig, batch, capacity int) (*Limiter, error) {
	switch {
	case !(cfg.Ratio > 0) || math.IsInf(cfg.Ratio, 0):
		return nil, fmt.Errorf("ratio is %v: replayed steps per inserted step must be a number above 0", cfg.Ratio)
	case cfg.MinSteps < 1:
		return nil, fmt.Errorf("steps before the first sample are %d: nothing could be sampled, at least 1", cfg.MinSteps)
	case cfg.own() > uint64(max(0, capacity)):
		return nil, fmt.Errorf("steps before the first sample are %d and the capacity is %d: sampling would begin after the first steps are gone, lower the one or raise the other", cfg.MinSteps, capacity)
	case cfg.Budget < batch:
		return nil, fmt.Errorf("error budget is %d replayed steps and a batch has %d: samples and inserts could wait for each other, make it at least one batch", cfg.Budget, batch)
	}
	return &Limiter{cfg: cfg}, nil
}

// Insert counts inserted steps. They are counted even while Hold: a chunk that
// has come this far is data already.
func (l *Limiter) Insert(steps int) {
	before := l.state.Inserted
	l.state.Inserted += uint64(steps)
	minimum := l.cfg.own()
	if l.state.Inserted > minimum {
		l.state.Balance += l.cfg.Ratio * float64(l.state.Inserted-max(before, minimum))
	}
}

// Sample counts sampled steps, which CanSample has allowed.
func (l *Limiter) Sample(steps int) {
	l.state.Sampled += uint64(steps)
	l.state.Balance -= float64(steps)
}

// CanSample reports whether so many steps may be sampled now.
func (l *Limiter) CanSample(steps int) bool {
	return l.inserted() >= uint64(l.cfg.MinSteps) && l.balance()-float64(steps) >= -float64(l.cfg.Budget)
}

// Hold reports whether inserts are ahead, or will be once so many incoming
// steps that are on their way have come, so that actors should stop.
func (l *Limiter) Hold(incoming uint64) bool { return l.excess(incoming) > 0 }

// excess is how far the balance is, or will be, above the budget.
func (l *Limiter) excess(incoming uint64) float64 {
	owed := float64(l.state.Inserted+incoming) - float64(max(l.state.Inserted, l.cfg.own()))
	return l.balance() + l.cfg.Ratio*max(0, owed) - float64(l.cfg.Budget)
}

// Waiting says what keeps so many steps from being sampled, or nothing.
func (l *Limiter) Waiting(steps int) string {
	switch {
	case l.CanSample(steps):
		return ""
	case l.inserted() < uint64(l.cfg.MinSteps):
		return fmt.Sprintf("for steps to be inserted: %d of the first %d are there", l.inserted(), l.cfg.MinSteps)
	default:
		need := (float64(steps) - float64(l.cfg.Budget) - l.balance()) / l.cfg.Ratio
		return fmt.Sprintf("for %.0f more steps to be inserted: samples are ahead of %g per insert", math.Ceil(need), l.cfg.Ratio)
	}
}

// Holding says what actors wait for while Hold, or nothing.
func (l *Limiter) Holding(incoming uint64) string {
	if !l.Hold(incoming) {
		return ""
	}
	return fmt.Sprintf("for %.0f more steps to be sampled: inserts are ahead of %g samples per insert", math.Ceil(l.excess(incoming)), l.cfg.Ratio)
}

// State returns what Restore takes.
func (l *Limiter) State() LimiterState { return l.state }

// Restore continues from a saved state. One with a balance that is no number
// is refused.
func (l *Limiter) Restore(state LimiterState) error {
	if math.IsNaN(state.Balance) || math.IsInf(state.Balance, 0) {
		return fmt.Errorf("limiter's balance is %v: %w", state.Balance, ErrCorrupt)
	}
	l.state = state
	return nil
}
