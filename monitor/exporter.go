package monitor

import (
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dreamfleet/dreamfleet/watchdog"
)

// Source tells the present values of some metrics. It is called at each scrape, may be called
// several times at once, and must not wait.
type Source func(e *Emitter)

// Emitter takes what a Source tells. A name that is not in Table, or has other labels there, makes
// the scrape fail.
type Emitter struct {
	descs map[string]desc
	out   chan<- prometheus.Metric
}

type desc struct {
	*prometheus.Desc
	Metric
}

// Value tells a counter or a gauge, with the values of its labels.
func (e *Emitter) Value(name string, value float64, labels ...string) {
	d := e.descs[name]
	kind := prometheus.GaugeValue
	if d.Kind == Counter {
		kind = prometheus.CounterValue
	}
	e.emit(name, Counter, Gauge, func() (prometheus.Metric, error) {
		return prometheus.NewConstMetric(d.Desc, kind, value, labels...)
	})
}

// Flag tells a gauge that is 0 or 1.
func (e *Emitter) Flag(name string, on bool, labels ...string) {
	value := 0.0
	if on {
		value = 1
	}
	e.Value(name, value, labels...)
}

// Distribution tells a histogram of what adds up to sum: counts holds how many were at most as large as a
// bound, and larger than the one before; a last one beyond the bounds, those that are larger still.
func (e *Emitter) Distribution(name string, sum float64, bounds []float64, counts []uint64, labels ...string) {
	d := e.descs[name]
	cumulative, count := make(map[float64]uint64, len(bounds)), uint64(0)
	for i, n := range counts {
		count += n
		if i < len(bounds) {
			cumulative[bounds[i]] = count
		}
	}
	e.emit(name, Histogram, Histogram, func() (prometheus.Metric, error) {
		return prometheus.NewConstHistogram(d.Desc, count, sum, cumulative, labels...)
	})
}

func (e *Emitter) emit(name string, kind, orKind Kind, make func() (prometheus.Metric, error)) {
	d, ok := e.descs[name]
	if !ok || d.Kind != kind && d.Kind != orKind {
		e.out <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(errMetric), fmt.Errorf("%w: %s", errMetric, name))
		return
	}
	m, err := make()
	if err != nil {
		m = prometheus.NewInvalidMetric(d.Desc, err)
	}
	e.out <- m
}

var errMetric = fmt.Errorf("no such metric is in the table")

// exporter keeps the sources.
type exporter struct {
	mu      sync.Mutex
	names   []string
	sources map[string]Source
}

func newExporter() *exporter { return &exporter{sources: map[string]Source{}} }

// collector collects from the sources of an exporter.
type collector struct {
	*exporter
	descs map[string]desc
}

// collector gives every metric the label run, unless that is empty.
func (x *exporter) collector(run string) collector {
	var labels prometheus.Labels
	if run != "" {
		labels = prometheus.Labels{"run": run}
	}
	c := collector{x, make(map[string]desc, len(Table))}
	for _, m := range Table {
		c.descs[m.Name] = desc{prometheus.NewDesc(m.Name, m.Help, m.Labels, labels), m}
	}
	return c
}

// set sets or replaces the source of that name.
func (x *exporter) set(name string, s Source) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.sources[name] == nil {
		x.names = append(x.names, name)
	}
	x.sources[name] = s
}

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d.Desc
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	sources := make([]Source, len(c.names))
	for i, name := range c.names {
		sources[i] = c.sources[name]
	}
	c.mu.Unlock()
	e := &Emitter{descs: c.descs, out: out}
	for _, s := range sources {
		s(e)
	}
}

// loops is the source of what a watchdog knows.
func loops(dog *watchdog.Watchdog) Source {
	return func(e *Emitter) {
		for _, a := range dog.Accounts() {
			e.Value("dreamfleet_loop_saturation_ratio", a.Saturation, a.Role, a.Name)
			e.Value("dreamfleet_loop_stalled", float64(a.Stalled), a.Role, a.Name)
			for _, d := range a.Durations {
				state := "busy"
				if d.Waiting {
					state = "waiting"
				}
				e.Distribution("dreamfleet_loop_seconds", d.Sum.Seconds(), watchdog.Bounds[:], d.Counts[:], a.Role, a.Name, state, d.Step)
			}
		}
	}
}

// Recorded is the source of the values of a line of metrics.jsonl that no other source has.
func Recorded(values map[string]float64) Source {
	return func(e *Emitter) {
		for name, value := range values {
			switch m, label, ok := ForSeries(name); {
			case !ok || !m.Recorded:
			case label != "":
				e.Value(m.Name, value, label)
			default:
				e.Value(m.Name, value)
			}
		}
	}
}
