package loadbalance

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// Recording is an episode as what determines it: jobs, servers and actions.
// Write replays it into the format that Verify reads.
type Recording struct {
	Policy  string // who acted, for the reader
	Rates   []float64
	ObsHigh float64 // 0 is DefaultObsHigh
	Actions []int   // one for each job

	// Jobs, or, where nil, those of a ParkSource, which Verify then draws again.
	Jobs                   JobList
	Seed                   uint32
	Interval, Shape, Scale float64
}

// parkCommit is the version of Park whose traces the simulator reproduces.
const parkCommit = "08f8f7f"

// dtype is the type of our observations, in numpy's terms.
const dtype = "float64"

// Write replays the episode and writes one JSON object a line: the header, the
// jobs, each step and the summary. It is an error if the actions do not bring
// the episode to its end.
func (r *Recording) Write(w io.Writer) error {
	header := headerLine{
		Type: "header", Env: parkEnv, Commit: parkCommit, Policy: r.Policy, ResetDtype: dtype,
		NumServers: len(r.Rates), Rates: r.Rates, Jobs: len(r.Actions), ObsHigh: r.ObsHigh,
	}
	if header.ObsHigh == 0 {
		header.ObsHigh = DefaultObsHigh
	}
	jobs := r.Jobs
	if jobs == nil {
		header.Seed, header.Interval, header.Shape, header.Scale = &r.Seed, r.Interval, r.Shape, r.Scale
		var err error
		jobs, err = Record(NewParkSource(r.Seed, r.Interval, r.Shape, r.Scale), len(r.Actions))
		if err != nil {
			return err
		}
	}
	if len(jobs) != len(r.Actions) {
		return fmt.Errorf("loadbalance: recording of %d actions for %d jobs", len(r.Actions), len(jobs))
	}
	list := jobsLine{Type: "jobs"}
	for _, j := range jobs {
		list.Gap = append(list.Gap, j.Gap)
		list.Size = append(list.Size, j.Size)
	}

	v := verifier{obs: make([]float64, len(r.Rates)+1)}
	v.sim.ObsHigh = header.ObsHigh
	if err := v.sim.Reset(r.Rates, len(jobs), &jobs); err != nil {
		return err
	}
	v.clips = v.sim.Observe(v.obs)
	now := float64(v.sim.Time())
	header.ResetObs, header.ResetTime = v.obs, &now

	buffered := bufio.NewWriter(w)
	out := json.NewEncoder(buffered)
	write := func(line any) error {
		if err := out.Encode(line); err != nil {
			return fmt.Errorf("loadbalance: writing a recording: %w", err)
		}
		return nil
	}
	if err := write(&header); err != nil {
		return err
	}
	if err := write(&list); err != nil {
		return err
	}
	for _, a := range r.Actions {
		reward, _, done, err := v.sim.Step(a)
		if err != nil {
			return err
		}
		v.clips += v.sim.Observe(v.obs)
		now := float64(v.sim.Time())
		if err := write(&stepLine{Type: "step", Action: &a, Obs: v.obs, Reward: &reward, Done: &done, Time: &now}); err != nil {
			return err
		}
	}
	summary := v.summary(len(r.Actions))
	summary.Dtypes = []string{dtype}
	if err := write(&summary); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("loadbalance: writing a recording: %w", err)
	}
	return nil
}
