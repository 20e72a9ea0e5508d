package loadbalance

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Policy chooses a server for each incoming job. It may keep state within an episode; Reset begins a new one, and
// whatever the policy draws comes from the seed. Choose returns a server that is up; it is called before Step, when
// the simulator has an incoming job.
type Policy interface {
	Name() string
	Reset(seed uint64)
	Choose(s *Sim) int
}

// PolicyOptions are what some heuristics can be told. The zero value is the heuristic as it is usually meant.
type PolicyOptions struct {
	// Rates are the service rates that a policy believes in, nil for the true ones. Where servers are more than
	// rates the true ones serve for the rest.
	Rates []float64
	// Index are the parameters of the index policy; nil for those tuned to Park's workload.
	Index *Index
	// LargeSize and SlowShare rule SITA2: jobs of at least LargeSize go only to the slowest SlowShare of the servers
	// (rounded up). 0 stands for 700 and 0.6, which suit Park's default workload and hurt at light load.
	LargeSize int64
	SlowShare float64
}

// Defaults of SITA2; see PolicyOptions.
const (
	defaultLargeSize = 700
	defaultSlowShare = 0.6
)

var policies = map[string]func(PolicyOptions) Policy{
	"random":            func(PolicyOptions) Policy { return new(random) },
	"round_robin":       func(PolicyOptions) Policy { return new(roundRobin) },
	"rate_proportional": func(o PolicyOptions) Policy { return &rateProportional{belief: o.Rates} },
	"shortest_queue":    func(PolicyOptions) Policy { return shortestQueue{} },
	"power_of_two":      func(o PolicyOptions) Policy { return &powerOfTwo{left: left{belief: o.Rates}} },
	"least_load":        func(PolicyOptions) Policy { return new(leastLoad) },
	"left":              func(o PolicyOptions) Policy { return &left{belief: o.Rates} },
	"left_measured":     func(PolicyOptions) Policy { return new(leftMeasured) },
	"sita2_left":        newSITA2,
	"index":             newIndexPolicy,
}

// PolicyNames returns the names that NewPolicy knows, from the weakest on Park's workload to the strongest.
func PolicyNames() []string {
	return []string{"random", "round_robin", "rate_proportional", "shortest_queue", "power_of_two",
		"least_load", "left_measured", "left", "sita2_left", "index"}
}

// NewPolicy returns a heuristic by its name, one of PolicyNames.
func NewPolicy(name string, o PolicyOptions) (Policy, error) {
	build, ok := policies[name]
	if !ok {
		return nil, fmt.Errorf("policy %q is none of %s", name, strings.Join(PolicyNames(), ", "))
	}
	return build(o), nil
}

// least returns the first server of those up with the smallest cost.
func least(s *Sim, cost func(server int) float64) int {
	best, lowest := -1, 0.0
	for i := range s.Servers() {
		if !s.Up(i) {
			continue
		}
		if c := cost(i); best < 0 || c < lowest {
			best, lowest = i, c
		}
	}
	return best
}

// observer keeps the buffer for what a policy sees.
type observer struct{ obs []float64 }

// look returns the observed loads of the servers and the observed size of the incoming job.
func (o *observer) look(s *Sim) (loads []float64, size float64) {
	n := s.Servers()
	if len(o.obs) != n+1 {
		o.obs = make([]float64, n+1)
	}
	s.Observe(o.obs)
	return o.obs[:n], o.obs[n]
}

// believe returns the rate of a server that is up, as believed.
func believe(belief []float64, s *Sim, server int) float64 {
	if server < len(belief) {
		return belief[server]
	}
	return s.Rates()[server]
}

// randomSeed is what the recorded traces of Park add to the environment's seed for the policy's own stream.
const randomSeed = 1000

// random draws every server with the same chance: numpy's RandomState(seed+1000).randint(n) where all are up.
type random struct {
	rng mt19937
	up  []int
}

func (*random) Name() string        { return "random" }
func (p *random) Reset(seed uint64) { p.rng.seed(uint32(seed + randomSeed)) }
func (p *random) Choose(s *Sim) int {
	p.up = appendUp(p.up[:0], s)
	return p.up[p.rng.intn(len(p.up))]
}

func appendUp(dst []int, s *Sim) []int {
	for i := range s.Servers() {
		if s.Up(i) {
			dst = append(dst, i)
		}
	}
	return dst
}

// roundRobin takes the servers in turn, passing over those that are down.
type roundRobin struct{ next int }

func (*roundRobin) Name() string     { return "round_robin" }
func (p *roundRobin) Reset(_ uint64) { p.next = 0 }
func (p *roundRobin) Choose(s *Sim) int {
	n := s.Servers()
	i := p.next % n
	for !s.Up(i) {
		i = (i + 1) % n
	}
	p.next = i + 1
	return i
}

// rateProportional draws a server with a chance in proportion to its rate: each has the same utilisation.
type rateProportional struct {
	belief []float64
	rng    mt19937
}

func (*rateProportional) Name() string        { return "rate_proportional" }
func (p *rateProportional) Reset(seed uint64) { p.rng.seed(uint32(seed + randomSeed)) }
func (p *rateProportional) Choose(s *Sim) int {
	var total float64
	for i := range s.Servers() {
		if s.Up(i) {
			total += believe(p.belief, s, i)
		}
	}
	rest, choice := p.rng.float64()*total, 0
	for i := range s.Servers() {
		if !s.Up(i) {
			continue
		}
		choice = i
		if rest -= believe(p.belief, s, i); rest < 0 {
			break
		}
	}
	return choice
}

