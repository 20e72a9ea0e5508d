package replay

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/dreamfleet/dreamfleet/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testObs     = 3
	testActions = 10
	testStride  = 4
	testContext = 5
	testTrial   = 50 // steps
)

// testChunk is chunk seq of a stream whose chunks all have so many steps. Every
// value tells stream and step: obs[0] and reward the step, obs[1] and
// context[1] the environment, context[0] the step of the row.
func testChunk(actor string, env uint32, seq uint64, steps int) *protocol.Chunk {
	first := int(seq) * steps
	c := &protocol.Chunk{
		Run: "run", Actor: actor, Env: env, Seq: seq, Trial: uint64(first/testTrial) + 1, ParamVersion: seq, Task: "task",
		Steps: steps, ObsLen: testObs, Actions: testActions, Stride: testStride, ContextLen: testContext,
	}
	mask := make([]bool, testActions)
	for t := first; t < first+steps; t++ {
		c.Obs = append(c.Obs, float32(t), float32(env), 7)
		c.Reward = append(c.Reward, float32(t))
		c.LogProb = append(c.LogProb, -1)
		var flags uint8
		action := uint16(t % testActions)
		switch t % testTrial {
		case 0:
			flags = protocol.FlagFirst | protocol.FlagEpisodeStart
		case testTrial - 1:
			flags, action = protocol.FlagLast|protocol.FlagTerminal, 0
		}
		c.Flags = append(c.Flags, flags)
		c.Action = append(c.Action, action)
		if env%2 == 1 { // odd environments forbid one action
			for a := range mask {
				mask[a] = a != (t+1)%testActions
			}
			bits := make([]uint8, protocol.MaskLen(testActions))
			protocol.PackMask(bits, mask)
			c.Mask = append(c.Mask, bits...)
		}
		if (t-first)%testStride == 0 {
			c.Context = append(c.Context, float32(t), float32(env), 0, 0, 1)
		}
	}
	return c
}

// checkBatch checks every value of a batch of testChunk's streams, their
// chunks having so many steps, and the refs.
func checkBatch(t *testing.T, b *protocol.Batch, steps int) {
	t.Helper()
	if err := b.Validate(); err != nil {
		t.Fatal(err)
	}
	want := 0
	for i := range b.Size {
		start := int(b.Reward[i*b.Length])
		env := uint32(b.Obs[i*b.Length*testObs+1])
		if start%steps%testStride != 0 {
			t.Fatalf("sequence %d starts at step %d, which has no context", i, start)
		}
		if c := b.Context[i*testContext:]; c[0] != float32(start) || c[1] != float32(env) {
			t.Fatalf("sequence %d from step %d of environment %d has the context of step %v of %v", i, start, env, c[0], c[1])
		}
		if b.ParamVersion[i] != uint64(start/steps) {
			t.Fatalf("sequence %d from step %d has parameters %d", i, start, b.ParamVersion[i])
		}
		var c *protocol.Chunk
		for j := range b.Length {
			at, step := i*b.Length+j, start+j
			k := step % steps
			if c == nil || k == 0 {
				c = testChunk("a", env, uint64(step/steps), steps)
			}
			for d := range testObs {
				if b.Obs[at*testObs+d] != c.Obs[k*testObs+d] {
					t.Fatalf("sequence %d step %d: obs %v, want those of step %d", i, j, b.Obs[at*testObs:(at+1)*testObs], step)
				}
			}
			if b.Reward[at] != c.Reward[k] || b.Flags[at] != c.Flags[k] || b.Action[at] != c.Action[k] {
				t.Fatalf("sequence %d step %d: reward %v, flags %v, action %v, want those of step %d", i, j, b.Reward[at], b.Flags[at], b.Action[at], step)
			}
			for a := range testActions {
				if allowed := env%2 == 0 || a != (step+1)%testActions; b.Mask[at*testActions+a] != allowed {
					t.Fatalf("sequence %d step %d: mask of action %d is %v", i, j, a, !allowed)
				}
			}
			if k%testStride == 0 {
				ref := b.Refs[want]
				if int(ref.Sequence) != i || int(ref.Step) != j || int(ref.Row) != k/testStride {
					t.Fatalf("ref %d is %+v, want sequence %d step %d row %d", want, ref, i, j, k/testStride)
				}
				want++
			}
		}
	}
	if len(b.Refs) != want {
		t.Fatalf("%d refs, want %d", len(b.Refs), want)
	}
}

// testConfig is a store whose limiter never stands in the way.
func testConfig(dir string) Config {
	return Config{
		Dir: dir, Run: "run", Capacity: 10_000, Mix: Mix{Uniform: 1},
		Limiter: LimiterConfig{Ratio: 1e6, MinSteps: 1, Budget: 1 << 30}, Batch: 4, Length: 16, Seed: 1,
	}
}

func openStore(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func closeStore(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func insert(t *testing.T, s *Store, chunks ...*protocol.Chunk) {
	t.Helper()
	for _, c := range chunks {
		if inserted, err := s.Insert(c); err != nil || !inserted {
			t.Fatalf("insert %s: %v, %v", c.MessageID(), inserted, err)
		}
	}
}

func sample(t *testing.T, s *Store, size, length int) *protocol.Batch {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b := &protocol.Batch{}
	if err := s.Sample(ctx, b, size, length); err != nil {
		t.Fatal(err)
	}
	return b
}

func segmentFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// eventually polls until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}
