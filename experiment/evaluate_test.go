package experiment_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/experiment"
)

func newTrials(t *testing.T, tasks loadbalance.Tasks, episodes, jobs int, seeds ...uint64) *experiment.Trials {
	t.Helper()
	cfg := loadbalance.DefaultConfig()
	cfg.Jobs = jobs
	trials, err := experiment.NewTrials(t.Context(), cfg, tasks, episodes, seeds)
	if err != nil {
		t.Fatal(err)
	}
	return trials
}

// Where there is one task and one episode, trials are the episodes of env score, to the last digit.
func TestTrialsOfTheFixedTask(t *testing.T) {
	seeds := []uint64{2000, 2001, 7}
	trials := newTrials(t, loadbalance.Tasks{Base: *loadbalance.ParkTask()}, 1, 300, seeds...)
	w, err := loadbalance.NewWorkload(loadbalance.DefaultWorkload(), loadbalance.DefaultRates())
	if err != nil {
		t.Fatal(err)
	}
	episodes, err := loadbalance.NewEpisodes(t.Context(), w, loadbalance.DefaultRates(), seeds, 300)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range loadbalance.PolicyNames() {
		p, err := loadbalance.NewPolicy(name, loadbalance.PolicyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want, err := episodes.Score(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		got, err := trials.Score(t.Context(), p)
		if err != nil || len(got) != 1 || got[0].Policy != name || !slices.Equal(got[0].MeanJCT, want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
	if trials.Misled(loadbalance.DefaultRates()) {
		t.Error("the fixed task has other rates than its own")
	}
}

// always sends every job to one server, as an agent and as a heuristic, and counts what it is shown.
type always struct{ server, firsts, starts int }

func (a *always) Act(_ []float32, flags []uint8, _ []bool, action []int32, _ []float32) {
	for i := range action {
		action[i] = int32(a.server)
		if flags[i]&uint8(env.First) != 0 {
			a.firsts++
		}
		if flags[i]&uint8(env.EpisodeStart) != 0 {
			a.starts++
		}
	}
}
func (a *always) Name() string                { return "always" }
func (a *always) Reset(uint64)                {}
func (a *always) Choose(*loadbalance.Sim) int { return a.server }

// An agent and a heuristic that do the same have the same scores in every episode: they meet the same servers and jobs,
// whatever the distribution draws. Memory is reset once in a trial.
func TestTrialsPairAgentAndHeuristic(t *testing.T) {
	tasks := loadbalance.Tasks{
		Base: *loadbalance.ParkTask(), Permute: true, Interval: loadbalance.Range{Lo: 40, Hi: 80}, KeepLoad: true,
		RateScale: loadbalance.Range{Lo: 0.5, Hi: 2}, IntervalDrift: loadbalance.Range{Lo: 0.5, Hi: 2},
		SizeDrift: loadbalance.Range{Lo: 0.5, Hi: 2}, Slow: [2]int{1, 3}, SlowFactor: loadbalance.Range{Lo: 0.25, Hi: 0.5},
	}
	seeds := []uint64{1, 2, 3, 4}
	trials := newTrials(t, tasks, 3, 50, seeds...)
	agent := &always{server: 4}
	played, actions, err := trials.Play(t.Context(), "agent", agent)
	if err != nil {
		t.Fatal(err)
	}
	scored, err := trials.Score(t.Context(), agent)
	if err != nil {
		t.Fatal(err)
	}
	if len(played) != 3 || len(actions) != 4 || len(actions[0]) != 150 || agent.firsts != 4 || agent.starts != 12 {
		t.Errorf("%d episodes, %d trials of %d actions, %d first steps, %d episode starts",
			len(played), len(actions), len(actions[0]), agent.firsts, agent.starts)
	}
	different := map[float64]bool{}
	for e := range played {
		if !slices.Equal(played[e].MeanJCT, scored[e].MeanJCT) {
			t.Errorf("episode %d: the agent %v, the heuristic %v", e, played[e].MeanJCT, scored[e].MeanJCT)
		}
		for _, jct := range played[e].MeanJCT {
			different[jct] = true
		}
	}
	if len(different) != 12 {
		t.Errorf("12 episodes have %d different scores", len(different))
	}
	if !trials.Misled(loadbalance.DefaultRates()) {
		t.Error("permuted rates mislead nobody")
	}
	if _, err := trials.Recording("agent", actions[0]); err == nil {
		t.Error("servers that slow were recorded")
	}
	again, err := newTrials(t, tasks, 3, 50, 3).Score(t.Context(), agent)
	if err != nil || again[2].MeanJCT[0] != scored[2].MeanJCT[2] {
		t.Errorf("the trial of seed 3 depends on the others: %v, %v", again, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := trials.Play(ended, "agent", agent); !errors.Is(err, context.Canceled) {
		t.Errorf("played after it was asked to stop: %v", err)
	}
}

// The last episode of the first trial verifies, with its own jobs, rates and drift.
func TestTrialRecordingVerifies(t *testing.T) {
	for _, tasks := range []loadbalance.Tasks{
		{Base: *loadbalance.ParkTask()},
		{Base: *loadbalance.ParkTask(), Permute: true, Interval: loadbalance.Range{Lo: 40, Hi: 80}},
		{Base: *loadbalance.ParkTask(), SizeDrift: loadbalance.Range{Lo: 1.5, Hi: 2}},
	} {
		trials := newTrials(t, tasks, 2, 60, 9, 10)
		_, actions, err := trials.Play(t.Context(), "agent", &always{server: 3})
		if err != nil {
			t.Fatal(err)
		}
		recording, err := trials.Recording("agent", actions[0])
		if err != nil {
			t.Fatal(err)
		}
		var file bytes.Buffer
		if err := recording.Write(&file); err != nil {
			t.Fatal(err)
		}
		if err := loadbalance.Verify(&file); err != nil {
			t.Error(err)
		}
	}
}

// The report of trials is that of their last episode, with the others beside it.
func TestTrialReportIsOfTheLastEpisode(t *testing.T) {
	of := func(jct ...float64) (list []experiment.Scores) {
		for _, v := range jct {
			list = append(list, experiment.Scores{Policy: "p", Seeds: []uint64{1}, MeanJCT: []float64{v}})
		}
		return list
	}
	r, err := experiment.NewTrialReport(of(40, 30, 20), of(10, 10, 10))
	if err != nil || r.RatioToLEFT.IQM != 2 || r.MeanJCT[0] != 20 || len(r.ByEpisode) != 3 || r.ByEpisode[0].IQM != 4 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err = experiment.NewTrialReport(of(40), of(10)); err != nil || r.ByEpisode != nil || r.RatioToLEFT.IQM != 4 {
		t.Errorf("%+v, %v", r, err)
	}
}
