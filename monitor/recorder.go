package monitor

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

// MetricsFile is the name of the metrics in a run folder.
const MetricsFile = "metrics.jsonl"

// RecorderConfig says where a Recorder writes and from which step on.
type RecorderConfig struct {
	Dir  string           // run folder, which exists
	Step int64            // step at which the run goes on, 0 for a new one: lines beyond it are dropped
	Now  func() time.Time // nil writes no times, as in lockstep

	// Ending names a value that is written when a run ends, empty for none. A line at Step that has
	// it is dropped, too: a run that had not ended there would not have it.
	Ending string
	Kept   func(Metrics) // given each line that stays, from which a run goes on; nil: nobody is
	Warn   func(error)   // told of lines that are dropped since they are damaged; nil: nobody is
}

// Recorder appends metrics to a run folder. Its methods may be called from several goroutines.
type Recorder struct {
	now func() time.Time

	mu        sync.Mutex
	metrics   metricsFile
	size      int64 // of its whole lines
	events    *eventWriter
	line      []byte
	nonFinite int64
}

// OpenRecorder opens the metrics of a run folder, new or resumed.
func OpenRecorder(cfg RecorderConfig) (*Recorder, error) {
	path := filepath.Join(cfg.Dir, MetricsFile)
	if err := cutMetrics(path, cfg.Step, cfg.Ending, cfg.Kept, cfg.Warn); err != nil {
		return nil, err
	}
	metrics, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open metrics: %w", err)
	}
	info, err := metrics.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open metrics: %w", err), metrics.Close())
	}
	r := &Recorder{now: cfg.Now, metrics: metrics, size: info.Size()}
	r.events, err = openEvents(cfg.Dir, cfg.Step, r.clock())
	if err != nil {
		return nil, errors.Join(err, metrics.Close())
	}
	return r, nil
}

// metricsFile is an *os.File, except in a test that has no room on the disk.
type metricsFile interface {
	io.WriteCloser
	Sync() error
	Truncate(size int64) error
}

// clock returns the time in seconds since 1970, or 0 without a clock.
func (r *Recorder) clock() float64 {
	if r.now == nil {
		return 0
	}
	return float64(r.now().UnixMilli()) / 1000
}

// Record writes the values of one step; names are free but for step and time. A value that is no
// finite number is written as null and counted.
func (r *Recorder) Record(step int64, values map[string]float64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock()
	line := append(r.line[:0], `{"step":`...)
	line = strconv.AppendInt(line, step, 10)
	if r.now != nil {
		line = append(line, `,"time":`...)
		line = strconv.AppendFloat(line, now, 'f', 3, 64)
	}
	names := slices.Sorted(maps.Keys(values))
	for _, name := range names {
		if name == "step" || name == "time" {
			return fmt.Errorf("record metrics: the name %s is taken", name)
		}
		line = append(line, ',')
		line = appendJSONString(line, name)
		line = append(line, ':')
		if v := values[name]; math.IsNaN(v) || math.IsInf(v, 0) {
			line = append(line, "null"...)
			r.nonFinite++
		} else {
			line = appendJSONFloat(line, v)
		}
	}
	r.line = append(line, '}', '\n')
	if _, err := r.metrics.Write(r.line); err != nil {
		// A part of the line, where the disk was full, would spoil the next one.
		return errors.Join(fmt.Errorf("record metrics: %w", err), r.metrics.Truncate(r.size))
	}
	r.size += int64(len(r.line))
	if err := r.events.scalars(step, now, names, values); err != nil {
		return fmt.Errorf("record TensorBoard events: %w", err)
	}
	return nil
}

// NonFinite counts the values written as null since the Recorder was opened.
func (r *Recorder) NonFinite() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nonFinite
}

// Close syncs and closes the files.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.metrics.Sync(), r.metrics.Close(), r.events.close())
}
