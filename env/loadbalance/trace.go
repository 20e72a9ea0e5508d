package loadbalance

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
)

// Bounds on what is read from a trace file.
const (
	// maxRow bounds a row's bytes; the widest published SWF and CSV traces stay below 1 KiB.
	maxRow = 64 << 10
	// reorderWindow is the number of rows within which rows may be out of order. Logs written by several machines
	// are mixed over seconds, not hours: 1024 rows suffice, and cost 32 KiB.
	reorderWindow = 1024
	// maxSeconds bounds arrivals and sizes as they stand in a file: thirty thousand years, so that nanoseconds since
	// 1970 (1.8e18) are the only clock in use that does not fit.
	maxSeconds = 1e16
)

// row is what the formats have in common.
type row struct {
	line          int
	arrival, size float64
	kept          bool // false where a filter leaves the row out
}

// rowReader parses one format. next returns io.EOF after the last row; other errors name the file and the line.
type rowReader interface {
	next() (row, error)
}

// TraceStats says what a trace file holds.
type TraceStats struct {
	Rows      int // rows of data
	Filtered  int // rows left out by the filter
	Skipped   int // rows left out because their run time is zero or negative
	Unordered int // rows that stood below a later arrival and were put in order
	Jobs      int // what remains
	// MeanSize and MeanGap are in time units, the gap before rescaling.
	MeanSize, MeanGap float64
	// Stretch is the factor on all gaps, 1 unless rescaled.
	Stretch float64
}

// Trace is a workload read from a file: every episode is a window of consecutive jobs whose place the seed draws.
//
// The file is streamed, once when it is opened, to validate it and to find its means, and once an episode up to the
// end of its window; what is held in memory is one window. Rows with a run time of zero or less are skipped and
// counted. Rows out of order are sorted by arrival, ties in the file's order, within 1024 rows; a row further out of
// place is an error, since sorting it would need the whole file in memory. Arrivals are rounded down after
// stretching, not gap by gap, so that rounding never adds up.
type Trace struct {
	name  string
	open  opener
	rows  func(name string, r io.Reader) (rowReader, error)
	unit  float64
	stats TraceStats

	first, jobs int // those that episodes are drawn from: where they begin, and how many

	widest float64 // longest gap in time units, before rescaling
}

// OpenTrace reads through cfg.File, whose kind is CSV or SWF, and leaves the gaps as they are.
func OpenTrace(cfg WorkloadConfig) (*Trace, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return openTrace(cfg, fileOpener(cfg.File))
}

func openTrace(cfg WorkloadConfig, open opener) (*Trace, error) {
	t := &Trace{name: cfg.File, open: open, unit: cfg.Unit, stats: TraceStats{Stretch: 1}}
	switch cfg.Kind {
	case CSV:
		t.rows = func(name string, r io.Reader) (rowReader, error) { return newCSVReader(name, r, cfg) }
	case SWF:
		t.rows = func(name string, r io.Reader) (rowReader, error) { return newSWFReader(name, r), nil }
	default:
		return nil, fmt.Errorf("workload: kind %q is no trace, want %s or %s", cfg.Kind, CSV, SWF)
	}

	s := &t.stats
	var first, last, sizes float64
	in, err := t.stream(s)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	for {
		r, err := in.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if s.Jobs == 0 {
			first, last = r.arrival, r.arrival
		}
		t.widest = max(t.widest, (r.arrival-last)*t.unit)
		last = r.arrival
		sizes += float64(t.size(r))
		s.Jobs++
	}
	if s.Jobs == 0 {
		return nil, fmt.Errorf("%s: no jobs among %d rows (%d filtered, %d with a run time of zero or less)", t.name, s.Rows, s.Filtered, s.Skipped)
	}
	s.MeanSize = sizes / float64(s.Jobs)
	if s.Jobs > 1 {
		s.MeanGap = (last - first) * t.unit / float64(s.Jobs-1)
	}
	if t.widest > MaxGap {
		return nil, fmt.Errorf("%s: two jobs are %g time units apart, want at most %d", t.name, t.widest, int64(MaxGap))
	}
	t.jobs = s.Jobs
	return t, nil
}

// Split divides a trace at a share of its jobs, by date: episodes of one part share no job with those of the other.
func (t *Trace) Split(share float64) (before, after *Trace) {
	cut := int(share * float64(t.jobs))
	b, a := *t, *t
	b.jobs = cut
	a.first, a.jobs = t.first+cut, t.jobs-cut
	return &b, &a
}

// Jobs is the number of jobs that episodes are drawn from: all, unless the trace is a part of another.
func (t *Trace) Jobs() int { return t.jobs }

// Dated is a trace cut into episodes by date, one after another: the seed is the number of the episode, from 0. No two
// episodes share a job, so that scores of theirs are as independent as the trace is.
type Dated struct{ Trace *Trace }

// Episode reads so many jobs from the place that the seed names.
func (d Dated) Episode(seed uint64, jobs int) (Source, error) {
	t := d.Trace
	if n := t.jobs / jobs; seed >= uint64(n) {
		return nil, fmt.Errorf("%s: episode %d by date, but %d jobs make %d episodes of %d, from 0", t.name, seed, t.jobs, n, jobs)
	}
	return t.window(t.first+int(seed)*jobs, jobs)
}

