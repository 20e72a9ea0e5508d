package view

import (
	"sync/atomic"
	"time"

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
)

// Bounds of what a camera sends.
const (
	// ClipFrames is the length of a live clip: with ForecastSteps before and after
	// its middle, and some seconds to look at.
	ClipFrames = 96
	// ClipInterval is the shortest time from the beginning of one clip to that of the
	// next: as long as one is looked at.
	ClipInterval = 4 * time.Second
	// AskedFor is how long one asking lasts.
	AskedFor = 6 * time.Second
)

// CameraConfig says what a camera looks at.
type CameraConfig struct {
	Run, Actor string
	Env        *loadbalance.Env
	Scale      float64          // the first of the environment's load scales
	Probs      func() []float32 // of the policy's last Act, those of the environment first
	Task       func() string    // the present one's name
	Send       func(*Clip)      // takes a finished clip over; must not block
	Now        func() time.Time
}

// Camera takes clips of a running actor's first environment while somebody asks.
// Ask may be called from any goroutine, the rest belongs to the actor's.
type Camera struct {
	cfg         CameraConfig
	left, index loadbalance.Policy
	until       atomic.Int64 // nanoseconds since 1970: asked for until then; 0: nobody has asked
	clip        *Clip        // being taken
	begun       time.Time    // when the last one was
}

// NewCamera makes a camera that nobody has asked yet.
func NewCamera(cfg CameraConfig) (*Camera, error) {
	c := &Camera{cfg: cfg}
	var err error
	if c.left, err = loadbalance.NewPolicy("left", loadbalance.PolicyOptions{}); err != nil {
		return nil, err
	}
	c.index, err = loadbalance.NewPolicy("index", loadbalance.PolicyOptions{})
	return c, err
}

// Ask has the camera take clips for AskedFor.
func (c *Camera) Ask() { c.until.Store(c.cfg.Now().Add(AskedFor).UnixNano()) }

// Wants says before a step whether the camera is to see it, and whether a clip
// begins with it, so that the recurrent context is wanted, too.
func (c *Camera) Wants() (see, begins bool) {
	until := c.until.Load()
	if until == 0 {
		return false, false
	}
	now := c.cfg.Now()
	if now.UnixNano() > until {
		c.until.CompareAndSwap(until, 0)
		c.clip = nil
		return false, false
	}
	if c.clip != nil {
		return true, false
	}
	if now.Sub(c.begun) < ClipInterval {
		return false, false
	}
	c.begun = now
	return true, true
}

// See takes a step in, after the policy has acted: what it observed, the step's
// flags, the action, the version of the parameters and, where a clip begins, the
// context.
func (c *Camera) See(obs []float32, flags uint8, action int, version uint64, context []float32) {
	if c.clip == nil {
		c.clip = &Clip{
			Format: Format, Run: c.cfg.Run, Actor: c.cfg.Actor, Source: "live", Task: c.cfg.Task(), Version: version,
			Servers: c.cfg.Env.Sim().Servers(), Scale: c.cfg.Scale, Context: encodeContext(context),
		}
	}
	if last := flags&flagLast != 0; !last { // the step after an episode's end shows no job
		f := Shoot(c.cfg.Env.Sim(), c.left, c.index)
		f.Action, f.Flags = action, flags
		f.Probs = append(f.Probs, c.cfg.Probs()[:c.clip.Servers]...)
		f.Obs = append(f.Obs, obs...)
		c.clip.Frames = append(c.clip.Frames, f)
		if len(c.clip.Frames) < ClipFrames {
			return
		}
	}
	clip := c.clip
	c.clip = nil
	if len(clip.Frames) > 0 && clip.Servers <= MaxServers {
		c.cfg.Send(clip)
	}
}

// flagLast marks the last step of a trial; see env.Last.
const flagLast = 4

// Shoot is the state of a simulator and what the rules would choose.
func Shoot(sim *loadbalance.Sim, left, index loadbalance.Policy) Frame {
	n := sim.Servers()
	loads := make([]float64, n+1)
	sim.Observe(loads)
	f := Frame{
		Time: sim.Time(), Size: sim.JobSize(), Loads: loads[:n], Jobs: make([]int, n),
		Rates: append([]float64(nil), sim.Rates()...), LEFT: left.Choose(sim), Index: index.Choose(sim),
	}
	for i := range f.Jobs {
		f.Jobs[i] = sim.Holding(i)
	}
	return f
}
