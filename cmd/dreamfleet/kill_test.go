//go:build !race

// Processes that are killed share no memory with the test: the race detector would only slow them down.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/chaos"
	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/replay"
)

// checkpointNumber is that of a run's newest checkpoint, 0 before the first.
func checkpointNumber(dir string) int64 {
	ckpt, err := learner.Latest(filepath.Join(dir, checkpointDir), hclog.NewNullLogger())
	if err != nil {
		return 0
	}
	return ckpt.Manifest.Number
}

// A lockstep run that was killed five times, wherever it was, ends in the same bytes as one that was not.
func TestLockstepSurvivesKills(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	args := func(dir string) []string {
		return append([]string{"train", "--run", dir, "--lockstep", "--seed", "7", "--set", "run=same", "--set", "evaluate.every=0",
			"--duration", "0", "--steps", "3000", "--set", "learner.checkpoint_every=15"}, tiny...)
	}
	base := t.TempDir()
	whole, killed := filepath.Join(base, "whole"), filepath.Join(base, "killed")
	if code, _, stderr := execute(t, args(whole)...); code != exitOK {
		t.Fatalf("train ended with %d: %s", code, stderr)
	}
	for range 5 {
		p := startProcess(t, args(killed)...)
		until := checkpointNumber(killed) + 1 + rng.Int64N(3)
		waitFor(t, func() bool { return checkpointNumber(killed) >= until })
		<-time.After(time.Duration(rng.IntN(100_000)) * time.Microsecond) // anywhere before the next one
		p.signal(t, syscall.SIGKILL)
		if code := p.end(t); code != -1 {
			t.Fatalf("it has ended by itself with %d before it was killed: %s", code, &p.out)
		}
	}
	if p := startProcess(t, args(killed)...); p.end(t) != exitOK {
		t.Fatal(&p.out)
	}
	want, got := newest(t, whole), newest(t, killed)
	if want.Manifest.Counters != got.Manifest.Counters {
		t.Errorf("%+v, without kills %+v", got.Manifest.Counters, want.Manifest.Counters)
	}
	same := func(a, b, name string) {
		t.Helper()
		x, err := os.ReadFile(filepath.Join(a, name))
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(filepath.Join(b, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x, y) {
			t.Errorf("%s is another one after kills", name)
		}
	}
	for _, f := range want.Manifest.Files { // learner and actors
		if f.Name != "replay.state" { // it says where in files chunks lie, and each process begins a new one
			same(want.Dir, got.Dir, f.Name)
		}
	}
	same(whole, killed, monitor.MetricsFile)
	a, b := openSaved(t, whole, want.Dir), openSaved(t, killed, got.Dir)
	if !reflect.DeepEqual(slices.Collect(a.Each), slices.Collect(b.Each)) {
		t.Error("the replay holds something else after kills")
	}
	var x, y protocol.Batch
	for range 5 { // samplers, limiter and random stream
		if err := errors.Join(a.Sample(t.Context(), &x, 4, 8), b.Sample(t.Context(), &y, 4, 8)); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(x, y) {
			t.Error("the replay is sampled in another way after kills")
		}
	}
	if x, y := a.Stats(), b.Stats(); x.Inserted != y.Inserted || x.Sampled != y.Sampled || x.Balance != y.Balance {
		t.Errorf("the replay's limiter is at %+v, without kills %+v", y, x)
	}
}

// A run that was killed goes on with the parameters, optimiser, normalisers and random stream of its last
// checkpoint, and with all that its replay held.
func TestKilledTrainingGoesOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	args := append([]string{"train", "--run", dir, "--duration", "0", "--set", "evaluate.every=0", "--set", "learner.checkpoint_every=100",
		"--set", "learner.keep_checkpoints=1000", "--set", "replay.capacity=1000000"}, tiny...)
	p := startProcess(t, append(args, "--steps", "0")...)
	state := filepath.Join(dir, replayDir, "replay.state")
	waitFor(t, func() bool { _, err := os.Stat(state); return err == nil && checkpointNumber(dir) >= 3 })
	p.signal(t, syscall.SIGKILL)
	p.end(t)
	before := stats(t, dir)
	last := newest(t, dir)
	if before.Inserted == 0 || before.Sampled == 0 || last.Manifest.Clean {
		t.Fatalf("nothing to go on with: %+v, %+v", before, last.Manifest)
	}

	if p := startProcess(t, append(args, "--steps", "1")...); p.end(t) != exitOK {
		t.Fatal(&p.out)
	}
	resumed, err := learner.Open(nextFolder(last))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := resumed.Manifest.Counters, last.Manifest.Counters; got.Updates != want.Updates || got.ParamVersion <= want.ParamVersion {
		t.Errorf("it went on with %+v from %+v", got, want)
	}
	x, err := os.ReadFile(filepath.Join(last.Dir, learner.StateFile))
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(filepath.Join(resumed.Dir, learner.StateFile))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Error("it went on with another state than that of its last checkpoint")
	}
	if after := stats(t, dir); after.Inserted < before.Inserted || after.Chunks < before.Chunks || after.Sampled < before.Sampled || after.DamagedRecords > 0 {
		t.Errorf("the replay has %+v, before it was killed %+v", after, before)
	}
}

// nextFolder is where the checkpoint after one lies.
func nextFolder(c *learner.Checkpoint) string {
	return filepath.Join(filepath.Dir(c.Dir), fmt.Sprintf("%08d", c.Manifest.Number+1))
}

// stats are those of a run's replay, which nobody uses.
func stats(t *testing.T, dir string) replay.Stats {
	t.Helper()
	store := openSaved(t, dir, "")
	defer store.Close() // the next process wants the folder
	return store.Stats()
}

// openSaved reads a run's replay as its state in a folder tells; "" is its own.
func openSaved(t *testing.T, dir, state string) *replay.Store {
	t.Helper()
	cfg, err := savedConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	of := replayConfig(cfg, dir, state)
	of.ReadOnly = true
	store, err := replay.Open(of, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// A run whose disk is full ends, says so, and goes on with what it had once there is room.
func TestTrainOnAFullDisk(t *testing.T) {
	disk := chaos.SmallDisk(t, 256<<20)
	dir := filepath.Join(disk, "run")
	args := append([]string{"train", "--run", dir, "--duration", "0", "--set", "evaluate.every=0", "--set", "learner.checkpoint_every=100",
		"--set", "bus.store_bytes=16777216"}, tiny...)
	p := startProcess(t, append(args, "--steps", "0")...)
	waitFor(t, func() bool { return checkpointNumber(dir) >= 2 })
	free := chaos.Fill(t, disk)
	if code := p.end(t); code != exitFailure || !strings.Contains(p.out.String(), "no space left on device") {
		t.Fatalf("it ended with %d: %s", code, &p.out)
	}
	before := newest(t, dir).Manifest.Updates
	free()
	if p := startProcess(t, append(args, "--steps", "4000")...); p.end(t) != exitOK {
		t.Fatal(&p.out)
	}
	if after := newest(t, dir).Manifest.Updates; after < before {
		t.Errorf("it went on to %d updates from %d", after, before)
	}
	if s := stats(t, dir); s.Inserted < 4000 || s.DamagedRecords > 0 {
		t.Errorf("the replay has %+v", s)
	}
}