// Rescale stretches all gaps by one factor, so that the whole trace offers the load to servers whose rates sum to
// total: load = mean size / (mean gap * total).
func (t *Trace) Rescale(load, total float64) error {
	if t.stats.MeanGap <= 0 {
		return fmt.Errorf("%s: all jobs arrive at once; no stretching gives a load of %g", t.name, load)
	}
	stretch := t.stats.MeanSize / (load * total) / t.stats.MeanGap
	if t.widest*stretch > MaxGap {
		return fmt.Errorf("%s: at a load of %g two jobs would be %g time units apart, want at most %d",
			t.name, load, t.widest*stretch, int64(MaxGap))
	}
	t.stats.Stretch = stretch
	return nil
}

// Stats returns what the file holds.
func (t *Trace) Stats() TraceStats { return t.stats }

// Episode reads the window of jobs that the seed draws, evenly among all windows of that length.
func (t *Trace) Episode(seed uint64, jobs int) (Source, error) {
	if jobs > t.jobs {
		return nil, fmt.Errorf("%s: an episode of %d jobs, but there are %d to draw from", t.name, jobs, t.jobs)
	}
	start := rand.New(rand.NewPCG(seed, 3)).IntN(t.jobs - jobs + 1)
	return t.window(t.first+start, jobs)
}

func (t *Trace) window(start, jobs int) (Source, error) {
	in, err := t.stream(new(TraceStats))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	list := make(JobList, 0, jobs)
	var first float64
	var previous int64
	for k := 0; len(list) < jobs; k++ {
		r, err := in.next()
		if err == io.EOF {
			return nil, fmt.Errorf("%s: has fewer jobs than when it was opened", t.name)
		}
		if err != nil {
			return nil, err
		}
		if k == 0 {
			first = r.arrival
		}
		at := int64((r.arrival - first) * t.unit * t.stats.Stretch)
		if k >= start {
			list = append(list, Job{Gap: at - previous, Size: t.size(r)})
		}
		previous = at
	}
	return &list, nil
}

// size is the row's size in whole time units, at least 1.
func (t *Trace) size(r row) int64 {
	return max(1, int64(math.Round(r.size*t.unit)))
}

// stream opens the file and returns its jobs in order of arrival, counting into s.
func (t *Trace) stream(s *TraceStats) (*jobRows, error) {
	f, err := t.open()
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	r, err := plain(f)
	if err == nil {
		var rows rowReader
		if rows, err = t.rows(t.name, r); err == nil {
			return &jobRows{trace: t, file: f, rows: rows, stats: s, latest: math.Inf(-1)}, nil
		}
		f.Close()
		return nil, err
	}
	f.Close()
	return nil, fmt.Errorf("%s: %w", t.name, cutShort(err))
}

// plain unpacks r if it begins like a gzip file.
func plain(r io.Reader) (io.Reader, error) {
	b := bufio.NewReader(r)
	if magic, _ := b.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return b, nil
	}
	return gzip.NewReader(b)
}

// cutShort explains an error of reading that comes of a compressed file without its end.
func cutShort(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the file is cut short")
	}
	return err
}

// scanLine advances to the next whole line and counts it. A bufio.Scanner gives out what it has of a line when
// reading fails, and its error only with the next call: such a line is none.
func scanLine(lines *bufio.Scanner, line *int) bool {
	if !lines.Scan() {
		return false
	}
	if lines.Err() != nil {
		for lines.Scan() {
			*line++
		}
		return false
	}
	*line++
	return true
}

// jobRows puts rows in order by a heap of reorderWindow rows and leaves out those that are no jobs.
type jobRows struct {
	trace *Trace
	file  io.Closer
	rows  rowReader
	stats *TraceStats

	heap   []row
	end    bool
	latest float64 // highest arrival read
	out    row     // last row given out
}

func (j *jobRows) Close() { j.file.Close() }

func (j *jobRows) next() (row, error) {
	for !j.end && len(j.heap) < reorderWindow {
		r, err := j.rows.next()
		if err == io.EOF {
			j.end = true
			break
		}
		if err != nil {
			return row{}, err
		}
		j.stats.Rows++
		switch {
		case !r.kept:
			j.stats.Filtered++
			continue
		case r.size <= 0:
			j.stats.Skipped++
			continue
		case r.size*j.trace.unit > MaxSize:
			return row{}, fmt.Errorf("%s:%d: a job of %g time units, want at most %d", j.trace.name, r.line, r.size*j.trace.unit, int64(MaxSize))
		case j.out.line > 0 && r.arrival < j.out.arrival:
			return row{}, fmt.Errorf("%s:%d: arrives before line %d, more than %d rows above; sort the file by arrival",
				j.trace.name, r.line, j.out.line, reorderWindow)
		}
		if r.arrival < j.latest {
			j.stats.Unordered++
		}
		j.latest = max(j.latest, r.arrival)
		j.push(r)
	}
	if len(j.heap) == 0 {
		return row{}, io.EOF
	}
	j.out = j.pop()
	return j.out, nil
}

func before(a, b row) bool {
	return a.arrival < b.arrival || (a.arrival == b.arrival && a.line < b.line)
}

func (j *jobRows) push(r row) {
	j.heap = append(j.heap, r)
	for i := len(j.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !before(j.heap[i], j.heap[up]) {
			return
		}
		j.heap[i], j.heap[up] = j.heap[up], j.heap[i]
		i = up
	}
}

func (j *jobRows) pop() row {
	h := j.heap
	top, last := h[0], len(h)-1
	h[0] = h[last]
	h = h[:last]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h); c++ {
			if before(h[c], h[least]) {
				least = c
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	j.heap = h
	return top
}
