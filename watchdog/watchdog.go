package watchdog

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	// Limit is how long a step may last. The longest that are meant, an update or a checkpoint of the
	// largest preset, take seconds.
	Limit = time.Minute

	// CheckEvery is how often Run is to be woken.
	CheckEvery = time.Second
	// late is how long after the last check the next one says that the whole process stood still,
	// under SIGSTOP or in a paused machine: that is no stall of its loops.
	late = 10 * CheckEvery

	// window is what the saturation is taken over: long beside a step, short beside a scrape interval.
	window = 10 * time.Second
)

// Watchdog watches the loops of a process. It is safe for concurrent use.
type Watchdog struct {
	limit time.Duration
	now   func() time.Time
	log   hclog.Logger

	mu       sync.Mutex
	accounts []*account
	loops    []*Loop
	checked  time.Time // when Check was last called
	resumed  time.Time // when the process last went on after it had stood still
}

// New returns a watchdog for steps that last at most limit.
func New(limit time.Duration, now func() time.Time, log hclog.Logger) *Watchdog {
	return &Watchdog{limit: limit, now: now, log: log}
}

// Loop returns the account of a loop that begins. Several loops of one role and name, such as
// those of a process's actors, are summed up. It counts from its first Do or Wait until End.
func (w *Watchdog) Loop(role, name string) *Loop {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.accounts, func(a *account) bool { return a.role == role && a.name == name })
	if i < 0 {
		i = len(w.accounts)
		w.accounts = append(w.accounts, &account{role: role, name: name, markAt: w.now()})
	}
	l := &Loop{dog: w, account: w.accounts[i]}
	w.loops = append(w.loops, l)
	return l
}

// State is what a loop does at a moment.
type State struct {
	Role, Name string
	Waiting    bool
	Step       string        // that it does, or what it waits for; empty: it has not begun
	For        time.Duration // since it began with that
	Stalled    bool          // it is no wait, and too long
}

// States lists the loops by role and name.
func (w *Watchdog) States() []State {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	states := make([]State, 0, len(w.loops))
	for _, l := range w.loops {
		states = append(states, l.state(now))
	}
	slices.SortStableFunc(states, func(a, b State) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Name, b.Name))
	})
	return states
}

// Stalled reports whether any loop is.
func (w *Watchdog) Stalled() bool {
	return slices.ContainsFunc(w.States(), func(s State) bool { return s.Stalled })
}

// Run checks at every tick, CheckEvery apart, until ctx ends.
func (w *Watchdog) Run(ctx context.Context, ticks <-chan time.Time) {
	for {
		w.Check()
		select {
		case <-ticks:
		case <-ctx.Done():
			return
		}
	}
}

// Check says in the log which loop has stalled and in which step, again for every further limit, and
// when it has gone on; and which one has waited and for what, after the limit and each time that the
// wait is twice as long.
func (w *Watchdog) Check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	if !w.checked.IsZero() && now.Sub(w.checked) > late {
		w.log.Warn("the process stood still", "for", now.Sub(w.checked).Round(time.Second))
		w.resumed = now
	}
	w.checked = now
	for _, l := range w.loops {
		l.speak(now)
	}
	for _, a := range w.accounts {
		if elapsed := now.Sub(a.markAt); elapsed >= window {
			busy, total := w.spent(a, now)
			a.measure(now, busy, total)
		}
	}
}

// spent is how long the loops of an account have been busy, and have lasted, so far, all together.
func (w *Watchdog) spent(a *account, now time.Time) (busy, total time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	busy, total = a.busy, a.busy+a.waited
	for _, l := range w.loops {
		if l.account == a && l.step != "" {
			d := now.Sub(l.since)
			total += d
			if !l.waiting {
				busy += d
			}
		}
	}
	return busy, total
}
