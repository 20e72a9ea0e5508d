package loadbalance

import (
	"bytes"
	"encoding/json"
	"math"
	"path/filepath"
	"strings"
	"testing"
)

// The generator's first and 10000th words are from the reference implementation
// for its default seed; the rest is what numpy gives for RandomState.
func TestMT19937IsNumpysRandomState(t *testing.T) {
	var m mt19937
	m.seed(5489)
	for i, want := range []uint32{3499211612, 581869302, 3890346734, 3586334585, 545404204} {
		if got := m.uint32(); got != want {
			t.Errorf("word %d of seed 5489 is %d, want %d", i, got, want)
		}
	}
	for range 10000 - 6 {
		m.uint32()
	}
	if got := m.uint32(); got != 4123659995 {
		t.Errorf("word 10000 of seed 5489 is %d, want 4123659995", got)
	}
	m.seed(42)
	for i, want := range []float64{0.3745401188473625, 0.9507143064099162, 0.7319939418114051} {
		if got := m.float64(); got != want {
			t.Errorf("random_sample %d of seed 42 is %v, want %v", i, got, want)
		}
	}
	m.seed(42)
	if got := m.exponential(); math.Abs(got-0.4692680899768591) > 1e-15 {
		t.Errorf("standard_exponential of seed 42 is %v, want 0.4692680899768591", got)
	}
	m.seed(0)
	for i, want := range []int{5, 0, 3, 3, 7, 9, 3, 5, 2, 4} {
		if got := m.intn(10); got != want {
			t.Errorf("randint(10) %d of seed 0 is %d, want %d", i, got, want)
		}
	}
	if got := m.intn(1); got != 0 {
		t.Errorf("randint(1) is %d", got)
	}
}

// The random policy of the golden traces drew RandomState(seed+1000).randint(n).
func TestRandintOnGoldenActions(t *testing.T) {
	checked := 0
	for _, file := range goldenFiles(t) {
		if !strings.HasSuffix(filepath.Base(file), "_random.jsonl.gz") {
			continue
		}
		lines := bytes.Split(unpacked(t, file), []byte("\n"))
		var h headerLine
		if err := json.Unmarshal(lines[0], &h); err != nil {
			t.Fatal(err)
		}
		if h.Policy != "random" {
			continue
		}
		checked++
		var m mt19937
		m.seed(*h.Seed + 1000)
		for k := range h.Jobs {
			var l stepLine
			if err := json.Unmarshal(lines[2+k], &l); err != nil {
				t.Fatal(err)
			}
			if want := m.intn(h.NumServers); *l.Action != want {
				t.Fatalf("%s, step %d: action %d, drawn %d", file, k, *l.Action, want)
			}
		}
	}
	if checked < 5 {
		t.Errorf("only %d traces of the random policy", checked)
	}
}

func TestParkSourceGoesOnWithoutReseeding(t *testing.T) {
	var s Sim
	src := NewParkSource(7, DefaultInterval, DefaultShape, DefaultScale)
	for range 2 {
		if err := s.Reset([]float64{1}, 50, src); err != nil {
			t.Fatal(err)
		}
		for !s.Done() {
			if _, _, _, err := s.Step(0); err != nil {
				t.Fatal(err)
			}
		}
	}
	whole, err := Record(NewParkSource(7, DefaultInterval, DefaultShape, DefaultScale), 101)
	if err != nil {
		t.Fatal(err)
	}
	next, err := src.Next()
	if err != nil || next != whole[100] {
		t.Errorf("after two episodes of 50 jobs the source gives %v (%v), want %v", next, err, whole[100])
	}
}

// Both sources draw the same distribution. With n = 1e5 a Kolmogorov-Smirnov
// distance above 1.95 sqrt(2/n) has a chance of about 1e-3; seeds are fixed.
func TestFastSourceHasParksDistribution(t *testing.T) {
	const n = 100000
	for _, p := range [][3]float64{{55, 1.5, 100}, {20, 2.5, 50}} {
		park, err := Record(NewParkSource(1, p[0], p[1], p[2]), n)
		if err != nil {
			t.Fatal(err)
		}
		fast, err := Record(NewFastSource(1, p[0], p[1], p[2]), n)
		if err != nil {
			t.Fatal(err)
		}
		for name, of := range map[string]func(Job) int64{
			"gaps": func(j Job) int64 { return j.Gap }, "sizes": func(j Job) int64 { return j.Size },
		} {
			excess := map[int64]int{}
			highest := int64(0)
			for k := range n {
				excess[of(park[k])]++
				excess[of(fast[k])]--
				highest = max(highest, of(park[k]), of(fast[k]))
			}
			distance, sum := 0, 0
			for v := int64(0); v <= highest && v < 1e6; v++ {
				sum += excess[v]
				distance = max(distance, sum, -sum)
			}
			if limit := 1.95 * math.Sqrt(2.0/n) * n; float64(distance) > limit {
				t.Errorf("%v: distributions of %s differ by %d of %d, limit %.0f", p, name, distance, n, limit)
			}
		}
	}
}

func TestFastSourceIsSeeded(t *testing.T) {
	jobs := func(seed uint64) string {
		list, err := Record(NewFastSource(seed, 55, 1.5, 100), 20)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := jobs(1)
	if jobs(1) != first {
		t.Error("one seed gave two streams")
	}
	if jobs(2) == first {
		t.Error("two seeds gave one stream")
	}
}

func TestFastSourceKeepsWithinBounds(t *testing.T) {
	src := NewFastSource(1, 1e12, 0.01, 1e9)
	for range 1000 {
		j, err := src.Next()
		if err != nil || j.Gap < 0 || j.Gap > MaxGap || j.Size < 0 || j.Size > MaxSize {
			t.Fatalf("drew %+v, %v", j, err)
		}
	}
}

func TestDriftReachesItsFactors(t *testing.T) {
	const n = 1000
	jobs := make(JobList, n)
	for k := range jobs {
		jobs[k] = Job{Gap: 10, Size: 1000}
	}
	var d drift
	d.reset(&jobs, 4, 0.5, n)
	got, err := Record(&d, n)
	if err != nil {
		t.Fatal(err)
	}
	if got[0] != (Job{10, 1000}) || got[n-1].Size < 499 || got[n-1].Size > 500 {
		t.Errorf("from %v to %v, want from {10 1000} to {40 500}", got[0], got[n-1])
	}
	total, want, factor := int64(0), 0.0, 1.0
	for k := range got {
		total += got[k].Gap
		want += 10 * factor
		factor *= math.Pow(4, 1.0/(n-1))
	}
	if math.Abs(float64(total)-want) > 1 {
		t.Errorf("gaps sum to %d, want %.1f: rounding adds up", total, want)
	}
	if last := got[n-1].Gap; last < 39 || last > 41 {
		t.Errorf("last gap %d, want 40", last)
	}
}
