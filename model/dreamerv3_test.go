package model

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// Tests of single equations of DreamerV3 (arXiv 2301.04104), by the section of
// the paper that has them. Formulas are written out again in float64.

func testConfig() Config {
	return Config{
		Obs: 5, Actions: 3, Deter: 8, Hidden: 6, Stoch: 3, Classes: 4, Blocks: 2,
		Units: 7, Layers: 2, Bins: 255, Recurrent: true, PolicyUnits: 5, Unimix: 0.01,
	}
}

func newRand() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func normals(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

func closeTo(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance*max(1, math.Abs(want))) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// Robust predictions: symlog(x) = sign(x)·ln(|x|+1), symexp its inverse.
func TestRobustPredictionsSymlog(t *testing.T) {
	for _, x := range []float64{0, 1e-8, 0.3, 1, 17, 5e5, 1e9} {
		for _, x := range []float64{x, -x} {
			want := math.Log(math.Abs(x) + 1)
			if x < 0 {
				want = -want
			}
			closeTo(t, "symlog", Symlog(x), want, 1e-7)
			if got := Symexp(Symlog(x)); math.Abs(got-x) > 1e-12*math.Abs(x) {
				t.Errorf("symexp(symlog(%v)) = %v", x, got)
			}
			dst := make([]float32, 1)
			SymlogTo(dst, []float32{float32(x)})
			closeTo(t, "SymlogTo", float64(dst[0]), want, 1e-6)
		}
	}
}

// Robust predictions: symexp-spaced bins, symmetric around one at zero.
func TestRobustPredictionsTwoHotBins(t *testing.T) {
	for _, n := range []int{3, 41, 255} {
		d := NewTwoHot(n)
		if !slices.IsSorted(d.Bins) || d.Bins[n/2] != 0 {
			t.Fatalf("%d bins: %v", n, d.Bins)
		}
		for i, b := range d.Bins {
			if b != -d.Bins[n-1-i] {
				t.Errorf("bin %d of %d is %v, its mirror image %v", i, n, b, d.Bins[n-1-i])
			}
			closeTo(t, "bin", float64(b), Symexp(-20+40*float64(i)/float64(n-1)), 1e-6)
		}
	}
}

// Robust predictions: the two-hot encoding is its value's inverse, neighbours
// share the weight, and values out of range go to the outermost bin.
func TestRobustPredictionsTwoHotEncode(t *testing.T) {
	d := NewTwoHot(255)
	for _, x := range []float32{0, 1e-3, 0.5, -0.5, 3, -17.25, 1e5, -4e8, d.Bins[3], d.Bins[254], d.Bins[0]} {
		below, above, w := d.Encode(x)
		if above-below > 1 || w < 0 || w > 1 {
			t.Fatalf("%v: bins %d and %d, weight %v", x, below, above, w)
		}
		got := float64(1-w)*float64(d.Bins[below]) + float64(w)*float64(d.Bins[above])
		if math.Abs(got-float64(x)) > 1e-5*math.Abs(float64(x))+1e-9 {
			t.Errorf("encoding of %v has mean %v", x, got)
		}
	}
	for x, want := range map[float32]int{1e10: 254, -1e10: 0} {
		if below, above, w := d.Encode(x); below != want && above != want || d.Bins[above]*w+d.Bins[below]*(1-w) != d.Bins[want] {
			t.Errorf("%v: bins %d and %d, weight %v", x, below, above, w)
		}
	}
}

// Robust predictions: the mean of symmetric probabilities is exactly zero, in
// spite of bins of 5e8; a point mass has its bin's value.
func TestRobustPredictionsTwoHotMean(t *testing.T) {
	d := NewTwoHot(255)
	p, mean := make([]float32, 255), make([]float32, 1)
	d.Means(mean, p, make([]float32, 255)) // equal logits, as of a head that starts at zero
	if mean[0] != 0 {
		t.Errorf("mean of the uniform distribution is %v", mean[0])
	}
	r := newRand()
	logits := normals(r, 255)
	for i := range 127 {
		logits[254-i] = logits[i]
	}
	if d.Means(mean, p, logits); mean[0] != 0 {
		t.Errorf("mean of a symmetric distribution is %v", mean[0])
	}
	for _, i := range []int{0, 100, 127, 200, 254} {
		clear(p)
		p[i] = 1
		if got := d.Mean(p); got != d.Bins[i] {
			t.Errorf("mean of a point mass at bin %d is %v, want %v", i, got, d.Bins[i])
		}
	}
	// A prediction may lie far from all targets' bins; only the mean counts.
	clear(p)
	p[127], p[200] = 0.75, 0.25
	closeTo(t, "mean", float64(d.Mean(p)), 0.25*float64(d.Bins[200]), 1e-6)
}

// Robust predictions: the cross-entropy is smallest at the target and its
// gradient is the difference of probabilities and target.
func TestRobustPredictionsTwoHotLoss(t *testing.T) {
	d := NewTwoHot(21)
	r := newRand()
	logits, p := normals(r, 21), make([]float32, 21)
	d.Probs(p, logits)
	for _, x := range []float32{0, 2.5, -300, 1e12} {
		below, above, w := d.Encode(x)
		grad := make([]float32, 21)
		d.LossBack(grad, p, x, 1)
		want := -float64(1-w)*math.Log(float64(p[below])) - float64(w)*math.Log(float64(p[above]))
		closeTo(t, "loss", d.Loss(logits, p, x), want, 1e-6)
		var sum float64
		for i, g := range grad {
			target := 0.0
			if i == below {
				target += float64(1 - w)
			}
			if i == above {
				target += float64(w)
			}
			closeTo(t, "gradient", float64(g), float64(p[i])-target, 1e-6)
			sum += float64(g)
		}
		closeTo(t, "sum of the gradient", sum, 0, 1e-6)
	}
}

// Robust predictions: the cross-entropy grows with the distance of logits where
// the softmax has long become zero, whichever of the target's bins are so far off.
func TestRobustPredictionsTwoHotLossOfFarLogits(t *testing.T) {
	d := NewTwoHot(21)
	r := newRand()
	const x = 2.5
	below, above, w := d.Encode(x)
	for _, gap := range []float32{20, 80, 95, 200, 1e4} {
		for _, high := range [][]int{{3}, {below}, {above}, {3, below}, {3, 17}} {
			logits, p := normals(r, 21), make([]float32, 21)
			for _, k := range high {
				logits[k] += gap
			}
			d.Probs(p, logits)
			top := float64(slices.Max(logits))
			var sum float64
			for _, l := range logits {
				sum += math.Exp(float64(l) - top)
			}
			want := top + math.Log(sum) - float64(1-w)*float64(logits[below]) - float64(w)*float64(logits[above])
			closeTo(t, "loss", d.Loss(logits, p, x), want, 1e-5)
			if (p[below] == 0 || p[above] == 0) != (gap >= 200) {
				t.Errorf("logits %v above the others: probabilities %v and %v", gap, p[below], p[above])
			}
		}
	}
}

// World model learning: 1 % of the uniform distribution in every categorical.
func TestWorldModelLearningUnimix(t *testing.T) {
	c := testConfig()
	c.Stoch, c.Classes = 1, 4
	z := newLatents(&c, 1)
	soft := make([]float32, 4)
	logits := []float32{60, -60, 0, -60} // softmax: 1, 0, 0, 0 in float32
	for _, test := range []struct {
		draw float32
		want int32
	}{{0, 0}, {0.99, 0}, {0.9924, 0}, {0.9926, 1}, {0.9951, 2}, {0.9976, 3}, {0.99999994, 3}} {
		c.sample(z, soft, logits, []float32{test.draw})
		if z.Index[0] != test.want {
			t.Errorf("draw %v gives class %d, want %d: every class has at least 1/400", test.draw, z.Index[0], test.want)
		}
	}
}

// World model learning: how often classes are drawn.
func TestWorldModelLearningSampling(t *testing.T) {
	c := testConfig()
	c.Stoch, c.Classes = 2, 3
	const n = 40000
	r := newRand()
	row := []float32{0, 1, 2, 3, -1, 0}
	var logits []float32
	for range n {
		logits = append(logits, row...)
	}
	z, soft, draw := newLatents(&c, n), make([]float32, len(logits)), make([]float32, 2*n)
	c.Draws(draw, r)
	c.sample(z, soft, logits, draw)
	var count [2][3]float64
	for i, k := range z.Index {
		count[i%2][k] += 1.0 / n
	}
	for i := range 2 {
		var sum float64
		for _, l := range row[3*i : 3*i+3] {
			sum += math.Exp(float64(l))
		}
		for k, got := range count[i] {
			want := 0.99*math.Exp(float64(row[3*i+k]))/sum + 0.01/3
			if math.Abs(got-want) > 4*math.Sqrt(want*(1-want)/n) {
				t.Errorf("latent %d: class %d drawn at rate %v, want %v", i, k, got, want)
			}
		}
	}
}

// World model learning: straight-through. The sample's gradient is that of the
// mixed probabilities, dz·∂p/∂logits, whatever was sampled.
func TestWorldModelLearningStraightThrough(t *testing.T) {
	c := testConfig()
	r := newRand()
	logits, dz := normals(r, c.LogitsLen()), normals(r, c.StochLen())
	before := normals(r, c.LogitsLen())
	soft, draw := make([]float32, len(logits)), make([]float32, c.DrawLen())
	c.Draws(draw, r)
	z := newLatents(&c, 1)
	c.sample(z, soft, logits, draw)
	got := slices.Clone(before)
	c.sampleBack(got, dz, soft, logits, draw, make([]float32, len(dz)))
	probability := func(logits []float64, i int) float64 {
		block := logits[i/c.Classes*c.Classes:][:c.Classes]
		var sum float64
		for _, l := range block {
			sum += math.Exp(l)
		}
		return (1-float64(c.Unimix))*math.Exp(logits[i])/sum + float64(c.Unimix)/float64(c.Classes)
	}
	wide := make([]float64, len(logits))
	for i, l := range logits {
		wide[i] = float64(l)
	}
	for j := range wide {
		var want float64
		const eps = 1e-6
		for i, g := range dz {
			wide[j] += eps
			up := probability(wide, i)
			wide[j] -= 2 * eps
			down := probability(wide, i)
			wide[j] += eps
			want += float64(g) * (up - down) / (2 * eps)
		}
		closeTo(t, "gradient", float64(got[j]-before[j]), want, 1e-5)
	}
}

// World model learning, the Gaussian option: z = mean + std·noise with
// std = 2·sigmoid(raw/2) + 0.1, differentiated by reparameterisation.
func TestWorldModelLearningGaussian(t *testing.T) {
	c := testConfig()
	c.Gaussian = true
	r := newRand()
	const rows = 3
	w := c.StochLen()
	logits, noise, dz := normals(r, rows*2*w), normals(r, rows*w), normals(r, rows*w)
	z := newLatents(&c, rows)
	c.sample(z, nil, logits, noise)
	grad := make([]float32, len(logits))
	c.sampleBack(grad, dz, nil, logits, noise, nil)
	std := func(raw float64) float64 { return 2/(1+math.Exp(-raw/2)) + 0.1 }
	closeTo(t, "deviation at zero", std(0), 1.1, 1e-9)
	for row := range rows {
		for i := range w {
			k, mean, raw := row*w+i, row*2*w+i, row*2*w+w+i
			closeTo(t, "sample", float64(z.Value[k]), float64(logits[mean])+std(float64(logits[raw]))*float64(noise[k]), 1e-5)
			slope := (std(float64(logits[raw])+1e-5) - std(float64(logits[raw])-1e-5)) / 2e-5
			closeTo(t, "gradient of the mean", float64(grad[mean]), float64(dz[k]), 1e-6)
			closeTo(t, "gradient of the raw scale", float64(grad[raw]), float64(dz[k])*slope*float64(noise[k]), 1e-4)
		}
	}
}

// World model learning: KL divergences of mixed categoricals and of Gaussians,
// summed over latents; zero between equals; gradients by differences.
func TestWorldModelLearningKL(t *testing.T) {
	for _, gaussian := range []bool{false, true} {
		c := testConfig()
		c.Gaussian = gaussian
		r := newRand()
		const rows, equal = klRows + 3, 1
		n := c.LogitsLen()
		post, prior := normals(r, rows*n), normals(r, rows*n)
		copy(prior[equal*n:], post[equal*n:(equal+1)*n])
		kl := NewKL(c, rows)
		got := make([]float64, rows)
		kl.Rows(got, post, prior)
		for i := range rows {
			closeTo(t, "KL", got[i], naiveKL(c, post[i*n:(i+1)*n], prior[i*n:(i+1)*n]), 1e-5)
		}
		closeTo(t, "KL of equals", got[equal], 0, 1e-6)

		dpost, dprior := make([]float32, rows*n), make([]float32, rows*n)
		kl.Back(dpost, dprior, post, prior, slices.Repeat([]float32{0.1}, rows), slices.Repeat([]float32{1}, rows))
		const eps = 1e-3
		for i := range rows * n {
			from, to := i/n*n, i/n*n+n
			for _, side := range []struct {
				x, grad []float32
				weight  float64
			}{{post, dpost, 0.1}, {prior, dprior, 1}} {
				x := side.x[i]
				side.x[i] = x + eps
				up, width := naiveKL(c, post[from:to], prior[from:to]), float64(x+eps)
				side.x[i] = x - eps
				down := naiveKL(c, post[from:to], prior[from:to])
				width -= float64(x - eps)
				side.x[i] = x
				closeTo(t, "gradient", float64(side.grad[i]), side.weight*(up-down)/width, 1e-4)
			}
			if i/n == equal {
				closeTo(t, "gradient between equals", math.Hypot(float64(dpost[i]), float64(dprior[i])), 0, 1e-6)
			}
		}
	}
}

func naiveKL(c Config, post, prior []float32) (kl float64) {
	w := c.StochLen()
	if c.Gaussian {
		std := func(raw float32) float64 { return 2/(1+math.Exp(-float64(raw)/2)) + 0.1 }
		for i := range w {
			p, q, d := std(post[w+i]), std(prior[w+i]), float64(post[i])-float64(prior[i])
			kl += math.Log(q/p) + (p*p+d*d)/(2*q*q) - 0.5
		}
		return kl
	}
	mixed := func(x []float32) (p []float64) {
		var sum float64
		for _, l := range x {
			sum += math.Exp(float64(l))
		}
		for _, l := range x {
			p = append(p, 0.99*math.Exp(float64(l))/sum+0.01/float64(len(x)))
		}
		return p
	}
	for s := 0; s < w; s += c.Classes {
		q := mixed(prior[s : s+c.Classes])
		for i, p := range mixed(post[s : s+c.Classes]) {
			kl += p * math.Log(p/q[i])
		}
	}
	return kl
}

// Sequence model: a block of the GRU depends on its own slice of the state by
// the block kernels, and on the rest only through the shared input layer.
func TestSequenceModelBlockGRU(t *testing.T) {
	c := testConfig()
	c.Deter, c.Blocks = 12, 3
	p, err := NewParams(c)
	if err != nil {
		t.Fatal(err)
	}
	r := newRand()
	copy(p.Data, normals(r, len(p.Data)))
	tensors := map[string][]float32{}
	for _, x := range p.Module(RSSM).Tensors {
		tensors[x.Name[len("rssm/"):]] = x.Data
	}
	nets := newNetworks(c)
	rssm := p.Module(RSSM).Data
	for _, pack := range nets.core.packs(&rssm, false) {
		pack()
	}
	const rows = 2
	a := newCoreCache(&c, rows, rows, false)
	copy(a.from.Deter, normals(r, rows*c.Deter))
	for i := range a.from.Stoch.Index {
		a.from.Stoch.Index[i] = int32(r.IntN(c.Classes))
	}
	a.from.Stoch.rows(&c, 1, 2).clear() // row 1 has an empty latent and no action
	a.action[0], a.action[1] = 2, -1
	nets.core.forward(a, 0, rows)

	activate := func(x []float64, scale []float32) []float64 {
		var square float64
		for _, v := range x {
			square += v * v / float64(len(x))
		}
		y := make([]float64, len(x))
		for i, v := range x {
			h := v / math.Sqrt(square+1e-4) * float64(scale[i])
			y[i] = h / (1 + math.Exp(-h))
		}
		return y
	}
	times := func(y, x []float64, kernel []float32) {
		for i, v := range x {
			for j := range y {
				y[j] += v * float64(kernel[i*len(y)+j])
			}
		}
	}
	bias := func(name string) []float64 {
		var y []float64
		for _, b := range tensors[name+"/bias"] {
			y = append(y, float64(b))
		}
		return y
	}
	for row := range rows {
		deter := make([]float64, c.Deter)
		for i, v := range a.from.Deter[row*c.Deter : (row+1)*c.Deter] {
			deter[i] = float64(v)
		}
		stoch, action := make([]float64, c.StochLen()), make([]float64, c.Actions)
		if row == 0 {
			for i, k := range a.from.Stoch.Index[:c.Stoch] {
				stoch[i*c.Classes+int(k)] = 1
			}
			action[2] = 1
		}
		var x []float64
		for _, in := range []struct {
			name string
			x    []float64
		}{{"deter", deter}, {"stoch", stoch}, {"action", action}} {
			y := bias(in.name)
			times(y, in.x, tensors[in.name+"/kernel"])
			x = append(x, activate(y, tensors[in.name+"/scale"])...)
		}
		const size = 4
		blocks := func(y, x []float64, name string) {
			for b := range c.Blocks {
				times(y[b*size:(b+1)*size], x[b*size:(b+1)*size], tensors[name+"/kernel"][b*size*size:(b+1)*size*size])
			}
		}
		mix := bias("mix")
		times(mix, x, tensors["mix/kernel"])
		blocks(mix, deter, "mix_deter")
		y := activate(mix, tensors["mix/scale"])
		var gates [3][]float64
		for i, name := range []string{"reset", "candidate", "update"} {
			gates[i] = bias(name)
			blocks(gates[i], y, name)
		}
		for i, h := range deter {
			reset := 1 / (1 + math.Exp(-gates[0][i]))
			candidate := math.Tanh(reset * gates[1][i])
			update := 1 / (1 + math.Exp(-(gates[2][i] - 1)))
			closeTo(t, "state", float64(a.next[row*c.Deter+i]), update*candidate+(1-update)*h, 1e-5)
		}
	}
}

// Actor learning: masked actions have probability zero, the others share the
// softmax and the uniform part; a row that allows nothing allows everything.
func TestActorLearningMaskedUnimix(t *testing.T) {
	c := testConfig()
	c.Actions = 4
	logits := []float32{1, 2, 3, 4, 1, 2, 3, 4, 0, 0, 90, 0}
	mask := []bool{true, false, true, false, false, false, false, false, true, true, true, false}
	p, soft := make([]float32, 12), make([]float32, 12)
	c.Dist().Probs(p, soft, logits, mask)
	e := math.Exp
	want := []float64{
		0.99*e(1)/(e(1)+e(3)) + 0.005, 0, 0.99*e(3)/(e(1)+e(3)) + 0.005, 0,
		0, 0, 0, 0,
		0.01 / 3, 0.01 / 3, 0.99 + 0.01/3, 0,
	}
	for i := range 4 {
		want[4+i] = 0.99*e(float64(i+1))/(e(1)+e(2)+e(3)+e(4)) + 0.0025
	}
	for i, w := range want {
		closeTo(t, "probability", float64(p[i]), w, 1e-6)
		if w == 0 && p[i] != 0 {
			t.Errorf("masked action %d has probability %v", i, p[i])
		}
	}
	closeTo(t, "entropy", Entropy([]float32{0.5, 0, 0.25, 0.25}), 1.5*math.Ln2, 1e-6)

	dp := normals(newRand(), 12)
	grad := make([]float32, 12)
	c.Dist().LogitsBack(grad, dp, soft)
	for i := range 12 {
		const eps = 1e-2
		at := func(by float32) (sum float64) {
			moved := slices.Clone(logits)
			moved[i] += by
			q := make([]float32, 12)
			c.Dist().Probs(q, make([]float32, 12), moved, mask)
			for k, v := range q {
				sum += float64(v) * float64(dp[k])
			}
			return sum
		}
		closeTo(t, "gradient", float64(grad[i]), (at(eps)-at(-eps))/(2*eps), 1e-3)
	}
}

// Optimizer: adaptive gradient clipping by tensor, then LaProp, over several
// steps against the formulas; one tensor's gradient is far above its clip, one
// is zero, one tensor is larger than a chunk.
func TestOptimizerLaProp(t *testing.T) {
	c := testConfig()
	c.Obs = 3000
	p, err := NewParams(c)
	if err != nil {
		t.Fatal(err)
	}
	p.Init(newRand())
	pool := NewPool(2)
	defer pool.Close()
	o := NewOptimizer(p, 0.3, pool)
	naive, m, v := make([]float64, len(p.Data)), make([]float64, len(p.Data)), make([]float64, len(p.Data))
	for i, x := range p.Data {
		naive[i] = float64(x)
	}
	rates := func(module string) float64 {
		if module == Actor {
			return 1e-3
		}
		return 4e-4
	}
	r := newRand()
	for step := 1; step <= 4; step++ {
		grads := normals(r, len(p.Data))
		at, want := 0, 0.0
		for i, x := range p.Tensors() {
			n := len(x.Data)
			g := grads[at : at+n]
			for k := range g {
				g[k] *= []float32{1e-3, 100, 0, 1e-12}[i%4]
			}
			var gg, pp float64
			for k, v := range g {
				gg += float64(v) * float64(v)
				pp += naive[at+k] * naive[at+k]
			}
			want += gg
			factor := 1.0
			if limit := 0.3 * max(1e-3, math.Sqrt(pp)); math.Sqrt(gg) > limit {
				factor = limit / math.Sqrt(gg)
			}
			module := x.Name[:len(Actor)]
			for k := range g {
				j := at + k
				s := float64(g[k]) * factor
				v[j] = 0.999*v[j] + 0.001*s*s
				u := s / (math.Sqrt(v[j]/(1-math.Pow(0.999, float64(step)))) + 1e-20)
				m[j] = 0.9*m[j] + 0.1*u
				naive[j] -= rates(module) * m[j] / (1 - math.Pow(0.9, float64(step)))
			}
			at += n
		}
		closeTo(t, "norm", o.Update(byModule(p, grads), rates), math.Sqrt(want), 1e-5)
		for j := range naive {
			if math.Abs(float64(p.Data[j])-naive[j]) > 1e-6 {
				t.Fatalf("step %d: parameter %d is %v, want %v", step, j, p.Data[j], naive[j])
			}
		}
	}
	if o.Step != 4 {
		t.Errorf("step %d after 4 updates", o.Step)
	}
	before := slices.Clone(p.Data)
	grads := make([]float32, len(p.Data))
	grads[17] = float32(math.Inf(1))
	if norm := o.Update(byModule(p, grads), rates); !math.IsInf(norm, 0) && !math.IsNaN(norm) {
		t.Errorf("norm of an infinite gradient is %v", norm)
	}
	if !slices.Equal(before, p.Data) || o.Step != 4 {
		t.Error("an infinite gradient changed the parameters")
	}
}

// byModule cuts a vector laid out as Params.Data into its modules.
func byModule(p *Params, x []float32) [][]float32 {
	var all [][]float32
	at := 0
	for _, m := range p.Modules {
		all = append(all, x[at:at+len(m.Data)])
		at += len(m.Data)
	}
	return all
}

// Critic learning: the slow critic moves by its share of the distance.
func TestCriticLearningSlowAverage(t *testing.T) {
	slow := []float32{1, -2, 0}
	Average(slow, []float32{2, -2, 10}, 0.02)
	for i, want := range []float64{1.02, -2, 0.2} {
		closeTo(t, "slow parameter", float64(slow[i]), want, 1e-6)
	}
}

// Hyperparameters: initial parameters. Kernels have variance 1/fan-in, the
// outputs of reward and critic are zero and that of the actor is small.
func TestInitialParameters(t *testing.T) {
	c := testConfig()
	c.Deter, c.Hidden, c.Units, c.Stoch, c.Classes = 64, 48, 64, 8, 8
	p, err := NewParams(c)
	if err != nil {
		t.Fatal(err)
	}
	p.Init(newRand())
	variance := func(name string) float64 {
		for _, x := range p.Tensors() {
			if x.Name == name {
				var sum float64
				for _, v := range x.Data {
					sum += float64(v) * float64(v)
				}
				return sum / float64(len(x.Data))
			}
		}
		t.Fatalf("no tensor %s", name)
		return 0
	}
	for name, want := range map[string]float64{
		"encoder/layer1/kernel":     1.0 / 64,
		"rssm/stoch/kernel":         1.0 / 64,
		"rssm/posterior/kernel":     1.0 / 128,
		"rssm/mix/kernel":           1.0 / (3*48 + 32),
		"rssm/mix_deter/kernel":     1.0 / (3*48 + 32),
		"rssm/update/kernel":        1.0 / 32,
		"decoder/layer0/kernel":     1.0 / 128,
		"actor/gru_update/kernel":   1.0 / 69,
		"actor/out/kernel":          1e-4 / 64,
		"reward/out/kernel":         0,
		"critic/out/kernel":         0,
		"critic/layer0/bias":        0,
		"critic/layer0/scale":       1,
		"rssm/posterior_out/kernel": 1.0 / 48,
	} {
		if got := variance(name); math.Abs(got-want) > 0.2*want {
			t.Errorf("%s: mean square %v, want %v", name, got, want)
		}
	}
}
