package chaos

import (
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/dreamfleet/dreamfleet/monitor"
)

var (
	soakFlag = flag.Duration("soak", 0, "for how long to run with a fault each minute; 0 leaves the test out")
	outFlag  = flag.String("soak-out", "", "folder of the samples and plots of the soak")
	drawFlag = flag.String("soak-redraw", "", "folder with the samples of an earlier soak, of which only the plots are drawn again")
)

const (
	faultEvery = time.Minute
	// sampleEvery is how often a soak looks at its processes: 1440 times in two hours.
	sampleEvery = 5 * time.Second
	// soakCapacity of the replay, in steps, is full after some minutes, so that its disk
	// can be seen to be flat.
	soakCapacity = 100_000
	// flatAfter is how long a soak must last for its last quarter to be compared with its
	// second.
	flatAfter = 30 * time.Minute
	// grown is by how much the last quarter's median may exceed nine tenths of the second
	// quarter's samples. A server that was killed begins with little memory and disk: by
	// medians of both quarters, one that went up and down between 60 and 145 MB for 76
	// minutes had grown.
	grown = 1.25
)

// gauge is what a soak samples of each process. Those with a metric are asked for; disk is
// looked at.
type gauge struct{ name, unit, metric string }

var gauges = []gauge{
	{"memory", "MB, resident", "process_resident_memory_bytes"},
	{"goroutines", "goroutines", "go_goroutines"},
	{"files", "open files", "process_open_fds"},
	{"disk", "MB on disk", ""},
}

// sample is one look at one process.
type sample struct {
	at    time.Duration
	unit  string
	gauge string
	value float64
}

// soak is a fleet that is looked at while it is broken.
type soak struct {
	*chaos
	began   time.Time
	samples []sample
}

func TestSoak(t *testing.T) {
	if *drawFlag != "" {
		samples, err := readSamples(*drawFlag)
		if err == nil {
			err = plotSamples(*drawFlag, samples)
		}
		if err != nil {
			t.Error(err)
		}
		return
	}
	if *soakFlag == 0 {
		t.Skip("left out: 'make soak' runs it")
	}
	s := &soak{chaos: newChaos(t, fmt.Sprintf("make soak DURATION=%v", *soakFlag), soakCapacity)}
	t.Cleanup(s.complain)
	s.until("training begins", func() bool { return s.updates() > 0 })
	s.began = time.Now()
	stop := s.watch()
	defer func() { stop(); s.keep(); s.flat() }()
	for next := faultEvery; next <= *soakFlag; next += faultEvery {
		s.wait(time.Until(s.began.Add(next - faultEvery/2)))
		f := faults[s.rng.IntN(len(faults))]
		t.Logf("%v: %s", time.Since(s.began).Round(time.Second), f.name)
		f.do(s.chaos, new(row))
		s.recovered()
	}
	s.wait(time.Until(s.began.Add(*soakFlag)))
}

// watch samples all processes until the function that it returns is called.
func (s *soak) watch() (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(sampleEvery)
		defer ticker.Stop()
		for {
			s.look()
			select {
			case <-ticker.C:
			case <-end:
				return
			}
		}
	}()
	return func() { close(end); <-ended }
}

// look samples every process that answers.
func (s *soak) look() {
	for _, u := range s.all() {
		at, metrics := time.Since(s.began), u.metrics()
		if len(metrics) == 0 {
			continue // it is being broken
		}
		for _, g := range gauges {
			value, ok := metrics[g.metric]
			if g.metric == "" {
				value, ok = float64(s.disk(u)), u.role != "actor"
			}
			if ok {
				s.samples = append(s.samples, sample{at, u.name, g.name, value})
			}
		}
	}
}

// disk is the bytes of what a process keeps, files that vanish meanwhile left out.
func (s *soak) disk(u *unit) (bytes int64) {
	dir := filepath.Join(s.dir, u.name)
	if u.role == "nats" {
		dir = filepath.Join(s.dir, "cluster", u.host.address)
	}
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				bytes += info.Size()
			}
		}
		return nil
	})
	return bytes
}

// samplesFile has a line for each sample.
const samplesFile = "samples.csv"

