package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dreamfleet/dreamfleet/dispatch"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
)

// The servers of each cell are those that the policy of demo.yaml was trained for, and so are the jobs: 0.8 of what
// the servers can do, with Pareto sizes of infinite variance.
var rates = []float64{0.2, 0.4, 0.6, 0.8, 1}

const (
	load  = 0.8
	cells = 4
)

type options struct {
	bin, run, out  string
	jobs, incident int // of a cell
	seed           uint64
	folder         string
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin/dreamfleet", "the `program`")
	flag.StringVar(&o.run, "run", "runs/demo-dispatch", "run `folder` of the policy")
	flag.StringVar(&o.out, "out", "docs/results/dispatch", "`folder` for the page and the measurements")
	flag.IntVar(&o.jobs, "jobs", 300, "jobs of a cell in the comparison")
	flag.IntVar(&o.incident, "incident", 1000, "jobs of a cell while a server slows down")
	flag.Uint64Var(&o.seed, "seed", 1, "of the jobs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.demonstrate(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// results are all that the page is made of.
type results struct {
	Rates    []float64           `json:"rates"`
	Unit     float64             `json:"time_unit_seconds"`
	Policies []string            `json:"policies"`
	Compared map[string][]sample `json:"compared"`
	Incident []sample            `json:"incident"`
	Marks    []mark              `json:"marks"`
	Surprise []surprise          `json:"surprise"`
	Limit    float64             `json:"surprise_limit"`
}

// surprise is what an audit log has of one decision.
type surprise struct {
	Cell  int     `json:"cell"`
	At    float64 `json:"at"` // seconds from the beginning
	Value float64 `json:"value"`
}

// mark is something that happened, at seconds from the beginning of the incident.
type mark struct {
	At   float64 `json:"at"`
	What string  `json:"what"`
}

func (o *options) demonstrate(ctx context.Context) error {
	if o.jobs < 20 || o.incident < 100 {
		return errors.New("at least 20 jobs, and 100 for the incident, are needed")
	}
	var err error
	if o.folder, err = os.MkdirTemp("", "dreamfleet-demo-"); err != nil {
		return err
	}
	defer os.RemoveAll(o.folder)
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	r := results{Rates: rates, Unit: unit.Seconds(), Compared: map[string][]sample{}}
	if err := o.compare(ctx, &r); err != nil {
		return err
	}
	if err := o.incide(ctx, &r); err != nil {
		return err
	}
	content, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(o.out, "measurements.json"), content, 0o644); err != nil {
		return err
	}
	return r.writePage(filepath.Join(o.out, "report.html"))
}

// arrivals are each cell's jobs, the same for all who dispatch them.
func (o *options) arrivals(n int, seed uint64) ([]loadbalance.JobList, error) {
	interval, err := loadbalance.IntervalOf(load, loadbalance.DefaultShape, loadbalance.DefaultScale, rates)
	if err != nil {
		return nil, err
	}
	var all []loadbalance.JobList
	for i := range cells {
		jobs, err := loadbalance.Record(loadbalance.NewFastSource(seed+uint64(i), interval, loadbalance.DefaultShape, loadbalance.DefaultScale), n)
		if err != nil {
			return nil, err
		}
		all = append(all, jobs)
	}
	return all, nil
}

func startCells() (list []*cell, err error) {
	for i := range cells {
		c, err := startCell("cell-"+strconv.Itoa(i), rates)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

// compare has each policy dispatch the same jobs, to servers that are idle at first.
func (o *options) compare(ctx context.Context, r *results) error {
	jobs, err := o.arrivals(o.jobs, o.seed)
	if err != nil {
		return err
	}
	d, err := o.dispatcher(ctx, "compare", "stage: active\ntime_unit: "+unit.String()+"\nguards: {surprise: {quantile: 0}, cost: {error_rate: 0}, deadline: {limit: 50ms}}\n")
	if err != nil {
		return err
	}
	defer d.stop()
	for _, p := range []struct {
		name string
		chooser
	}{
		{"round-robin", newRule(rates, roundRobin)}, {"least connections", newRule(rates, leastConnections)},
		{"LEFT", newRule(rates, leastFinish)}, {"policy", &d.remote},
	} {
		list, err := startCells()
		if err != nil {
			return err
		}
		samples, err := drive(ctx, list, jobs, p.chooser)
		for _, c := range list {
			c.close()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		r.Policies = append(r.Policies, p.name)
		r.Compared[p.name] = samples
		fmt.Printf("%-18s %s\n", p.name, summarise(samples))
	}
	d.stop() // the audit log is whole
	records, err := o.surprised("compare", time.Time{})
	if err != nil {
		return err
	}
	for _, x := range records {
		r.Limit = max(r.Limit, margin*x.Value)
	}
	if r.Limit == 0 {
		return errors.New("the audit log has no surprise: the checkpoint has no world model")
	}
	fmt.Printf("surprise of these jobs: at most %.3g\n", r.Limit/margin)
	return nil
}

// margin is the multiple of the largest surprise in the comparison, where all servers are well, that holds a cell in the
// incident.
const margin = 2

// incidentPlan is the plan of the incident, given a time unit and surprise's limit. What is not said is as usual. There is
// one human, who approves as soon as that is possible, and time is short.
const incidentPlan = `stage: shadow
time_unit: %v
canary: [0.5]
step: {after: 3s, blocks: 4}
guards:
  surprise: {threshold: %g, hold: 5s}
  cost: {block: 25, margin: 0.25}
  deadline: {limit: 50ms}
`

// incide introduces the policy anew and has the fastest server of the first cell slow down.
func (o *options) incide(ctx context.Context, r *results) error {
	jobs, err := o.arrivals(o.incident, o.seed+1000)
	if err != nil {
		return err
	}
	var length float64
	for _, j := range jobs[0] {
		length += float64(j.Gap) * unit.Seconds()
	}
	d, err := o.dispatcher(ctx, "incident", fmt.Sprintf(incidentPlan, unit, r.Limit))
	if err != nil {
		return err
	}
	defer d.stop()
	list, err := startCells()
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range list {
			c.close()
		}
	}()
	began := time.Now()
	var mu sync.Mutex
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		r.Marks = append(r.Marks, mark{time.Since(began).Seconds(), what})
		fmt.Printf("%6.1f s  %s\n", time.Since(began).Seconds(), what)
	}
	watching, unwatch := context.WithCancel(ctx)
	var under sync.WaitGroup
	under.Go(func() { d.operate(watching, note) })
	under.Go(func() {
		for _, step := range []struct {
			share, factor float64
			what          string
		}{{0.45, 0.15, "server 4 of cell-0 slows down to 15 %"}, {0.7, 1, "server 4 of cell-0 is as before"}} {
			select {
			case <-time.After(time.Until(began.Add(time.Duration(step.share * length * float64(time.Second))))):
				list[0].backends[len(rates)-1].slow(step.factor)
				note(step.what)
			case <-watching.Done():
				return
			}
		}
	})
	r.Incident, err = drive(ctx, list, jobs, &d.remote)
	unwatch()
	under.Wait()
	if err != nil {
		return err
	}
	d.stop() // the log is whole
	r.Surprise, err = o.surprised("incident", began)
	return err
}

// surprised reads the audit log of a part.
func (o *options) surprised(part string, began time.Time) (list []surprise, err error) {
	files, err := filepath.Glob(filepath.Join(o.folder, part, "audit-*.jsonl"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			var record struct {
				Time     time.Time
				Stream   string
				Surprise float64
			}
			if err := json.Unmarshal([]byte(line), &record); err != nil {
				return nil, fmt.Errorf("%s: %w", f, err)
			}
			cell, err := strconv.Atoi(strings.TrimPrefix(record.Stream, "cell-"))
			if err != nil {
				return nil, fmt.Errorf("%s: stream %q", f, record.Stream)
			}
			list = append(list, surprise{cell, tenths(record.Time.Sub(began)), math.Round(record.Surprise*1e3) / 1e3})
		}
	}
	return list, nil
}

// dispatcher is the program itself, as a process.
type dispatcher struct {
	remote
	stop func()
}

// dispatcher starts one with a plan and waits until it has parameters.
func (o *options) dispatcher(ctx context.Context, name, plan string) (*dispatcher, error) {
	file := filepath.Join(o.folder, name+".yaml")
	if err := os.WriteFile(file, []byte(plan), 0o644); err != nil {
		return nil, err
	}
	const address = "127.0.0.1:7464"
	cmd := exec.CommandContext(ctx, o.bin, "dispatch", "--run", o.run, "--plan", file, "--listen", address, "--state", filepath.Join(o.folder, name), "--log-level", "error")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d := &dispatcher{remote: remote{url: "http://" + address, client: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 10 * time.Second,
	}}}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	d.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		<-ended
		d.client.CloseIdleConnections()
	})
	for late := time.Now().Add(time.Minute); ; {
		var s dispatch.Status
		if err := d.ask(ctx, "status", struct{}{}, &s); err == nil && len(s.Versions) > 0 {
			return d, nil
		}
		select {
		case err := <-ended:
			ended <- err
			return nil, fmt.Errorf("the dispatcher has ended: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
		if ctx.Err() != nil || time.Now().After(late) {
			d.stop()
			return nil, errors.New("the dispatcher has no parameters after a minute")
		}
	}
}

// operate is the human: who approves of each step as soon as the plan's conditions are met, and looks at holds.
func (d *dispatcher) operate(ctx context.Context, note func(string)) {
	var last dispatch.Status
	held := map[string]bool{}
	for {
		var s dispatch.Status
		if err := d.ask(ctx, "status", struct{}{}, &s); err == nil {
			if s.Stage != last.Stage {
				note("stage " + string(s.Stage))
			}
			now := map[string]bool{}
			for _, h := range s.Holds {
				now[strings.TrimSpace(string(h.Guard)+" "+h.Stream)] = true
			}
			for h := range now {
				if !held[h] {
					note("hold: " + h)
				}
			}
			for h := range held {
				if !now[h] {
					note("over: " + h)
				}
			}
			held, last = now, s
			if s.Ready {
				_ = d.ask(ctx, "approve", dispatch.ApproveCall{}, &s) // if not now, then at the next look
			}
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}