// shortestQueue joins the shortest queue (JSQ): the fewest jobs, the one in service included.
type shortestQueue struct{}

func (shortestQueue) Name() string   { return "shortest_queue" }
func (shortestQueue) Reset(_ uint64) {}
func (shortestQueue) Choose(s *Sim) int {
	return least(s, func(i int) float64 { return float64(s.Holding(i)) })
}

// Holding counts the jobs at a server, in service and queued. It takes a step for each.
func (s *Sim) Holding(server int) int {
	v := &s.servers[server]
	count := 0
	for k := v.head; k != nobody; k = s.jobs[k].next {
		count++
	}
	if v.finish != idle || v.held > 0 {
		count++
	}
	return count
}

// leastLoad takes the server of the smallest observed load. It knows no rates.
type leastLoad struct{ observer }

func (*leastLoad) Name() string   { return "least_load" }
func (*leastLoad) Reset(_ uint64) {}
func (p *leastLoad) Choose(s *Sim) int {
	loads, _ := p.look(s)
	return least(s, func(i int) float64 { return loads[i] })
}

// left takes the server of the least expected finish time, (load+size)/rate. Since an observed load counts the
// running job by its remaining time, it is what Park's agent could know, not the true finish time.
type left struct {
	observer
	belief []float64
}

func (*left) Name() string   { return "left" }
func (*left) Reset(_ uint64) {}
func (p *left) Choose(s *Sim) int {
	loads, size := p.look(s)
	return least(s, func(i int) float64 { return (loads[i] + size) / believe(p.belief, s, i) })
}

// leftMeasured is LEFT with the rates that servers showed on the job that each completed last. One that has completed
// none is taken for the mean of those that have.
type leftMeasured struct {
	observer
	rates []float64
}

func (*leftMeasured) Name() string   { return "left_measured" }
func (*leftMeasured) Reset(_ uint64) {}
func (p *leftMeasured) Choose(s *Sim) int {
	loads, size := p.look(s)
	p.rates = p.rates[:0]
	var sum, known float64
	for i := range s.Servers() {
		rate := s.Measured(i)
		if p.rates = append(p.rates, rate); rate > 0 {
			sum += rate
			known++
		}
	}
	for i, rate := range p.rates {
		if rate > 0 {
			continue
		}
		p.rates[i] = 1
		if known > 0 {
			p.rates[i] = sum / known
		}
	}
	return least(s, func(i int) float64 { return (loads[i] + size) / p.rates[i] })
}

// powerOfTwo draws two different servers and takes the one that LEFT would.
type powerOfTwo struct {
	left
	rng mt19937
	up  []int
}

func (*powerOfTwo) Name() string        { return "power_of_two" }
func (p *powerOfTwo) Reset(seed uint64) { p.rng.seed(uint32(seed + randomSeed)) }
func (p *powerOfTwo) Choose(s *Sim) int {
	p.up = appendUp(p.up[:0], s)
	first := p.rng.intn(len(p.up))
	second := first
	if len(p.up) > 1 {
		second = (first + 1 + p.rng.intn(len(p.up)-1)) % len(p.up)
	}
	a, b := p.up[first], p.up[second]
	loads, size := p.look(s)
	if (loads[b]+size)/believe(p.belief, s, b) < (loads[a]+size)/believe(p.belief, s, a) {
		return b
	}
	return a
}

// sita2 is size-interval task assignment in two intervals on LEFT: large jobs go only to the slowest servers, which
// keeps the fastest ones clear for the many small jobs.
type sita2 struct {
	observer
	belief    []float64
	largeSize float64
	slowShare float64

	rates []float64 // of which slow was made
	slow  []bool
}

func newSITA2(o PolicyOptions) Policy {
	p := &sita2{belief: o.Rates, largeSize: defaultLargeSize, slowShare: defaultSlowShare}
	if o.LargeSize > 0 {
		p.largeSize = float64(o.LargeSize)
	}
	if o.SlowShare > 0 {
		p.slowShare = min(o.SlowShare, 1)
	}
	return p
}

func (*sita2) Name() string   { return "sita2_left" }
func (*sita2) Reset(_ uint64) {}
func (p *sita2) Choose(s *Sim) int {
	if !slices.Equal(p.rates, s.Rates()) {
		p.split(s)
	}
	loads, size := p.look(s)
	large := size >= p.largeSize
	best, lowest := -1, 0.0
	for i, load := range loads {
		if !s.Up(i) || large && !p.slow[i] {
			continue
		}
		if c := (load + size) / believe(p.belief, s, i); best < 0 || c < lowest {
			best, lowest = i, c
		}
	}
	return best
}

// split marks the slowest of the servers that are up, ties by their number.
func (p *sita2) split(s *Sim) {
	p.rates = append(p.rates[:0], s.Rates()...)
	up := appendUp(nil, s)
	sort.SliceStable(up, func(a, b int) bool { return believe(p.belief, s, up[a]) < believe(p.belief, s, up[b]) })
	p.slow = make([]bool, s.Servers())
	for _, i := range up[:slowest(len(up), p.slowShare)] {
		p.slow[i] = true
	}
}

// slowest is the share of n, rounded up but for the error of the product, and at least 1.
func slowest(n int, share float64) int {
	k := int(share*float64(n) + 1 - 1e-9)
	return min(max(k, 1), n)
}
