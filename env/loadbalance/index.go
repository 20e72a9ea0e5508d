package loadbalance

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
)

// Index holds the parameters of the index policy, which takes the server i of the least
//
//	u (1+Load) + x (1+Size) + Bias + 2 Cross u x + Square x^2,  u = load_i/rate_i,  x = size/rate_i,
//
// where load_i is the observed load. With all parameters zero it is LEFT. The parameters of a server depend on its
// rate: each list has a value for each of Rates, in between they are interpolated linearly, and beyond the ends they
// are level. So one set serves any number of servers in any order; with as many knots as servers, at their rates,
// every server has five parameters of its own.
//
// Units, with times in the simulator's: Load, Size 1; Bias time; Cross, Square 1/time.
type Index struct {
	Rates  []float64 `json:"rates"` // knots, rising
	Load   []float64 `json:"load"`
	Size   []float64 `json:"size"`
	Bias   []float64 `json:"bias"`
	Cross  []float64 `json:"cross"`
	Square []float64 `json:"square"`
	// Tuned says how the parameters came about.
	Tuned string `json:"tuned,omitempty"`
}

// indexFamilies is the number of parameters at each knot.
const indexFamilies = 5

//go:generate go run ../../cmd/dreamfleet env tune --seeds 50000-50199 --out park_index.json

// parkIndex was tuned to Park's default workload, on other seeds than results are reported on. It reaches a mean ratio
// to LEFT of 0.869 on seeds 2000-2029 and of 0.798 on 3000-3999.
//
//go:embed park_index.json
var parkIndex []byte

// ParkIndex returns the parameters tuned to Park's default workload.
func ParkIndex() *Index {
	x, err := ParseIndex(parkIndex)
	if err != nil {
		panic(fmt.Sprintf("loadbalance: embedded index parameters: %v", err))
	}
	return x
}

// ReadIndex reads parameters from a JSON file as the tuner writes it.
func ReadIndex(path string) (*Index, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("index parameters: %w", err)
	}
	x, err := ParseIndex(b)
	if err != nil {
		return nil, fmt.Errorf("index parameters in %s: %w", path, err)
	}
	return x, nil
}

// ParseIndex decodes and validates parameters in JSON.
func ParseIndex(b []byte) (*Index, error) {
	x := new(Index)
	if err := json.Unmarshal(b, x); err != nil {
		return nil, err
	}
	if len(x.Rates) == 0 || len(x.Rates) > MaxServers {
		return nil, fmt.Errorf("%d knots in rates, want 1 to %d", len(x.Rates), MaxServers)
	}
	for i, r := range x.Rates {
		if !validRate(r) || i > 0 && r <= x.Rates[i-1] {
			return nil, fmt.Errorf("rates are %v, want rising values between %g and %g", x.Rates, MinRate, MaxRate)
		}
	}
	for k, list := range x.families() {
		if len(*list) != len(x.Rates) {
			return nil, fmt.Errorf("%s has %d values, rates has %d", [...]string{"load", "size", "bias", "cross", "square"}[k], len(*list), len(x.Rates))
		}
		if slices.ContainsFunc(*list, func(v float64) bool { return math.Abs(v) > 1e9 }) {
			return nil, errors.New("a parameter is beyond 1e9")
		}
	}
	return x, nil
}

// WriteFile writes the parameters for ReadIndex, aside first, so that a file that was there stays whole.
func (x *Index) WriteFile(path string) error {
	b, err := json.MarshalIndent(x, "", "\t")
	if err != nil {
		return fmt.Errorf("index parameters: %w", err)
	}
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("index parameters: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("index parameters: %w", err)
	}
	return nil
}

func (x *Index) families() [indexFamilies]*[]float64 {
	return [...]*[]float64{&x.Load, &x.Size, &x.Bias, &x.Cross, &x.Square}
}

// NewIndex returns the index that equals LEFT, with the given knots, sorted and each once.
func NewIndex(rates []float64) *Index {
	knots := slices.Compact(slices.Sorted(slices.Values(rates)))
	x := &Index{Rates: knots}
	for _, list := range x.families() {
		*list = make([]float64, len(knots))
	}
	return x
}

// Knots spaces n knots evenly from the smallest to the largest of the rates above zero.
func Knots(rates []float64, n int) []float64 {
	lowest, highest := math.Inf(1), 0.0
	for _, r := range rates {
		if r > 0 {
			lowest, highest = min(lowest, r), max(highest, r)
		}
	}
	if n == 1 || lowest >= highest {
		return []float64{highest}
	}
	knots := make([]float64, n)
	for i := range knots {
		knots[i] = math.Round((lowest+(highest-lowest)*float64(i)/float64(n-1))*1e12) / 1e12
	}
	return knots
}

// at interpolates the parameters for a rate.
func (x *Index) at(rate float64) (c [indexFamilies]float64) {
	above, _ := slices.BinarySearch(x.Rates, rate)
	lo, hi := max(above-1, 0), min(above, len(x.Rates)-1)
	share := 0.0
	if lo < hi {
		share = (rate - x.Rates[lo]) / (x.Rates[hi] - x.Rates[lo])
	}
	for k, list := range x.families() {
		c[k] = (*list)[lo] + share*((*list)[hi]-(*list)[lo])
	}
	return c
}

// indexPolicy applies an Index.
type indexPolicy struct {
	observer
	belief []float64
	index  *Index

	rates   []float64 // of which servers was made
	servers []indexTerms
}

// indexTerms are a server's parameters on load and size as they are observed: the cost is
// load (load + cross size) + bias + size (size + square size).
type indexTerms struct{ load, size, bias, cross, square float64 }

func newIndexPolicy(o PolicyOptions) Policy {
	p := &indexPolicy{belief: o.Rates, index: o.Index}
	if p.index == nil {
		p.index = ParkIndex()
	}
	return p
}

func (*indexPolicy) Name() string   { return "index" }
func (*indexPolicy) Reset(_ uint64) {}

func (p *indexPolicy) Choose(s *Sim) int {
	if !slices.Equal(p.rates, s.Rates()) {
		p.prepare(s)
	}
	loads, size := p.look(s)
	best, lowest := -1, 0.0
	for i, load := range loads {
		if !s.Up(i) {
			continue
		}
		t := &p.servers[i]
		c := load*(t.load+t.cross*size) + t.bias + size*(t.size+t.square*size)
		if best < 0 || c < lowest {
			best, lowest = i, c
		}
	}
	return best
}

// prepare works out each server's terms; it is needed again only when a rate changes.
func (p *indexPolicy) prepare(s *Sim) {
	p.rates = append(p.rates[:0], s.Rates()...)
	p.servers = slices.Grow(p.servers[:0], len(p.rates))[:len(p.rates)]
	for i := range p.servers {
		if !s.Up(i) {
			continue
		}
		r := believe(p.belief, s, i)
		c := p.index.at(r)
		p.servers[i] = indexTerms{
			load: (1 + c[0]) / r, size: (1 + c[1]) / r, bias: c[2],
			cross: 2 * c[3] / (r * r), square: c[4] / (r * r),
		}
	}
}
