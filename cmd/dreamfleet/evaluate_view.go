package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/view"
)

// witness notes what the policy observed and thought in the first trials.
type witness struct {
	policy
	obsLen, actions, trials int
	frames                  [][]view.Frame // of each trial: Obs, Probs and Flags
}

// Act acts and takes notes.
func (w *witness) Act(obs []float32, flags []uint8, mask []bool, action []int32, logProb []float32) {
	w.policy.Act(obs, flags, mask, action, logProb)
	if w.frames == nil {
		w.frames = make([][]view.Frame, w.trials)
	}
	row := func(x []float32, i, n int) []float32 { return slices.Clone(x[i*n : (i+1)*n]) }
	for i := range w.frames {
		w.frames[i] = append(w.frames[i], view.Frame{Obs: row(obs, i, w.obsLen), Probs: row(w.Probs(), i, w.actions), Flags: flags[i]})
	}
}

// recordView plays the trials and keeps the last episode of the first one in the run folder, with
// the forecasts of the checkpoint's world model, if it has one.
func (e *evaluator) recordView(ctx context.Context, blob []byte, greedy bool, dir, name string, out io.Writer, log hclog.Logger) error {
	if !protocol.ValidName(name) {
		return fmt.Errorf("%w: --view is %q: a name has 1 to %d of the characters A-Z a-z 0-9 _ -", protocol.ErrConfig, name, protocol.MaxName)
	}
	spec := e.world.spec
	notes := &witness{obsLen: spec.Obs, actions: spec.Actions, trials: 1}
	scores, actions, err := e.play(ctx, blob, greedy, notes)
	if err != nil {
		return err
	}
	last := scores[len(scores)-1]
	ckpt, err := learner.Latest(filepath.Join(dir, checkpointDir), log)
	if err != nil {
		return err
	}
	clip := &view.Clip{
		Format: view.Format, Run: e.cfg.Run, Actor: last.Policy, Source: "recorded", Task: e.trials.Task(),
		Version: ckpt.Manifest.ParamVersion, Servers: spec.Actions, Scale: e.cfg.Env.LoadScales[0],
		MeanJCT: last.MeanJCT[0], Ratio: last.MeanJCT[0] / e.left[len(e.left)-1].MeanJCT[0],
	}
	left, err := loadbalance.NewPolicy("left", loadbalance.PolicyOptions{})
	if err != nil {
		return err
	}
	index, err := loadbalance.NewPolicy("index", loadbalance.PolicyOptions{})
	if err != nil {
		return err
	}
	err = e.trials.Last(actions[0], func(env *loadbalance.Env, action, step int) {
		f, noted := view.Shoot(env.Sim(), left, index), notes.frames[0][step]
		f.Action, f.Obs, f.Probs, f.Flags = action, noted.Obs, noted.Probs, noted.Flags
		clip.Frames = append(clip.Frames, f)
	})
	if err == nil {
		err = clip.Check()
	}
	if err != nil {
		return err
	}
	if !onPolicy(e.cfg) {
		params, err := checkpointParams(worldModel(e.cfg, e.world), ckpt)
		if err != nil {
			return err
		}
		forecaster, err := view.NewForecaster(params)
		if err != nil {
			return err
		}
		defer forecaster.Close()
		if err := forecaster.Add(clip); err != nil {
			return err
		}
	}
	folder := filepath.Join(dir, viewsDir)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("write view: %w", err)
	}
	path := filepath.Join(folder, name+view.Extension)
	if err := view.WriteFile(path, clip); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: %d steps, %.3f x LEFT on the same jobs\n", path, len(clip.Frames), clip.Ratio)
	return err
}
