package replay

import "time"

// patience decides when a wait has lasted long enough to be spoken of. It is
// told the time and reads no clock.
type patience struct{ since, said, seen time.Time }

// waiting is called again and again while a wait lasts. It returns how long
// that has been and whether to say so: each time another limit has passed. A
// wait not heard of for longer than limit was given up, and this is another.
func (p *patience) waiting(now time.Time, limit time.Duration) (waited time.Duration, say bool) {
	if p.since.IsZero() || now.Sub(p.seen) > limit {
		p.since, p.said = now, now
	}
	p.seen = now
	if say = now.Sub(p.said) >= limit; say {
		p.said = now
	}
	return now.Sub(p.since), say
}

// over ends a wait.
func (p *patience) over() { *p = patience{} }
