package replay

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// benchChunk is one of Park's by the default configuration, with a recurrent
// context of so many numbers.
func benchChunk(env uint32, seq uint64, contextLen int) *protocol.Chunk {
	const steps, obs, stride = 64, 24, 16
	c := &protocol.Chunk{
		Run: "run", Actor: "a", Env: env, Seq: seq, Trial: 1, Task: "park",
		Steps: steps, ObsLen: obs, Actions: 10, Stride: stride, ContextLen: contextLen,
		Obs: make([]float32, steps*obs), Action: make([]uint16, steps), Reward: make([]float32, steps),
		Flags: make([]uint8, steps), LogProb: make([]float32, steps), Context: make([]float32, steps/stride*contextLen),
	}
	for i := range c.Obs {
		c.Obs[i] = float32(i)
	}
	return c
}

func fillStore(b *testing.B, cfg Config, steps, contextLen int) *Store {
	b.Helper()
	s, err := Open(cfg, hclog.NewNullLogger())
	if err != nil {
		b.Fatal(err)
	}
	for n := range steps / 64 {
		if _, err := s.Insert(benchChunk(uint32(n%32), uint64(n/32), contextLen)); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

func benchConfig(b *testing.B, steps int) Config {
	cfg := testConfig(b.TempDir())
	cfg.Capacity = steps
	return cfg
}

// Sampling against copying the same bytes from one place in the cache, and
// from as many random places of memory as there are sequences.
func BenchmarkSample(b *testing.B) {
	const steps = 500_000
	s := fillStore(b, benchConfig(b, steps), steps, 650)
	defer func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	}()
	for _, shape := range [][2]int{{16, 32}, {16, 64}} {
		batch := &protocol.Batch{}
		if err := s.Sample(b.Context(), batch, shape[0], shape[1]); err != nil {
			b.Fatal(err)
		}
		n := int64(4*len(batch.Obs) + 2*len(batch.Action) + 4*len(batch.Reward) + len(batch.Flags) + len(batch.Mask) + 4*len(batch.Context) + 8*len(batch.ParamVersion) + 20*len(batch.Refs))
		name := fmt.Sprintf("%dx%d", shape[0], shape[1])
		sampling := func(b *testing.B) {
			b.SetBytes(n)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Sample(b.Context(), batch, shape[0], shape[1]); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.Run(name+"/sample", sampling)
		b.Run(name+"/copy", func(b *testing.B) {
			b.SetBytes(n)
			dst, src := make([]byte, n), make([]byte, n)
			for b.Loop() {
				copy(dst, src)
			}
		})
		b.Run(name+"/copy-from-anywhere", func(b *testing.B) {
			b.SetBytes(n)
			dst, src := make([]byte, n), make([]byte, 128<<20)
			piece, r := int(n)/shape[0], rand.New(rand.NewPCG(1, 1))
			for b.Loop() {
				for i := range shape[0] {
					copy(dst[i*piece:(i+1)*piece], src[r.IntN(len(src)-piece):])
				}
			}
		})
	}
}

func BenchmarkInsert(b *testing.B) {
	const steps = 500_000
	cfg := benchConfig(b, steps)
	s := fillStore(b, cfg, 0, 0)
	c := benchChunk(0, 0, 650)
	b.SetBytes(int64(len(appendRecord(nil, c, 0, 0))))
	for b.Loop() {
		if _, err := s.Insert(c); err != nil {
			b.Fatal(err)
		}
		c.Seq++
	}
	b.StopTimer()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// Restarting with five million steps.
func BenchmarkOpen(b *testing.B) {
	const steps = 5_000_000
	cfg := benchConfig(b, steps)
	s := fillStore(b, cfg, steps, 160)
	st := s.Stats()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(st.Bytes)
	for b.Loop() {
		s, err := Open(cfg, hclog.NewNullLogger())
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(st.BytesPerStep, "B/step")
	b.ReportMetric(float64(st.IndexBytes)/float64(st.Steps), "indexB/step")
}
