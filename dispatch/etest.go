package dispatch

// costTest is a sequential test of whether the policy costs more than the reference.
// Each observation is a paired difference d = (policy - reference)/(policy +
// reference) of the costs of one block of jobs, in [-1, 1]. The hypothesis is that
// its mean, given all before, is at most margin.
//
// Against it the test bets: a capital of 1 is multiplied by 1 + λ(d - margin) for
// each observation. With λ in [0, 1/(1+margin)) it stays positive and, under the
// hypothesis, does not grow in the mean, so the chance that it ever reaches 1/α is
// at most α (Ville's inequality; Waudby-Smith and Ramdas, Estimating means of
// bounded random variables by betting, JRSS B 2024, section 4). The mean over
// several λ has the same property, and finds small and large differences.
//
// A bet begins anew after window observations, so that what a policy gained long ago
// does not pay for what it loses now. Two bets take turns, half a window apart, so
// that a change does not always meet an old one, each at α/2: in its life of a window
// either raises a false alarm with a chance of at most α/2, so together they raise
// at most α of them in a window, in the mean.
type costTest struct {
	alpha, margin float64
	window        int
	seen          int
	bets          [2]bet
}

// stakes are the shares of the largest λ that are bet.
var stakes = [...]float64{0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95}

type bet struct {
	age     int
	capital [len(stakes)]float64
}

func newCostTest(g CostGuard) *costTest {
	t := &costTest{alpha: g.ErrorRate, margin: g.Margin, window: g.Window}
	t.reset()
	return t
}

// reset begins anew, as for other parameters.
func (t *costTest) reset() {
	t.seen = 0
	for i := range t.bets {
		t.bets[i].begin()
	}
}

func (b *bet) begin() {
	b.age = 0
	for i := range b.capital {
		b.capital[i] = 1
	}
}

// add takes an observation and reports whether the policy is found to be worse.
func (t *costTest) add(d float64) bool {
	d = min(max(d, -1), 1)
	worse := false
	for i := range t.bets {
		b := &t.bets[i]
		if b.age == t.window || i == 1 && t.seen == t.window/2 {
			b.begin()
		}
		b.age++
		for k, stake := range stakes {
			b.capital[k] *= 1 + stake/(1+t.margin)*(d-t.margin)
		}
		worse = worse || b.wealth() >= 2/t.alpha
	}
	t.seen++
	return worse && t.alpha > 0
}

func (b *bet) wealth() float64 {
	var sum float64
	for _, c := range b.capital {
		sum += c
	}
	return sum / float64(len(stakes))
}

// wealth is the larger of the bets'; the policy is worse when it reaches 2/alpha.
func (t *costTest) wealth() float64 { return max(t.bets[0].wealth(), t.bets[1].wealth()) }
