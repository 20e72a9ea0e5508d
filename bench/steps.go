package bench

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/learner/dreamer"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// benchRun is the run's name on the bus and in the replay.
const benchRun = "bench"

// steps is what an actor of the default configuration sends for each time step.
type steps struct {
	obs, actions, stride, context int
	chunk                         int // steps in a chunk
	envs                          int // streams of an actor
}

func defaultSteps() (steps, error) {
	cfg := protocol.DefaultConfig()
	e, err := defaultEnv(cfg)
	if err != nil {
		return steps{}, err
	}
	spec := e.Spec()
	return steps{
		obs: spec.Obs + env.Extra, actions: spec.Actions, stride: cfg.Actor.ContextStride,
		context: dreamer.ConfigOf(cfg, spec.Obs+env.Extra, spec.Actions).Model.ContextLen(),
		chunk:   cfg.Actor.ChunkLength, envs: cfg.Actor.Envs,
	}, nil
}

func defaultEnv(cfg protocol.Config) (*loadbalance.Env, error) {
	return loadbalance.New(loadbalance.Config{
		Servers: cfg.Env.Servers, Jobs: cfg.Env.EpisodeJobs, Reward: cfg.Env.Reward, RewardScale: cfg.Env.RewardScale,
		TailStart: cfg.Env.TailStart, LoadScales: cfg.Env.LoadScales,
	})
}

// presetConfig is the learning algorithm of a preset on its own environment.
func presetConfig(name string, threads int) (dreamer.Config, protocol.Config, error) {
	cfg, err := protocol.PresetConfig(name)
	if err != nil {
		return dreamer.Config{}, cfg, err
	}
	cfg.Learner.Threads = threads
	e, err := defaultEnv(cfg)
	if err != nil {
		return dreamer.Config{}, cfg, err
	}
	spec := e.Spec()
	return dreamer.ConfigOf(cfg, spec.Obs+env.Extra, spec.Actions), cfg, nil
}

// rawBytes is what the arrays of one step take: observation, action, reward,
// flags, log-probability and its share of a recurrent context.
func (s steps) rawBytes() float64 {
	return float64(4*s.obs+2+4+1+4) + float64(4*s.context)/float64(s.stride)
}

// chunks are those of one actor, each like the last but for its number.
type chunks struct {
	chunk *protocol.Chunk
	envs  int
	made  int
}

// newChunks makes chunks of n steps with random values.
func (s steps) newChunks(actor string, n int) *chunks {
	r := rand.New(rand.NewPCG(1, 1))
	random := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		return x
	}
	c := &protocol.Chunk{
		Run: benchRun, Actor: actor, Trial: 1, ParamVersion: 1, Task: loadbalance.Poisson,
		Steps: n, ObsLen: s.obs, Actions: s.actions, Stride: s.stride, ContextLen: s.context,
		Obs: random(n * s.obs), Action: make([]uint16, n), Reward: random(n), Flags: make([]uint8, n), LogProb: random(n),
	}
	c.Context = random(c.ContextRows() * s.context)
	for i := range c.Action {
		c.Action[i] = uint16(r.IntN(s.actions))
	}
	return &chunks{chunk: c, envs: s.envs}
}

// next is valid until the next call.
func (c *chunks) next() *protocol.Chunk {
	c.chunk.Env, c.chunk.Seq = uint32(c.made%c.envs), uint64(c.made/c.envs)
	c.made++
	return c.chunk
}

// inFolder calls f with a new folder and removes it afterwards.
func (o *Options) inFolder(name string, f func(dir string) error) error {
	dir, err := os.MkdirTemp(o.Dir, name+"-")
	if err != nil {
		return fmt.Errorf("folder of the benchmark: %w", err)
	}
	return errors.Join(f(dir), os.RemoveAll(dir))
}
