package watchdog

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Bounds are the upper bounds in seconds of the histograms' buckets, two a decade: an estimate is off
// by a factor of 1.8 at most. The least is an actor's tick of the smallest policy, the last the Limit.
var Bounds = [...]float64{3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60}

// Durations is a histogram of how long one step, or one wait, has lasted.
type Durations struct {
	Step    string
	Waiting bool
	Sum     time.Duration
	Counts  [len(Bounds) + 1]uint64 // those at most Bounds[i] long and longer than Bounds[i-1]; the last, those above all
}

// account sums up the loops of one role and name, those that have ended included.
type account struct {
	role, name string

	// Guarded by the watchdog's mu: of the last window.
	markAt    time.Time
	markBusy  time.Duration
	markTotal time.Duration
	share     float64

	mu           sync.Mutex
	busy, waited time.Duration
	durations    []*Durations
}

// add counts a step that has ended; mu is held.
func (a *account) add(step string, waiting bool, d time.Duration) {
	if waiting {
		a.waited += d
	} else {
		a.busy += d
	}
	i := slices.IndexFunc(a.durations, func(h *Durations) bool { return h.Waiting == waiting && h.Step == step })
	if i < 0 {
		i = len(a.durations)
		a.durations = append(a.durations, &Durations{Step: step, Waiting: waiting})
	}
	h := a.durations[i]
	h.Sum += d
	bucket, _ := slices.BinarySearch(Bounds[:], d.Seconds())
	h.Counts[bucket]++
}

// measure ends a window with the times of the whole life.
func (a *account) measure(now time.Time, busy, total time.Duration) {
	a.share = 0
	if spent := total - a.markTotal; spent > 0 {
		a.share = float64(busy-a.markBusy) / float64(spent)
	}
	a.markAt, a.markBusy, a.markTotal = now, busy, total
}

// Account is what the loops of one role and name have told since the process began.
type Account struct {
	Role, Name string
	Saturation float64 // share of the last window in which they were busy, 0 to 1
	Stalled    int     // loops
	Durations  []Durations
}

// Accounts lists them by role and name.
func (w *Watchdog) Accounts() []Account {
	stalled := map[[2]string]int{}
	for _, s := range w.States() {
		if s.Stalled {
			stalled[[2]string{s.Role, s.Name}]++
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]Account, 0, len(w.accounts))
	for _, a := range w.accounts {
		a.mu.Lock()
		out := Account{Role: a.role, Name: a.name, Saturation: a.share, Stalled: stalled[[2]string{a.role, a.name}]}
		for _, h := range a.durations {
			out.Durations = append(out.Durations, *h)
		}
		a.mu.Unlock()
		all = append(all, out)
	}
	slices.SortFunc(all, func(a, b Account) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Name, b.Name))
	})
	return all
}
