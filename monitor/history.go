package monitor

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
)

// Bounds of a History: what it encodes to stays below half a megabyte.
const (
	maxSeries = 64
	maxPoints = 200
)

// Series is a curve over the whole of a run. Where it has had more points than it
// keeps, each is the mean of several in a row.
type Series struct {
	X []int64   `json:"x"` // environment steps
	T []int64   `json:"t"` // seconds since 1970, 0 where they are not known
	Y []float32 `json:"y"`
}

// Curves are the curves of a run by their names in metrics.jsonl, and levels to
// compare evaluations with: each rule's ratio to LEFT.
type Curves struct {
	Series map[string]Series  `json:"series"`
	Levels map[string]float64 `json:"levels,omitempty"`
}

// History keeps curves over a run of any length in bounded memory. Its methods may
// be called from several goroutines.
type History struct {
	mu      sync.Mutex
	series  map[string]*thinned
	levels  map[string]float64
	changes uint64
}

// thinned is a series of at most maxPoints, each of weight values, and a last one
// that is not yet complete.
type thinned struct {
	Series
	weight  int
	pending int // values in the last point
}

// NewHistory is empty.
func NewHistory() *History { return &History{series: map[string]*thinned{}} }

// Add takes in values recorded at a time in seconds since 1970. Their place on the
// curves is the value env/steps; without it they are left out. What is counted for
// the log alone, the bus's and the actors', is left out, too.
func (h *History) Add(at float64, values map[string]float64) {
	x, ok := values["env/steps"]
	if !ok || !(math.Abs(x) < 1<<53) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changes++
	for name, v := range values {
		if name == "env/steps" || strings.HasPrefix(name, "bus/") || strings.HasPrefix(name, "actor/") || len(name) > 64 || v-v != 0 {
			continue
		}
		s := h.series[name]
		if s == nil {
			if len(h.series) == maxSeries {
				continue
			}
			s = &thinned{weight: 1}
			h.series[name] = s
		}
		s.add(int64(x), int64(at), float32(v))
	}
}

func (s *thinned) add(x, t int64, y float32) {
	if s.pending == 0 {
		if len(s.X) == maxPoints {
			s.halve()
		}
		s.X, s.T, s.Y = append(s.X, x), append(s.T, t), append(s.Y, 0)
	}
	last := len(s.X) - 1
	s.pending++
	s.X[last], s.T[last] = x, t
	s.Y[last] += (y - s.Y[last]) / float32(s.pending)
	if s.pending == s.weight {
		s.pending = 0
	}
}

// halve makes one point of every two.
func (s *thinned) halve() {
	for i := range maxPoints / 2 {
		s.X[i], s.T[i], s.Y[i] = s.X[2*i+1], s.T[2*i+1], (s.Y[2*i]+s.Y[2*i+1])/2
	}
	s.X, s.T, s.Y = s.X[:maxPoints/2], s.T[:maxPoints/2], s.Y[:maxPoints/2]
	s.weight *= 2
}

// SetLevel sets a level to compare evaluations with.
func (h *History) SetLevel(name string, ratio float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.levels == nil {
		h.levels = map[string]float64{}
	}
	h.levels[name] = ratio
	h.changes++
}

// Encode returns the curves as JSON, and a number that rises with each change.
func (h *History) Encode() (curves []byte, changes uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := Curves{Series: make(map[string]Series, len(h.series)), Levels: h.levels}
	for name, s := range h.series {
		c.Series[name] = s.Series
	}
	curves, err = json.Marshal(c)
	return curves, h.changes, err
}

// ParseCurves decodes curves and checks that they hold together.
func ParseCurves(data []byte) (Curves, error) {
	var c Curves
	if err := json.Unmarshal(data, &c); err != nil {
		return Curves{}, fmt.Errorf("curves: %w", err)
	}
	for name, s := range c.Series {
		if len(s.X) != len(s.Y) || len(s.T) != len(s.Y) || len(s.Y) > maxPoints || len(name) > 64 {
			return Curves{}, fmt.Errorf("curves: %.64q has %d, %d and %d values", name, len(s.X), len(s.T), len(s.Y))
		}
	}
	return c, nil
}
