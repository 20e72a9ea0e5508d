package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// tinyA2C turns tiny into a run of A2C, in its recurrent form.
var tinyA2C = []string{
	"--set", "learner.algorithm=a2c", "--set", "learner.batch_size=8", "--set", "learner.batch_length=16",
	"--set", "learner.publish_every=1", "--set", "learner.checkpoint_every=10", "--set", "budget.duration=0s",
}

func TestA2CTrainsAndResumes(t *testing.T) {
	for _, policy := range []string{"gru", "mlp"} {
		t.Run(policy, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			args := append(tinyA2C, "--set", "model.policy="+policy)
			out := trainTiny(t, dir, append(args, "--steps", "3000")...)
			for _, want := range []string{"the budget of 3000 environment steps is used up", policyName(protocol.A2C, true), policyName(protocol.A2C, false)} {
				if !strings.Contains(out, want) {
					t.Errorf("the report lacks %q:\n%s", want, out)
				}
			}
			first := newest(t, dir).Manifest.Updates
			trainTiny(t, dir, append(args, "--steps", "6000")...)
			if again := newest(t, dir).Manifest.Updates; first == 0 || again <= first {
				t.Errorf("%d updates after resuming, %d before", again, first)
			}
			scores, err := monitor.ReadScores(filepath.Join(dir, scoresFile))
			if err != nil || len(scores) != 2 || scores[0].Method != policyName(protocol.A2C, true) {
				t.Fatalf("scores %+v, %v", scores, err)
			}
			steps, updates := scores[0].Xs[len(scores[0].Xs)-1], float64(newest(t, dir).Manifest.Updates)
			if updates*8*16 > steps {
				t.Errorf("%v updates of %v steps: some were trained on twice", updates, steps)
			}
			metrics, err := monitor.ReadMetrics(dir)
			if err != nil {
				t.Fatal(err)
			}
			var seen bool
			for _, m := range metrics {
				if v, ok := m.Values["learner/staleness"]; ok {
					seen = true
					if v != 0 {
						t.Errorf("staleness %v of on-policy data", v)
					}
					if _, ok := m.Values["collector/stale"]; !ok {
						t.Error("stale chunks are not counted")
					}
				}
			}
			if !seen {
				t.Error("no metrics of updates")
			}
			if _, err := os.Stat(filepath.Join(dir, replayDir)); err == nil {
				t.Error("there is a replay")
			}
			if code, _, stderr := execute(t, "evaluate", "--run", dir, "--imagination"); code != exitUsage || !strings.Contains(stderr, "a2c has no world model") {
				t.Errorf("the imagination of A2C: exit %d, %q", code, stderr)
			}
			if code, out, stderr := execute(t, "evaluate", "--run", dir, "--jobs", "40", "--json"); code != exitOK || !strings.Contains(out, policyName(protocol.A2C, true)) {
				t.Errorf("evaluate ended with %d: %s %s", code, out, stderr)
			}
			code, _, stderr := execute(t, "learner", "dump", "--run", dir, "--out", filepath.Join(dir, "step.safetensors"))
			if code != exitUsage || !strings.Contains(stderr, "learner.algorithm") {
				t.Errorf("dump ended with %d: %s", code, stderr)
			}
		})
	}
}

func TestA2CLockstepRepeatsAndResumes(t *testing.T) {
	run := func(dir string, more ...string) {
		args := append(tinyA2C, "--lockstep", "--seed", "7", "--set", "run=same", "--set", "evaluate.every=0")
		trainTiny(t, dir, append(args, more...)...)
	}
	base := t.TempDir()
	one, two, three := filepath.Join(base, "one"), filepath.Join(base, "two"), filepath.Join(base, "three")
	run(one, "--steps", "4000")
	run(two, "--steps", "4000")
	run(three, "--steps", "2000")
	run(three, "--steps", "4000")
	content := func(dir, name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, other := range []string{two, three} {
		a, b := newest(t, one), newest(t, other)
		if a.Manifest.Updates != b.Manifest.Updates || a.Manifest.Updates < 20 {
			t.Fatalf("%d and %d updates", a.Manifest.Updates, b.Manifest.Updates)
		}
		for _, f := range a.Manifest.Files {
			if !bytes.Equal(content(a.Dir, f.Name), content(b.Dir, f.Name)) {
				t.Errorf("%s of %s differs", f.Name, filepath.Base(other))
			}
		}
		if !bytes.Equal(content(one, "metrics.jsonl"), content(other, "metrics.jsonl")) {
			t.Errorf("metrics of %s differ", filepath.Base(other))
		}
	}
}

// The learner takes the trajectories of actors elsewhere itself; a replay says that it is not
// needed, and more actors than a batch needs do no harm.
func TestA2CRolesOverTCP(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "fleet")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	server := startNATS(ctx, t, &wg, base)
	for _, name := range []string{"one", "two"} {
		wg.Go(func() {
			var stderr said
			if code := run(ctx, []string{"actor", "--run", "fleet", "--name", name, "--nats", server}, &stderr, &stderr); code != exitOK {
				t.Errorf("actor %s ended with %d: %s", name, code, &stderr)
			}
		})
	}
	learn := append([]string{"learner", "--nats", server, "--run", dir, "--log-level", "error"}, append(tiny, tinyA2C...)...)
	code, out, stderr := execute(t, append(learn, "--steps", "6000")...)
	if code != exitOK || !strings.Contains(out, policyName(protocol.A2C, true)) {
		t.Fatalf("the learner ended with %d: %s\n%s", code, stderr, out)
	}
	if newest(t, dir).Manifest.Updates == 0 {
		t.Error("nothing was trained")
	}
	code, _, stderr = execute(t, "replay", "--nats", server, "--run", filepath.Join(base, "store", "fleet"))
	if code != exitUsage || !strings.Contains(stderr, "needs no replay") {
		t.Errorf("a replay of the run ended with %d: %s", code, stderr)
	}
}
