package loadbalance

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
)

// Workload makes the jobs of whole episodes. The same seed gives the same jobs, so that policies can be compared on
// common random numbers.
type Workload interface {
	Episode(seed uint64, jobs int) (Source, error)
}

// Kinds of workloads.
const (
	Poisson = "poisson" // exponential gaps and Pareto sizes, Park's own streams
	MMPP    = "mmpp"    // a Markov-modulated Poisson process: bursts
	Diurnal = "diurnal" // a Poisson process whose rate follows a sine
	CSV     = "csv"     // a trace file with a header of column names
	SWF     = "swf"     // a trace file in Standard Workload Format
)

// WorkloadConfig names a workload. Zero fields are replaced by the defaults of DefaultWorkload where a kind needs them.
type WorkloadConfig struct {
	Kind string

	// Poisson, MMPP and Diurnal: the mean gap between arrivals in time units, and Pareto sizes int(scale * p) with
	// P(p > x) = x^-shape.
	Interval, Shape, Scale float64

	// Load, when positive, is the offered load on the servers given: mean size / (mean gap * sum of rates). It sets
	// Interval, or stretches the gaps of a trace by one factor, which keeps order and burstiness.
	Load float64

	// Burst is the ratio of the arrival rate in bursts to that between them (MMPP), or of the peak's to the trough's
	// (Diurnal); at least 1. The mean rate stays 1/Interval.
	Burst float64
	// Period is the mean length of a burst (MMPP) or the length of a day (Diurnal), in time units. Bursts take a
	// share of 1/(1+Burst) of the time and half of the arrivals.
	Period float64

	// File is the path of a trace, plain or gzipped.
	File string
	// Arrival and Size name the columns of a CSV file.
	Arrival, Size string
	// Filter keeps only rows of a CSV file with a value in a column: "column=value". Empty keeps all.
	Filter string
	// Unit is the number of time units in one unit of a trace's sizes (and arrivals, which count in seconds where
	// they are timestamps). Sizes are rounded to whole units, at least 1, so raise it for a trace of fractions.
	Unit float64
}

// DefaultWorkload returns Park's workload, and for the other kinds: bursts of three times the arrival rate over some
// 40 jobs, days of 20000 time units (almost three to an episode of 1000 jobs), and columns "arrival" and "size".
func DefaultWorkload() WorkloadConfig {
	return WorkloadConfig{
		Kind: Poisson, Interval: DefaultInterval, Shape: DefaultShape, Scale: DefaultScale,
		Burst: 3, Arrival: "arrival", Size: "size", Unit: 1,
	}
}

// Default periods in time units; see DefaultWorkload.
const (
	defaultBurst = 1000
	defaultDay   = 20000
)

func (c *WorkloadConfig) setDefaults() {
	d := DefaultWorkload()
	if c.Kind == "" {
		c.Kind = d.Kind
	}
	if c.Period == 0 {
		c.Period = defaultBurst
		if c.Kind == Diurnal {
			c.Period = defaultDay
		}
	}
	for _, f := range []struct{ value, def *float64 }{
		{&c.Interval, &d.Interval}, {&c.Shape, &d.Shape}, {&c.Scale, &d.Scale}, {&c.Burst, &d.Burst}, {&c.Unit, &d.Unit},
	} {
		if *f.value == 0 {
			*f.value = *f.def
		}
	}
	for _, f := range []struct{ value, def *string }{{&c.Arrival, &d.Arrival}, {&c.Size, &d.Size}} {
		if *f.value == "" {
			*f.value = *f.def
		}
	}
}

// Check validates all of a configuration but the contents of its file.
func (c WorkloadConfig) Check() error {
	c.setDefaults()
	return c.validate()
}