// keep writes the samples and a plot of each gauge.
func (s *soak) keep() {
	if *outFlag == "" {
		return
	}
	err := os.MkdirAll(*outFlag, 0o755)
	if err == nil {
		err = errors.Join(writeSamples(*outFlag, s.samples), plotSamples(*outFlag, s.samples))
	}
	if err != nil {
		s.t.Error(err)
	}
}

func writeSamples(dir string, samples []sample) error {
	lines := [][]string{{"seconds", "process", "gauge", "value"}}
	for _, x := range samples {
		lines = append(lines, []string{strconv.FormatFloat(x.at.Seconds(), 'f', 1, 64), x.unit, x.gauge, strconv.FormatFloat(x.value, 'f', -1, 64)})
	}
	file, err := os.Create(filepath.Join(dir, samplesFile))
	if err != nil {
		return err
	}
	return errors.Join(csv.NewWriter(file).WriteAll(lines), file.Close())
}

func readSamples(dir string) (samples []sample, err error) {
	file, err := os.Open(filepath.Join(dir, samplesFile))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines, err := csv.NewReader(file).ReadAll()
	if err != nil {
		return nil, err
	}
	for _, line := range lines[1:] {
		seconds, err := strconv.ParseFloat(line[0], 64)
		value, errOf := strconv.ParseFloat(line[3], 64)
		if err := errors.Join(err, errOf); err != nil {
			return nil, err
		}
		samples = append(samples, sample{time.Duration(seconds * float64(time.Second)), line[1], line[2], value})
	}
	return samples, nil
}

// plotSamples draws each gauge, the processes in the order in which they come, each in the same colour and dashes in all
// plots.
func plotSamples(dir string, samples []sample) error {
	var units []string
	last := time.Duration(0)
	for _, x := range samples {
		if !slices.Contains(units, x.unit) {
			units = append(units, x.unit)
		}
		last = max(last, x.at)
	}
	for _, g := range gauges {
		chart := monitor.Chart{Title: fmt.Sprintf("%v with a fault each minute", last.Round(time.Minute)), XLabel: "minutes", YLabel: g.unit}
		for i, unit := range units {
			curve := monitor.Curve{Name: unit, Color: 1 + i}
			for _, x := range samples {
				if x.unit != unit || x.gauge != g.name {
					continue
				}
				value := x.value
				if g.name == "memory" || g.name == "disk" {
					value /= 1e6
				}
				curve.X, curve.Y = append(curve.X, x.at.Minutes()), append(curve.Y, value)
			}
			if len(curve.X) > 0 {
				chart.Curves = append(chart.Curves, curve)
			}
		}
		if err := chart.SavePNG(filepath.Join(dir, g.name+".png")); err != nil {
			return err
		}
	}
	return nil
}

func (s *soak) of(unit, gauge string) (of []sample) {
	for _, x := range s.samples {
		if x.unit == unit && x.gauge == gauge {
			of = append(of, x)
		}
	}
	return of
}

// flat fails where a gauge of a process is mostly higher in the last quarter than it was in
// the second. A short run has not settled, and is not judged.
func (s *soak) flat() {
	judged := *soakFlag >= flatAfter
	for _, u := range s.all() {
		for _, g := range gauges {
			of := s.of(u.name, g.name)
			if len(of) < 8 {
				continue
			}
			quarter := len(of) / 4
			second, last := quantile(of[quarter:2*quarter], 0.9), quantile(of[len(of)-quarter:], 0.5)
			s.t.Logf("%-10s %-10s %12.0f at most in nine tenths of the second quarter, %12.0f in the middle of the last", u.name, g.name, second, last)
			records := u.role == "learner" && g.name == "disk" // its metrics are kept for ever
			if judged && !records && last > grown*second {
				s.t.Errorf("%s: %s has grown from %.0f to %.0f", u.name, g.name, second, last)
			}
		}
	}
	if !judged {
		s.t.Logf("not judged: a soak has settled after %v", flatAfter)
	}
}

func quantile(of []sample, q float64) float64 {
	values := make([]float64, len(of))
	for i, x := range of {
		values[i] = x.value
	}
	slices.Sort(values)
	return values[int(q*float64(len(values)))]
}
