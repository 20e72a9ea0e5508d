package loadbalance

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func drawTasks(t testing.TB, d *Tasks, n int) []*Task {
	t.Helper()
	if err := d.Check(); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	tasks := make([]*Task, n)
	for i := range tasks {
		tasks[i] = d.Draw(r).(*Task)
	}
	return tasks
}

// spread checks that values fill a range, with half of them below its middle.
func spread(t *testing.T, name string, values []float64, g Range, middle float64) {
	t.Helper()
	slices.Sort(values)
	lo, median, hi := values[0], values[len(values)/2], values[len(values)-1]
	width := g.Hi - g.Lo
	if lo < g.Lo || hi > g.Hi || lo > g.Lo+width/50 || hi < g.Hi-width/50 {
		t.Errorf("%s drawn from %v to %v, want all of %v", name, lo, hi, g)
	}
	if math.Abs(median-middle) > width/15 {
		t.Errorf("median %s %v, want about %v", name, median, middle)
	}
}

func TestTasksDrawTheirRanges(t *testing.T) {
	interval, shape, scale := Range{30, 120}, Range{1.2, 2.4}, Range{50, 200}
	drift, rate := Range{0.5, 2}, Range{0.8, 1.25}
	d := &Tasks{
		Base: *ParkTask(), Interval: interval, Shape: shape, Scale: scale, RateScale: rate,
		IntervalDrift: drift, SizeDrift: drift,
	}
	of := map[string][]float64{}
	for _, task := range drawTasks(t, d, 2000) {
		of["interval"] = append(of["interval"], task.Interval)
		of["shape"] = append(of["shape"], task.Shape)
		of["scale"] = append(of["scale"], task.Scale)
		of["interval drift"] = append(of["interval drift"], task.IntervalDrift)
		of["size drift"] = append(of["size drift"], task.SizeDrift)
		of["factor 0"] = append(of["factor 0"], task.Rates[0]/0.15)
		of["factor 9"] = append(of["factor 9"], task.Rates[9]/1.05)
		of["ratio of factors"] = append(of["ratio of factors"], task.Rates[9]/1.05/(task.Rates[0]/0.15))
	}
	spread(t, "interval", of["interval"], interval, 60)
	spread(t, "shape", of["shape"], shape, 1.8)
	spread(t, "scale", of["scale"], scale, 100)
	spread(t, "interval drift", of["interval drift"], drift, 1)
	spread(t, "size drift", of["size drift"], drift, 1)
	wide := Range{rate.Lo - 1e-9, rate.Hi + 1e-9} // the ratio rounds
	spread(t, "factor 0", of["factor 0"], wide, 1)
	spread(t, "factor 9", of["factor 9"], wide, 1)
	if ratios := of["ratio of factors"]; slices.Max(ratios) < 1.3 {
		t.Error("all servers of a task share one factor")
	}
	if base := ParkTask(); !reflect.DeepEqual(d.Base, *base) {
		t.Error("drawing changed the base task")
	}
}

func TestTasksWithoutRangesAreTheBase(t *testing.T) {
	for _, task := range drawTasks(t, &Tasks{Base: *ParkTask()}, 3) {
		if !reflect.DeepEqual(task, ParkTask()) {
			t.Errorf("drew %+v", task)
		}
	}
}

func TestTasksLackServersInPlace(t *testing.T) {
	d := &Tasks{Base: *ParkTask(), Servers: [2]int{4, 7}, KeepLoad: true}
	if !d.Masks() {
		t.Error("servers vary, but Masks is false")
	}
	counts, lacking := map[int]int{}, map[int]int{}
	for _, task := range drawTasks(t, d, 2000) {
		n, total := 0, 0.0
		for i, r := range task.Rates {
			switch r {
			case 0:
				lacking[i]++
			case DefaultRates()[i]:
				n++
				total += r
			default:
				t.Fatalf("server %d has rate %v", i, r)
			}
		}
		counts[n]++
		if load, want := 1/(task.Interval*total), 1/(DefaultInterval*6); math.Abs(load-want) > 1e-12 {
			t.Fatalf("load changed by a factor of %v", load/want)
		}
	}
	if len(counts) != 4 || counts[4] < 400 || counts[7] < 400 {
		t.Errorf("numbers of servers %v, want 4 to 7 evenly", counts)
	}
	for i := range 10 {
		if lacking[i] < 700 || lacking[i] > 1100 { // 0.45 of 2000
			t.Errorf("server %d is absent %d times", i, lacking[i])
		}
	}
}

func TestTasksOfALoad(t *testing.T) {
	d := &Tasks{Base: *ParkTask(), Load: Range{0.6, 1}, Shape: Range{1.5, 4}, Scale: Range{80, 200}, Servers: [2]int{4, 10}}
	var loads []float64
	for _, task := range drawTasks(t, d, 1000) {
		total := 0.0
		for _, r := range task.Rates {
			total += r
		}
		mean := task.Scale * (1 + 1/(task.Shape-1)) // of a Pareto distribution
		loads = append(loads, mean/task.Interval/total)
	}
	slices.Sort(loads)
	if loads[0] < 0.6-1e-9 || loads[len(loads)-1] > 1+1e-9 || math.Abs(loads[len(loads)/2]-0.8) > 0.03 {
		t.Errorf("loads from %g to %g with a median of %g, want 0.6 to 1 evenly", loads[0], loads[len(loads)-1], loads[len(loads)/2])
	}
}