// NewWorkload builds the workload that cfg names for servers of the given rates, which matter for cfg.Load only. A
// trace file is read once, for its mean size and gap, and every row is validated; errors name the file and the line.
func NewWorkload(cfg WorkloadConfig, rates []float64) (Workload, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	var total float64
	for _, r := range rates {
		total += r
	}
	if cfg.Load > 0 && total <= 0 {
		return nil, errors.New("workload: an offered load needs servers with positive rates")
	}
	switch cfg.Kind {
	case CSV, SWF:
		t, err := OpenTrace(cfg)
		if err != nil {
			return nil, err
		}
		if cfg.Load > 0 {
			err = t.Rescale(cfg.Load, total)
		}
		return t, err
	}
	if cfg.Load > 0 {
		var err error
		if cfg.Interval, err = IntervalOf(cfg.Load, cfg.Shape, cfg.Scale, rates); err != nil {
			return nil, err
		}
	}
	if cfg.Kind != Poisson && cfg.Period < cfg.Interval {
		return nil, fmt.Errorf("workload: period is %g, want at least the mean gap of %g", cfg.Period, cfg.Interval)
	}
	return synthetic(cfg), nil
}

// IntervalOf is the mean gap between arrivals at which Pareto sizes offer a load to servers of the given rates.
func IntervalOf(load, shape, scale float64, rates []float64) (float64, error) {
	if shape <= 1 {
		return 0, fmt.Errorf("workload: an offered load needs a mean size, which a Pareto shape of %g (want above 1) has not", shape)
	}
	return scale * shape / (shape - 1) / (load * sum(rates)), nil
}

func (c WorkloadConfig) validate() error {
	for _, f := range []struct {
		name  string
		value float64
	}{
		{"interval", c.Interval}, {"size shape", c.Shape}, {"size scale", c.Scale}, {"period", c.Period}, {"unit", c.Unit},
	} {
		if !(f.value > 0) || math.IsInf(f.value, 1) {
			return fmt.Errorf("workload: %s is %g, want a positive number", f.name, f.value)
		}
	}
	if !(c.Load >= 0) || math.IsInf(c.Load, 1) {
		return fmt.Errorf("workload: load is %g, want 0 (as it is) or a positive number", c.Load)
	}
	if !(c.Burst >= 1) || math.IsInf(c.Burst, 1) {
		return fmt.Errorf("workload: burst is %g, want a ratio of at least 1", c.Burst)
	}
	switch c.Kind {
	case Poisson, MMPP, Diurnal:
		return nil
	case CSV, SWF:
		if c.File == "" {
			return fmt.Errorf("workload: kind %s needs a file", c.Kind)
		}
		if _, _, ok := strings.Cut(c.Filter, "="); c.Filter != "" && !ok {
			return fmt.Errorf("workload: filter is %q, want column=value", c.Filter)
		}
		return nil
	}
	return fmt.Errorf("workload: kind is %q, want %s, %s, %s, %s or %s", c.Kind, Poisson, MMPP, Diurnal, CSV, SWF)
}

// synthetic is a workload that is drawn, not read.
type synthetic WorkloadConfig

// Episode draws from the seed; jobs is of no concern, since the source never ends.
func (w synthetic) Episode(seed uint64, jobs int) (Source, error) {
	switch w.Kind {
	case MMPP:
		return NewBurstSource(seed, w.Interval, w.Shape, w.Scale, w.Burst, w.Period), nil
	case Diurnal:
		return NewDiurnalSource(seed, w.Interval, w.Shape, w.Scale, w.Burst, w.Period), nil
	}
	if seed > math.MaxUint32 {
		return nil, fmt.Errorf("workload: seed %d, want at most %d, as Park's random streams have it", seed, uint32(math.MaxUint32))
	}
	return NewParkSource(uint32(seed), w.Interval, w.Shape, w.Scale), nil
}

// BurstSource draws Pareto sizes and gaps of a Markov-modulated Poisson process with two states, calm and burst.
type BurstSource struct {
	r            *rand.Rand
	shape, scale float64
	rate         [2]float64 // arrivals per time unit, calm and in a burst
	dwell        [2]float64 // mean time in a state
	state        int
	left         float64 // time left in the state
}

