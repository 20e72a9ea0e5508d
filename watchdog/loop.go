package watchdog

import (
	"slices"
	"time"
)

// Loop is what one loop tells of itself. Its methods belong to that loop's goroutine.
type Loop struct {
	dog     *Watchdog
	account *account

	// Guarded by account.mu.
	step    string
	waiting bool
	since   time.Time

	// Guarded by dog.mu: what Check has said of it.
	said    time.Time // since when what was spoken of lasts
	spoken  time.Duration
	stalled string // the step that was called stalled
}

// Do tells that the loop has made progress and begins a step, one of a few constant names.
func (l *Loop) Do(step string) { l.enter(step, false) }

// Wait tells that the loop waits from now on, for one of a few constant reasons. Told again, it is the
// same wait.
func (l *Loop) Wait(reason string) { l.enter(reason, true) }

// End tells that the loop has ended.
func (l *Loop) End() {
	if l == nil {
		return
	}
	l.enter("", false)
	l.dog.mu.Lock()
	defer l.dog.mu.Unlock()
	l.dog.loops = slices.DeleteFunc(l.dog.loops, func(other *Loop) bool { return other == l })
}

func (l *Loop) enter(step string, waiting bool) {
	if l == nil {
		return
	}
	now := l.dog.now()
	a := l.account
	a.mu.Lock()
	defer a.mu.Unlock()
	if waiting && l.waiting && step == l.step {
		return
	}
	if l.step != "" {
		a.add(l.step, l.waiting, now.Sub(l.since))
	}
	l.step, l.waiting, l.since = step, waiting, now
}

// state is called with dog.mu held.
func (l *Loop) state(now time.Time) State {
	l.account.mu.Lock()
	defer l.account.mu.Unlock()
	s := State{Role: l.account.role, Name: l.account.name, Waiting: l.waiting, Step: l.step}
	if s.Step == "" {
		return s
	}
	s.For = now.Sub(l.since)
	// A process that stood still has not let its loops go on; from then on they have their time.
	s.Stalled = !s.Waiting && min(s.For, now.Sub(l.dog.resumed)) >= l.dog.limit
	return s
}

// speak says in the log what is to be said of the loop.
func (l *Loop) speak(now time.Time) {
	s := l.state(now)
	log, began := l.dog.log, now.Add(-s.For)
	if !began.Equal(l.said) {
		if l.stalled != "" {
			log.Info("a loop goes on", "role", s.Role, "loop", s.Name, "after", l.stalled)
		}
		l.said, l.spoken, l.stalled = began, 0, ""
	}
	lasted := s.For.Round(time.Second)
	switch {
	case s.Stalled && s.For >= l.spoken+l.dog.limit:
		log.Error("a loop makes no progress", "role", s.Role, "loop", s.Name, "step", s.Step, "for", lasted)
		l.spoken, l.stalled = s.For, s.Step
	case s.Waiting && s.For >= max(l.dog.limit, 2*l.spoken):
		log.Info("a loop waits", "role", s.Role, "loop", s.Name, "waits_for", s.Step, "for", lasted)
		l.spoken = s.For
	}
}
