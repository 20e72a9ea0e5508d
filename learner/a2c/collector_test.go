package a2c

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
)

var testShape = protocol.BatchShape{Size: 3, Length: 4, ObsLen: 2, Actions: 3, ContextLen: 1}

// chunkOf is a rollout whose values tell it from others.
func chunkOf(env uint32, seq, version uint64, steps int) *protocol.Chunk {
	v := float32(10*env) + float32(seq)
	c := &protocol.Chunk{
		Run: "park", Actor: "a", Env: env, Seq: seq, Trial: 1, ParamVersion: version, Steps: steps,
		ObsLen: 2, Actions: 3, Stride: steps, ContextLen: 1, Context: []float32{v},
	}
	for t := range steps {
		c.Obs = append(c.Obs, v, float32(t))
		c.Action = append(c.Action, 1)
		c.Reward = append(c.Reward, v)
		c.Flags = append(c.Flags, 0)
		c.LogProb = append(c.LogProb, -1)
	}
	return c
}

func newCollector(t *testing.T) *Collector {
	return NewCollector(testShape, nil, hclog.NewNullLogger())
}

func take(t *testing.T, c *Collector, chunks ...*protocol.Chunk) {
	t.Helper()
	for _, k := range chunks {
		if err := k.Validate(); err != nil {
			t.Fatal(err)
		}
		if err := c.take(k); err != nil {
			t.Fatal(err)
		}
	}
}

// A batch has rollouts of the version published last, each once. All others are
// counted by why they are of no use.
func TestCollectorTakesTheNewestVersionOnly(t *testing.T) {
	c := newCollector(t)
	take(t, c, chunkOf(0, 0, 1, 4)) // before anything was published
	c.Published(1)
	take(t, c, chunkOf(0, 1, 1, 4), chunkOf(1, 0, 0, 4), chunkOf(1, 1, 2, 4), chunkOf(1, 2, 1, 3), chunkOf(0, 1, 1, 4), chunkOf(2, 0, 1, 4))
	if c.Full() {
		t.Fatal("two rollouts are a batch of three")
	}
	take(t, c, chunkOf(1, 3, 1, 4), chunkOf(3, 0, 1, 4))
	var b protocol.Batch
	if err := c.Sample(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	take(t, c, chunkOf(4, 0, 1, 4)) // while the learner trains
	if want := []float32{1, 20, 13}; !slices.Equal(b.Context, want) || !slices.Equal(b.ParamVersion, []uint64{1, 1, 1}) {
		t.Errorf("rollouts %v of versions %v, want %v of version 1", b.Context, b.ParamVersion, want)
	}
	if b.Size != 3 || b.Length != 4 || b.Obs[2*4*2+6] != 13 || b.Obs[7] != 3 || b.Reward[4] != 20 || slices.Contains(b.Mask, false) {
		t.Errorf("batch %+v", b)
	}
	want := Collected{Steps: 35, Stale: 3, Partial: 1, Surplus: 2, Repeated: 1, Version: 1}
	if got := c.Stats(); got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}

	// What was gathered of the version before is dropped with it.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Sample(ended, &b); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v of a context that has ended", err)
	}
	take(t, c, chunkOf(5, 0, 1, 4), chunkOf(6, 0, 1, 4))
	c.Published(2)
	take(t, c, chunkOf(5, 1, 2, 4), chunkOf(7, 0, 1, 4))
	if got := c.Stats(); got.Stale != 4 || c.Full() {
		t.Errorf("counts %+v, full %v after another version", got, c.Full())
	}
}

// An update that came to nothing is followed by another batch of the same
// version, and not by what came too late for the first.
func TestCollectorGathersAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector(t)
		c.Published(1)
		take(t, c, chunkOf(0, 0, 1, 4), chunkOf(1, 0, 1, 4), chunkOf(2, 0, 1, 4))
		var b protocol.Batch
		if err := c.Sample(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		take(t, c, chunkOf(3, 0, 1, 4))
		done := make(chan error)
		go func() { done <- c.Sample(t.Context(), &b) }()
		time.Sleep(3 * patience) // it waits, and says so
		take(t, c, chunkOf(0, 1, 1, 4), chunkOf(1, 1, 1, 4), chunkOf(2, 1, 1, 4))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if want := []float32{1, 11, 21}; !slices.Equal(b.Context, want) {
			t.Errorf("rollouts %v, want %v", b.Context, want)
		}
	})
}

func TestCollectorRefusesOtherShapes(t *testing.T) {
	c := newCollector(t)
	k := chunkOf(0, 0, 1, 4)
	k.ContextLen, k.Context = 2, append(k.Context, 1)
	if err := c.take(k); !errors.Is(err, ErrShape) || protocol.Reason(err) != "corrupt" {
		t.Errorf("error %v for a chunk of another shape", err)
	}
	if got := c.Stats(); got.Steps != 0 {
		t.Errorf("%d steps of it are counted", got.Steps)
	}
}

func TestCollectorResumes(t *testing.T) {
	c := newCollector(t)
	c.Published(5)
	take(t, c, chunkOf(0, 0, 5, 4), chunkOf(0, 1, 4, 4))
	var b bytes.Buffer
	if err := c.Save(&b); err != nil {
		t.Fatal(err)
	}
	again := newCollector(t)
	if err := again.Load(&b); err != nil {
		t.Fatal(err)
	}
	if again.Stats() != c.Stats() {
		t.Errorf("counts %+v, want %+v", again.Stats(), c.Stats())
	}
	take(t, again, chunkOf(0, 2, 5, 4), chunkOf(1, 0, 5, 4), chunkOf(2, 0, 5, 4))
	if !again.Full() {
		t.Error("rollouts of the version that was saved are not taken")
	}
	if err := again.Load(bytes.NewReader([]byte("{"))); err == nil {
		t.Error("damaged counts were loaded")
	}
}