func TestTasksPermute(t *testing.T) {
	firsts := map[float64]int{}
	for _, task := range drawTasks(t, &Tasks{Base: *ParkTask(), Permute: true}, 1000) {
		firsts[task.Rates[0]]++
		if sorted := slices.Sorted(slices.Values(task.Rates)); !slices.Equal(sorted, DefaultRates()) {
			t.Fatalf("rates %v", task.Rates)
		}
	}
	if len(firsts) != 10 {
		t.Errorf("server 0 had only the rates %v", firsts)
	}
}

func TestTasksChangeServers(t *testing.T) {
	d := &Tasks{
		Base: *ParkTask(), Slow: [2]int{0, 2}, SlowFactor: Range{0.3, 0.6},
		Fail: [2]int{0, 3}, Outage: Range{0.1, 0.2}, Join: [2]int{0, 3}, Jobs: 1000,
		Servers: [2]int{1, 10}, Permute: true,
	}
	const length = DefaultInterval * 1000
	seen := map[string]int{}
	for k, task := range drawTasks(t, d, 2000) {
		if err := checkChanges(task.Rates, task.Changes); err != nil {
			t.Fatalf("task %d: %v", k, err)
		}
		down := map[int]int64{}
		for _, c := range task.Changes {
			switch before := task.Rates[c.Server]; {
			case c.Rate == 0:
				seen["fail"]++
				down[c.Server] = c.Time
			case before == 0:
				seen["join"]++
				if c.Time > length/2 {
					t.Fatalf("task %d: a server joins at %d", k, c.Time)
				}
			case c.Rate == before:
				seen["back"]++
				if out := float64(c.Time - down[c.Server]); out < 0.1*length-1 || out > 0.2*length+1 {
					t.Fatalf("task %d: an outage of %v", k, out)
				}
			default:
				seen["slow"]++
				if f := c.Rate / before; f < 0.3-1e-9 || f > 0.6+1e-9 {
					t.Fatalf("task %d: slowed by %v", k, f)
				}
			}
		}
	}
	if seen["fail"] != seen["back"] || seen["fail"] < 1000 || seen["join"] < 1000 || seen["slow"] < 1000 {
		t.Errorf("drew %v", seen)
	}
}

func TestTasksRefuse(t *testing.T) {
	for _, c := range []struct {
		change func(*Tasks)
		want   string
	}{
		{func(d *Tasks) { d.Interval = Range{0, 10} }, "range of interval is [0, 10]"},
		{func(d *Tasks) { d.Shape = Range{2, 1} }, "range of size shape is [2, 1]"},
		{func(d *Tasks) { d.Scale = Range{1, math.Inf(1)} }, "range of size scale is [1, +Inf]"},
		{func(d *Tasks) { d.IntervalDrift = Range{math.NaN(), 1} }, "range of interval drift"},
		{func(d *Tasks) { d.Servers = [2]int{0, 4} }, "range of servers is [0 4]"},
		{func(d *Tasks) { d.Servers = [2]int{4, 11} }, "range of servers is [4 11]"},
		{func(d *Tasks) { d.Slow = [2]int{1, 2} }, "need a range of the slow factor"},
		{func(d *Tasks) { d.Fail = [2]int{1, 2} }, "need a range of the outage"},
		{func(d *Tasks) { d.Join = [2]int{1, 2} }, "0 jobs an episode"},
		{func(d *Tasks) { d.Join = [2]int{-1, 2} }, "servers that join is [-1 2]"},
		{func(d *Tasks) { d.RateScale = Range{1e-4, 1} }, "service rates reach from 1.5e-05"},
		{func(d *Tasks) { d.Base.Rates = nil }, "0 servers"},
		{func(d *Tasks) { d.Base.Rates = []float64{0, 1} }, "service rates reach from 0"},
		{func(d *Tasks) { d.Base.Interval = 0 }, "job interval is 0"},
		{func(d *Tasks) { d.Base.SizeDrift = -1 }, "size drift is -1"},
		{func(d *Tasks) { d.Base.Workload = oneJob{}; d.KeepLoad = true }, "for Poisson arrivals"},
		{func(d *Tasks) { d.Base.Workload = oneJob{}; d.Load = Range{0.5, 1} }, "for Poisson arrivals"},
		{func(d *Tasks) { d.Load = Range{0.5, 1}; d.Interval = Range{50, 60} }, "neither a range of the interval"},
		{func(d *Tasks) { d.Load = Range{0.5, 1}; d.Shape = Range{1, 2} }, "shape 1, want above 1"},
		{func(d *Tasks) { d.Base.Changes = []Change{{1, 0, 1}}; d.Permute = true }, "fixed servers only"},
	} {
		d := &Tasks{Base: *ParkTask()}
		c.change(d)
		if err := d.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// oneJob is a workload whose episodes are one job, as long as the seed.
type oneJob struct{}

func (oneJob) Episode(seed uint64, _ int) (Source, error) {
	return &JobList{{1, int64(seed)}}, nil
}

func TestEvenRatesAreParks(t *testing.T) {
	if got := EvenRates(10); !slices.Equal(got, DefaultRates()) {
		t.Errorf("%v, want %v", got, DefaultRates())
	}
	if got := EvenRates(1); !slices.Equal(got, []float64{0.15}) {
		t.Errorf("%v", got)
	}
}