// NewBurstSource returns an endless source with a mean gap of interval. Bursts last for an exponential time of mean
// length and have burst times the arrival rate of the calm between them, which is burst times as long on average, so
// that half of the jobs arrive in bursts.
func NewBurstSource(seed uint64, interval, shape, scale, burst, length float64) *BurstSource {
	calm := (1 + burst) / (2 * burst) / interval
	s := &BurstSource{
		r: rand.New(rand.NewPCG(seed, 1)), shape: shape, scale: scale,
		rate:  [2]float64{calm, burst * calm},
		dwell: [2]float64{burst * length, length},
	}
	if s.r.Float64() < 1/(1+burst) {
		s.state = 1
	}
	s.left = s.r.ExpFloat64() * s.dwell[s.state]
	return s
}

// Next draws a job; the error is always nil.
func (s *BurstSource) Next() (Job, error) {
	// The integral of the rate from one arrival to the next is exponential with mean 1.
	expected, gap := s.r.ExpFloat64(), 0.0
	for expected > s.rate[s.state]*s.left {
		expected -= s.rate[s.state] * s.left
		gap += s.left
		s.state = 1 - s.state
		s.left = s.r.ExpFloat64() * s.dwell[s.state]
	}
	step := expected / s.rate[s.state]
	s.left -= step
	return Job{Gap: truncate(gap+step, MaxGap+1), Size: pareto(s.r, s.shape, s.scale)}, nil
}

// DiurnalSource draws Pareto sizes and gaps of a Poisson process whose rate follows a sine.
type DiurnalSource struct {
	r            *rand.Rand
	shape, scale float64
	peak         float64 // highest rate
	amplitude    float64 // of the sine, as a share of the mean rate
	day, at      float64 // length, and time of day
}

// NewDiurnalSource returns an endless source with a mean gap of interval over a day of the given length, whose peak
// has swing times the arrival rate of its trough. It begins at a random time of the day.
func NewDiurnalSource(seed uint64, interval, shape, scale, swing, day float64) *DiurnalSource {
	a := (swing - 1) / (swing + 1)
	r := rand.New(rand.NewPCG(seed, 2))
	return &DiurnalSource{r: r, shape: shape, scale: scale, peak: (1 + a) / interval, amplitude: a, day: day, at: r.Float64() * day}
}

// Next draws a job; the error is always nil.
func (s *DiurnalSource) Next() (Job, error) {
	// Thinning (Lewis and Shedler, 1979): arrivals at the peak's rate, kept with the probability rate/peak.
	gap := 0.0
	for {
		step := s.r.ExpFloat64() / s.peak
		gap += step
		s.at = math.Mod(s.at+step, s.day)
		rate := 1 + s.amplitude*math.Sin(2*math.Pi*s.at/s.day)
		if s.r.Float64()*(1+s.amplitude) < rate {
			return Job{Gap: truncate(gap, MaxGap), Size: pareto(s.r, s.shape, s.scale)}, nil
		}
	}
}

// pareto draws a size. It is cut at MaxSize, as FastSource's are, so that one rare draw does not end
// a training run.
func pareto(r *rand.Rand, shape, scale float64) int64 {
	return truncate(scale*math.Exp(r.ExpFloat64()/shape), MaxSize)
}

// JobList is an episode's jobs kept in memory: a Source that can be read again by copying the slice.
type JobList []Job

// Next returns the first job and drops it from the list, io.EOF when there is none.
func (l *JobList) Next() (Job, error) {
	if len(*l) == 0 {
		return Job{}, io.EOF
	}
	j := (*l)[0]
	*l = (*l)[1:]
	return j, nil
}

// Record reads up to n jobs of a source.
func Record(src Source, n int) (JobList, error) {
	jobs := make(JobList, 0, n)
	for len(jobs) < n {
		j, err := src.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	return slices.Clip(jobs), nil
}

// opener opens a trace's file; tests put memory in its place.
type opener func() (io.ReadCloser, error)

func fileOpener(path string) opener {
	return func() (io.ReadCloser, error) { return os.Open(path) }
}
