package model

import (
	"math"
	"sync"

	"github.com/dreamfleet/dreamfleet/model/internal/kernel"
)

// joint lets the categorical latents of a prior depend on one another. Each class of a latent has a row
// that it adds to the logits of all latents after it:
//
//	logits_i = f_i(h) + Σ_{j<i} W_j[z_j]_i        p(z | h) = Π_i p(z_i | h, z_1 … z_{i-1})
//
// DreamerV3's prior is the same without W: given h its latents are independent of one another. What cannot
// be predicted then has to be in one latent. An encoder that writes it into many, as one does for
// observations of few numbers that are to be exact, has a prior that draws each of them by itself, and what
// it draws is their mean: on Park a hundredth of all jobs has more than 2057 units of work, and of those
// that were imagined with 32 independent latents 338, so that policies were trained in a world without
// large jobs.
//
// W begins at zero.
type joint struct {
	stoch, classes int
	w              span // of each latent but the last in turn: classes × the logits after it
	table          []float32
}

// joint returns nil where no latents are to depend on one another.
func (l *layout) joint(c *Config) *joint {
	if !c.joint() {
		return nil
	}
	j := &joint{stoch: c.Stoch, classes: c.Classes}
	n := c.Classes * c.Classes * c.Stoch * (c.Stoch - 1) / 2
	j.w = l.add("joint/kernel", kindKernel, c.Stoch, 0, n)
	return j
}

// joint reports whether the prior has one.
func (c *Config) joint() bool { return c.Autoregressive && !c.Gaussian && c.Stoch > 1 }

// JointOf is the part of a vector laid out as the prior's Data that belongs to what its latents add to one
// another, empty for an independent prior.
func (m *Module) JointOf(x []float32) []float32 {
	at := 0
	for _, t := range m.Tensors {
		if t.Name == Prior+"/joint/kernel" {
			return x[at : at+len(t.Data)]
		}
		at += len(t.Data)
	}
	return nil
}

func (j *joint) load(params []float32) { j.table = j.w.of(params) }

// rows are those of the classes of latent i, one after the other, each as long as the logits after that
// latent's.
func (j *joint) rows(table []float32, i int) (rows []float32, n int) {
	before := i * (2*j.stoch - 1 - i) / 2 * j.classes * j.classes
	n = (j.stoch - 1 - i) * j.classes
	return table[before : before+j.classes*n], n
}

// spread adds what latent i, of class k, adds to the logits of a row.
func (j *joint) spread(logits []float32, i int, k int32) {
	rows, n := j.rows(j.table, i)
	kernel.Add(logits[(i+1)*j.classes:j.stoch*j.classes], rows[int(k)*n:(int(k)+1)*n])
}

// add adds to each row of logits what its latents add to one another's. The empty state adds nothing.
func (j *joint) add(logits []float32, z []int32) {
	s, w := j.stoch, j.stoch*j.classes
	for r := 0; r*s < len(z); r++ {
		for i, k := range z[r*s : (r+1)*s-1] {
			if k >= 0 {
				j.spread(logits[r*w:], i, k)
			}
		}
	}
}

// sample is Config.sample latent by latent, by race: logits come from the prior's output layer and are
// complete afterwards.
func (j *joint) sample(c *Config, z []int32, soft, logits, draw []float32) {
	s, n := j.stoch, j.classes
	w, rows := s*n, len(z)/s
	mix, keep := c.Unimix/float32(n), 1-c.Unimix
	in, out := soft[:rows*n], soft[rows*n:2*rows*n]
	for i := range s {
		for r := range rows {
			copy(in[r*n:(r+1)*n], logits[r*w+i*n:])
		}
		kernel.Softmax(out, in, rows, n)
		for r := range rows {
			k := race(out[r*n:(r+1)*n], draw[r*s+i], keep, mix)
			z[r*s+i] = k
			if i < s-1 {
				j.spread(logits[r*w:], i, k)
			}
		}
	}
}

// race draws a class by as many clocks as there are classes, whose times are exponential at the rates of the
// probabilities: the first to ring has won. Two rollouts with the same number draw the same class with a
// probability of (1-d)/(1+d) or more, d being the total variation between their probabilities, whatever the
// order of the classes; and latents that were drawn alike make the next ones alike. Rollouts of one state are
// each other's baseline: what two had in common was 0.45 of the variance of their returns on Park by pick,
// which goes by that order, and 0.62 by race.
func race(p []float32, u, keep, mix float32) int32 {
	clocks := clockRates()
	seed := uint64(math.Float32bits(u)) << 16
	best, most := int32(0), float32(0)
	var bits uint64 // of four classes
	for k, v := range p {
		if k%4 == 0 {
			bits = scramble(seed + uint64(k/4))
		}
		if rate := (keep*v + mix) * clocks[uint16(bits)]; rate > most {
			best, most = int32(k), rate
		}
		bits >>= 16
	}
	return best
}

// clockRates are 1/x at 65536 quantiles of an exponential time x.
var clockRates = sync.OnceValue(func() *[1 << 16]float32 {
	var rates [1 << 16]float32
	for i := range rates {
		rates[i] = float32(-1 / math.Log((float64(i)+0.5)/float64(len(rates))))
	}
	return &rates
})

// scramble is the output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
func scramble(x uint64) uint64 {
	x *= 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// jointJobs is the number of jobs among which the gradient is divided.
const jointJobs = 4

// grads are the jobs that write the gradient of W, of latents z and the logits' gradient.
func (j *joint) grads(grad *[]float32, z func() []int32, dlogits *[]float32) (list []func()) {
	for first := range min(jointJobs, j.stoch-1) {
		list = append(list, func() {
			dw, idx, dl := j.w.of(*grad), z(), *dlogits
			s, w := j.stoch, j.stoch*j.classes
			// Each job has every so many-th latent, as the first have the longest rows.
			for i := first; i < s-1; i += jointJobs {
				rows, n := j.rows(dw, i)
				clear(rows)
				for r := 0; r*s < len(idx); r++ {
					if k := int(idx[r*s+i]); k >= 0 {
						kernel.Add(rows[k*n:(k+1)*n], dl[r*w+(i+1)*j.classes:(r+1)*w])
					}
				}
			}
		})
	}
	return list
}
