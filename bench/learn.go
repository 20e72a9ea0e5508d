package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/dreamfleet/dreamfleet/learner/dreamer"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

func runLearn(ctx context.Context, o *Options, report func(Result)) error {
	pool := model.NewPool(o.Threads)
	defer pool.Close()
	for _, s := range sizes() {
		if err := learnSize(ctx, o, s, pool, report); err != nil {
			return err
		}
	}
	for _, name := range []string{"small", "1m", "12m"} {
		if err := learnPreset(ctx, o, name, pool, report); err != nil {
			return fmt.Errorf("preset %s: %w", name, err)
		}
	}
	return nil
}

// stepper makes train steps of an agent on one batch.
type stepper struct {
	agent *dreamer.Agent
	batch *protocol.Batch
	flops float64 // of the products of one step
	spent time.Duration
}

func newStepper(agent *dreamer.Agent, c dreamer.Config) (*stepper, error) {
	s := &stepper{agent: agent, batch: newBatch(c)}
	before := model.Flops()
	err := s.step()
	s.flops = float64(model.Flops() - before)
	return s, err
}

func (s *stepper) step() error {
	start := time.Now()
	r, err := s.agent.Train(context.Background(), s.batch)
	s.spent += time.Since(start)
	if err == nil && r.Skipped {
		err = fmt.Errorf("a train step was not finite: %v", r.Metrics)
	}
	return err
}

// measure reports the time of a step against the time that its products take
// at peak, and returns it in seconds.
func (s *stepper) measure(ctx context.Context, o *Options, name, config string, pool *model.Pool, report func(Result)) (float64, error) {
	r, err := o.rounds(ctx,
		func() (float64, error) { return milliseconds(time.Second, s.step) },
		func() (float64, error) { return s.flops / peak(pool, 100*time.Millisecond) * 1e3, nil })
	if err != nil {
		return 0, err
	}
	r.Name, r.Unit, r.LimitKind = name, "ms", "peak_flops"
	r.Config = fmt.Sprintf("%s, %.2f GFLOP in products, %d threads", config, s.flops/1e9, o.Threads)
	report(r)
	return r.Value / 1e3, nil
}

func learnSize(ctx context.Context, o *Options, s size, pool *model.Pool, report func(Result)) (err error) {
	// What an earlier benchmark has left goes back first.
	debug.FreeOSMemory()
	if err := resetPeakMemory(); err != nil {
		return err
	}
	c := s.training(o.Threads)
	agent, err := dreamer.New(c, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, agent.Close()) }()
	step, err := newStepper(agent, c)
	if err != nil {
		return err
	}
	name := "learn/" + s.name
	config := fmt.Sprintf("size %s, batch 16 x 64, 1024 rollouts of 15 steps", s.name)
	seconds, err := step.measure(ctx, o, name, config, pool, report)
	if err != nil {
		return err
	}
	if peer, ok := s.seconds[o.Threads]; ok {
		report(Result{Name: name + "/peer", Config: config, Value: seconds, Unit: "s", Limit: peer, LimitKind: "pytorch_recorded", Ratio: seconds / peer})
	}
	memory, err := peakMemory()
	if err != nil {
		return err
	}
	report(Result{Name: name + "/memory", Config: config, Value: memory, Unit: "GB", Limit: s.memory, LimitKind: "pytorch_recorded", Ratio: memory / s.memory})
	return nil
}

func learnPreset(ctx context.Context, o *Options, name string, pool *model.Pool, report func(Result)) (err error) {
	c, cfg, err := presetConfig(name, o.Threads)
	if err != nil {
		return err
	}
	agent, err := dreamer.New(c, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, agent.Close()) }()
	step, err := newStepper(agent, c)
	if err != nil {
		return err
	}
	config := "preset " + name
	before, start, spent := map[string]time.Duration{}, agent.Step(), step.spent
	agent.Times(before)
	seconds, err := step.measure(ctx, o, "learn/"+name, config, pool, report)
	if err != nil {
		return err
	}
	after := map[string]time.Duration{}
	agent.Times(after)
	// Phases are means, and so is the step that they are parts of.
	steps := float64(agent.Step() - start)
	whole := (step.spent - spent).Seconds() * 1e3 / steps
	phases := map[string]float64{"the rest": whole}
	for op, spent := range after {
		ms := (spent - before[op]).Seconds() * 1e3 / steps
		phases[phase(op)] += ms
		phases["the rest"] -= ms
	}
	for _, p := range slices.Sorted(maps.Keys(phases)) {
		report(Result{
			Name: "learn/" + name + "/" + strings.ReplaceAll(p, " ", "_"), Config: config, Value: phases[p], Unit: "ms",
			Limit: whole, LimitKind: "train_step", Ratio: phases[p] / whole,
		})
	}
	report(Result{
		Name: "learn/" + name + "/environment", Config: fmt.Sprintf("%s, train ratio %g", config, cfg.Learner.TrainRatio),
		Value: float64(c.BatchSize*c.BatchLength) / cfg.Learner.TrainRatio / seconds, Unit: "steps/s", LimitKind: "none",
	})
	return nil
}

// phase is the part of a train step that an operator of the graph belongs to.
func phase(op string) string {
	op = strings.TrimSuffix(op, "'")
	switch {
	case op == "imagine":
		return "imagination"
	case strings.HasPrefix(op, "dream_"):
		return "heads in imagination"
	case op == "observe":
		return "rssm"
	case op == "encode" || op == "prior" || op == "decoder" || op == "reward" || op == "continue" || op == "critic" || op == "replay_slow":
		return "heads on replay"
	}
	return "losses"
}

// resetPeakMemory lets the system measure the process's peak memory from now on.
func resetPeakMemory() error {
	return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

// peakMemory is the largest resident memory of the process, in GB.
func peakMemory() (float64, error) {
	var kb float64
	if _, err := fmt.Sscanf(field("/proc/self/status", "VmHWM", ""), "%f kB", &kb); err != nil {
		return 0, fmt.Errorf("peak memory: %w", err)
	}
	return kb * 1024 / 1e9, nil
}
