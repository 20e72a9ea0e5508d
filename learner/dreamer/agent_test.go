package dreamer

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

func train(t *testing.T, a *Agent, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		r, err := a.Train(t.Context(), newBatchOf(a.cfg, uint64(i)))
		if err != nil {
			t.Fatal(err)
		}
		if r.Skipped {
			t.Fatalf("step %d was skipped", i)
		}
	}
}

func saved(t *testing.T, a *Agent) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := a.Save(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A loaded agent goes on exactly as the saved one: parameters, optimiser,
// normaliser, slow critic and random stream.
func TestSaveResumesExactly(t *testing.T) {
	for name, c := range variants() {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, c)
			train(t, a, 0, 3)
			file := saved(t, a)
			train(t, a, 3, 6)
			b, err := New(c, 999)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if err := b.Load(bytes.NewReader(file)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(file, saved(t, b)) {
				t.Error("loading and saving changes the file")
			}
			train(t, b, 3, 6)
			if !bytes.Equal(saved(t, a), saved(t, b)) {
				t.Error("a resumed agent differs from one that was not interrupted")
			}
			if b.Step() != a.Step() {
				t.Errorf("step %d, want %d", b.Step(), a.Step())
			}
		})
	}
}

func TestLoadRefusesOtherFiles(t *testing.T) {
	c := variants()["recurrent"]
	a := newAgent(t, c)
	file := saved(t, a)
	c.Model.Deter = 12
	b := newAgent(t, c)
	if err := b.Load(bytes.NewReader(file)); err == nil {
		t.Error("an agent loaded the parameters of another shape")
	}
	for _, n := range []int{0, 7, 100, len(file) - 1} {
		if err := a.Load(bytes.NewReader(file[:n])); err == nil {
			t.Errorf("loaded a file cut to %d bytes", n)
		}
	}
	params, err := a.Params(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Load(bytes.NewReader(params)); err == nil {
		t.Error("loaded acting parameters as an agent")
	}
}

// Rounding what is broadcast touches neither training nor what is saved.
func TestParamsInBFloat16(t *testing.T) {
	c := variants()["recurrent"]
	exact := newAgent(t, c)
	c.ParamsType = model.BF16
	rounded := newAgent(t, c)
	for _, a := range []*Agent{exact, rounded} {
		train(t, a, 0, 1)
	}
	full, err := exact.Params(nil)
	if err != nil {
		t.Fatal(err)
	}
	half, err := rounded.Params(nil)
	if err != nil {
		t.Fatal(err)
	}
	if 2*len(half) > len(full)+1<<13 { // the header is as long in both
		t.Errorf("%d bytes in bfloat16, %d in float32", len(half), len(full))
	}
	policy, err := model.NewPolicy(c.Model, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := policy.Load(half); err != nil {
		t.Errorf("actors cannot load parameters in bfloat16: %v", err)
	}
	if !bytes.Equal(saved(t, exact), saved(t, rounded)) {
		t.Error("the encoding of broadcast parameters changes training")
	}
}

// The number of threads must not change a bit: partial sums belong to blocks of
// rows. The batch is large enough for several blocks.
func TestThreadsDoNotMatter(t *testing.T) {
	c := variants()["autoregressive"]
	c.BatchSize, c.ImagineLast = 20, 6
	var files [][]byte
	for _, threads := range []int{1, 2, 3, 4} {
		c.Threads = threads
		a := newAgent(t, c)
		train(t, a, 0, 2)
		files = append(files, saved(t, a))
	}
	for i, file := range files[1:] {
		if !bytes.Equal(files[0], file) {
			t.Errorf("%d threads make other parameters than one", i+2)
		}
	}
}

// What is not finite is refused or skipped, and changes nothing but the random
// stream; the next good batch is trained as ever.
func TestNonFiniteChangesNothing(t *testing.T) {
	c := variants()["recurrent"]
	a := newAgent(t, c)
	train(t, a, 0, 2)
	state := func() []byte {
		f, err := model.Decode(saved(t, a))
		if err != nil {
			t.Fatal(err)
		}
		delete(f.Metadata, "rng")
		var b bytes.Buffer
		if _, err := f.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	before := state()
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for i, spoil := range []func(p *protocol.Batch){
		func(p *protocol.Batch) { p.Reward[3] = nan },
		func(p *protocol.Batch) { p.Reward[0] = inf },
		func(p *protocol.Batch) { p.Obs[7] = nan },
		func(p *protocol.Batch) { p.Obs[len(p.Obs)-1] = -inf },
		func(p *protocol.Batch) { p.Context[2] = nan },
		func(p *protocol.Batch) { p.Context[c.Model.Deter] = 1.5 },
		func(p *protocol.Batch) { p.Context[len(p.Context)-1] = 1e9 },
		func(p *protocol.Batch) { p.Action[5] = 3 },
		func(p *protocol.Batch) { p.Length-- },
	} {
		p := newBatchOf(c, 1)
		spoil(p)
		if r, err := a.Train(t.Context(), p); err == nil && !r.Skipped {
			t.Errorf("spoilt batch %d was trained", i)
		}
		if !bytes.Equal(before, state()) {
			t.Fatalf("spoilt batch %d changed the agent", i)
		}
	}
	a.params.Module(model.Decoder).Data[0] = nan
	before = state()
	if r, err := a.Train(t.Context(), newBatchOf(c, 1)); err != nil || !r.Skipped {
		t.Errorf("a parameter that is not a number: skipped %v, error %v", r.Skipped, err)
	}
	if !bytes.Equal(before, state()) {
		t.Error("a step that is not finite changed the agent")
	}
	a.params.Module(model.Decoder).Data[0] = 0
	train(t, a, 5, 6)
}

// Acting and training are the same function: a policy acts over trials in some
// environments, then the learner gets what a replay would give it, with the
// random numbers that the policy used. Context rows, which hold deterministic,
// stochastic and policy state and previous action, and the probabilities of the
// actions must agree.
func TestActingIsTraining(t *testing.T) {
	for name, c := range variants() {
		t.Run(name, func(t *testing.T) {
			m := c.Model
			c.ImagineLast, c.ImagineLength, c.ImagineGroup = 0, 1, 1
			a := newAgent(t, c)
			p, err := model.NewPolicy(m, c.BatchSize, 5)
			if err != nil {
				t.Fatal(err)
			}
			blob, err := a.Params(nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Load(blob); err != nil {
				t.Fatal(err)
			}
			batch := newBatchOf(c, 1)
			size, length, n := c.BatchSize, c.BatchLength, m.ContextLen()
			rng := streamOf(t, p)
			draw := make([]float32, 0, length*size*m.DrawLen())
			logProb := make([]float32, size*length)
			contexts := make([]float32, length*size*n)
			const warm = 4 // steps before the sequences begin, so that a context goes in
			for step := -warm; step < length; step++ {
				obs, flags := make([]float32, size*m.Obs), make([]uint8, size)
				mask := make([]bool, size*m.Actions)
				at := func(b int) int { return b*length + max(step, 0) }
				for b := range size {
					copy(obs[b*m.Obs:], batch.Obs[at(b)*m.Obs:(at(b)+1)*m.Obs])
					copy(mask[b*m.Actions:], batch.Mask[at(b)*m.Actions:(at(b)+1)*m.Actions])
					if step >= 0 {
						flags[b] = batch.Flags[at(b)]
					}
				}
				if step >= 0 {
					p.Context(contexts[step*size*n : (step+1)*size*n])
				}
				action, lp := make([]int32, size), make([]float32, size)
				p.Act(obs, flags, mask, action, lp)
				d := make([]float32, size*m.DrawLen())
				m.Draws(d, rng)
				model.Uniforms(make([]float32, size), rng)
				if step < 0 {
					continue
				}
				draw = append(draw, d...)
				for b := range size {
					if !mask[b*m.Actions+int(action[b])] {
						t.Fatalf("action %d is masked", action[b])
					}
					batch.Action[at(b)] = uint16(action[b])
					logProb[at(b)] = lp[b]
				}
			}
			copy(batch.Context, contexts[:size*n])
			for b := range size {
				for step := range length {
					batch.Refs = append(batch.Refs, protocol.Ref{Sequence: uint32(b), Step: uint32(step), Slot: 9, Row: uint32(step)})
				}
			}
			if err := a.batch.load(c, batch); err != nil {
				t.Fatal(err)
			}
			a.batch.draw(a.cfg, a.rng)
			copy(a.batch.sequence.Draw, draw)
			if err := a.gradients(t.Context()); err != nil {
				t.Fatal(err)
			}
			refresh := a.refresh(batch)
			if len(refresh.Refs) != size*(length-1) || len(refresh.Context) != len(refresh.Refs)*n {
				t.Fatalf("%d rows and %d values refreshed, want %d rows of %d", len(refresh.Refs), len(refresh.Context), size*(length-1), n)
			}
			for i, ref := range refresh.Refs {
				if ref.Slot != 9 || ref.Row != ref.Step || ref.Step == 0 {
					t.Errorf("row %d refreshes %+v", i, ref)
				}
				if batch.Flags[int(ref.Sequence)*length+int(ref.Step)]&flagFirst != 0 {
					continue // a trial begins: what the row holds is reset
				}
				from := (int(ref.Step)*size + int(ref.Sequence)) * n
				near(t, fmt.Sprintf("context before step %d of sequence %d", ref.Step, ref.Sequence),
					refresh.Context[i*n:(i+1)*n], widen(contexts[from:from+n]), 1e-4)
			}
			// The first imagined step of each rollout is the policy on the
			// replayed state itself.
			for b := range size {
				for step := range length {
					row, at := step*size+b, b*length+step
					lp := math.Log(float64(a.imaginer.Probs[row*m.Actions+int(batch.Action[at])]))
					if math.Abs(lp-float64(logProb[at])) > 1e-4 {
						t.Errorf("sequence %d step %d: log probability %v acting, %v training", b, step, logProb[at], lp)
					}
				}
			}
		})
	}
}

// streamOf is a copy of a policy's random stream.
func streamOf(t *testing.T, p *model.Policy) *rand.Rand {
	t.Helper()
	state, err := p.Save(nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := model.Decode(state)
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(f.Metadata["rng"])
	if err != nil {
		t.Fatal(err)
	}
	var pcg rand.PCG
	if err := pcg.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	return rand.New(&pcg)
}

// Every setting is checked, and its error names it.
func TestConfigValidate(t *testing.T) {
	good := variants()["recurrent"]
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(c *Config){
		"batch_size":     func(c *Config) { c.BatchSize = 0 },
		"batch_length":   func(c *Config) { c.BatchLength = 1 },
		"horizon":        func(c *Config) { c.Horizon = 0.5 },
		"imagine_length": func(c *Config) { c.ImagineLength = 0 },
		"imagine_last":   func(c *Config) { c.ImagineLast = 1 },
		"imagine_group":  func(c *Config) { c.ImagineGroup = 0 },
		"lambda":         func(c *Config) { c.Lambda = 1.5 },
		"entropy":        func(c *Config) { c.Entropy = -1 },
		"half-lives":     func(c *Config) { c.EntropyHalfLife = -1 },
		"learning rates": func(c *Config) { c.ActorRate = 0 },
		"agc":            func(c *Config) { c.Clip = -1 },
		"loss weights":   func(c *Config) { c.FreeNats = -1 },
		"slow_rate":      func(c *Config) { c.SlowRate = 2 },
		"threads":        func(c *Config) { c.Threads = 0 },
		"params_type":    func(c *Config) { c.ParamsType = "F16" },
		"blocks":         func(c *Config) { c.Model.Blocks = 3 },
	} {
		c := good
		spoil(&c)
		err := c.Validate()
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte(name)) {
			t.Errorf("%s: error %v", name, err)
		}
		if _, other := New(c, 1); other == nil {
			t.Errorf("%s: an agent was made", name)
		}
	}
}

// A step whose context ends before the update leaves no trace, the random
// stream included, however far it came; the step after it is the one that
// would have been made.
func TestTrainGivesUp(t *testing.T) {
	c := variants()["gaussian"]
	c.Threads = 2
	a := newAgent(t, c)
	train(t, a, 0, 2)
	before := saved(t, a)
	var ends int
	for calls := 0; ; calls++ {
		ctx := &endsAfter{Context: t.Context(), calls: calls}
		_, err := a.Train(ctx, newBatchOf(c, 2))
		if err == nil {
			break
		}
		ends++
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("ended at look %d: error %v", calls, err)
		}
		if !bytes.Equal(before, saved(t, a)) {
			t.Fatalf("ended at look %d: the agent changed", calls)
		}
	}
	if operators := len(a.losses); ends < 4*operators {
		t.Errorf("Train looks %d times whether to go on", ends)
	}
	whole := newAgent(t, c)
	train(t, whole, 0, 3)
	if !bytes.Equal(saved(t, a), saved(t, whole)) {
		t.Error("a step that was begun again differs from one that was not interrupted")
	}
}

// endsAfter is a context that has ended when it is asked once more than calls
// times.
type endsAfter struct {
	context.Context
	calls int
}

func (e *endsAfter) Err() error {
	if e.calls--; e.calls < 0 {
		return context.Canceled
	}
	return nil
}

// Two agents of one seed are the same; of two seeds they differ.
func TestSeeds(t *testing.T) {
	c := variants()["recurrent"]
	make := func(seed uint64) []byte {
		a, err := New(c, seed)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		train(t, a, 0, 1)
		return saved(t, a)
	}
	if !slices.Equal(make(1), make(1)) {
		t.Error("one seed gives two agents")
	}
	if slices.Equal(make(1), make(2)) {
		t.Error("two seeds give one agent")
	}
}

// The entropy's weight stays until the policy learns, then falls by half every
// half-life, down to a tenth.
func TestEntropyFalls(t *testing.T) {
	c := Config{Entropy: 0.04, ActorStart: 100, EntropyHalfLife: 50}
	for step, want := range map[int64]float64{0: 0.04, 100: 0.04, 150: 0.02, 200: 0.01, 1000: 0.004} {
		if got := c.entropy(step); math.Abs(got-want) > 1e-12 {
			t.Errorf("after %d updates the weight is %v, want %v", step, got, want)
		}
	}
	if c.EntropyHalfLife = 0; c.entropy(1e9) != 0.04 {
		t.Error("without a half-life the weight falls")
	}
}
