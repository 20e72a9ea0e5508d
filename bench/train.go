package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dreamfleet/dreamfleet/learner/dreamer"
)

// trainLength is how long all roles run together in each round.
const trainLength = 20 * time.Second

// runTrain measures updates a second of the preset small while actors act, the
// bus carries and the replay stores, against those of the learner alone.
func runTrain(ctx context.Context, o *Options, report func(Result)) (err error) {
	algorithm, c, err := presetConfig("small", o.Threads)
	if err != nil {
		return err
	}
	c.Budget.Duration, c.Evaluate.Every, c.Evaluate.Seeds, c.Evaluate.Jobs = trainLength, 0, "1", 2
	round := 0
	together := func() (float64, error) {
		round++
		dir := filepath.Join(o.Dir, fmt.Sprintf("train-%d", round))
		defer os.RemoveAll(dir)
		c.Run = fmt.Sprintf("bench-%d", round)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return 0, err
		}
		if err := o.Train(ctx, c, dir); err != nil {
			return 0, err
		}
		return updateRate(filepath.Join(dir, "metrics.jsonl"))
	}
	agent, err := dreamer.New(algorithm, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, agent.Close()) }()
	step, err := newStepper(agent, algorithm)
	if err != nil {
		return err
	}
	alone := func() (float64, error) { return perSecond(trainLength/4, 1, step.step) }
	r, err := o.rounds(ctx, together, alone)
	if err != nil {
		return err
	}
	r.Name, r.Unit, r.LimitKind = "train", "updates/s", "learner_alone"
	r.Config = fmt.Sprintf("preset small, train ratio %g, all roles in one process, %d threads", c.Learner.TrainRatio, o.Threads)
	report(r)
	return nil
}

// updateRate is the median of the rates in a run's metrics, those of the
// first updates, where the replay is being filled, left out.
func updateRate(path string) (float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var rates []float64
	for s := bufio.NewScanner(f); s.Scan(); {
		var row map[string]any
		if err := json.Unmarshal(s.Bytes(), &row); err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		if rate, ok := row["learner/updates_per_second"].(float64); ok {
			rates = append(rates, rate)
		}
	}
	if len(rates) < 3 {
		return 0, fmt.Errorf("%s: %d rows with a rate of updates, 3 are needed", path, len(rates))
	}
	return median(rates[1:]), nil
}
