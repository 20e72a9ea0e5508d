package dispatch

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// Config is what a Service is made of.
type Config struct {
	Run    string
	Policy Policy
	Plan   Plan
	Dir    string // of state, kept versions and the audit log; empty: none is kept

	Publish func(event []byte) error // tells the bus of an event; nil: nobody
	// Record takes the service's own experience, if the plan wants it published; it
	// must not wait.
	Record func(*protocol.Chunk)
	Name   string // of the experience's actor
	Stride int    // of its context rows, as the run has it

	Now  func() time.Time
	Seed uint64
	Log  hclog.Logger
}

// Service decides. Its methods may be called from several goroutines.
type Service struct {
	run    string
	policy Policy
	plan   Plan
	view   *loadbalance.View
	dir    string
	now    func() time.Time
	seed   uint64
	log    hclog.Logger
	audit  *audit
	alarm  *alarm
	replay *replayer
	record func(*protocol.Chunk)
	name   string
	stride int

	in     chan *pending
	saving sync.Mutex

	mu       sync.Mutex
	state    state
	streams  streams
	versions []*version // by number
	acting   *version   // nil: none yet
	newest   uint64
	renewed  time.Time // when the newest was last heard of
	test     *costTest
	rushed   float64 // share of the last few hundred decisions that missed the deadline
	warned   map[Reason]time.Time
	unsaved  bool
	recorded uint32 // streams whose experience is published

	// Of the acting version, since the last step.
	blocks                    int
	policyCost, referenceCost float64 // sums of mean completion times, in time units

	counts  counts
	swaps   uint64
	refused uint64
	latency [len(LatencyBounds) + 1]uint64
	waited  time.Duration
}

// pending is a request on its way. Service.mu guards it, once it is sent.
type pending struct {
	request Request
	stream  *stream
	arrived time.Time
	done    bool // decided, by the loop or by the deadline
	choice  int
	answer  chan answer
}

type answer struct {
	decision Decision
	err      error
}

// New makes a service, which decides while Run runs.
func New(ctx context.Context, c Config) (*Service, error) {
	m := c.Policy.Model
	c.Plan.settle(&c.Policy)
	if err := c.Plan.check(m.Actions); err != nil {
		return nil, err
	}
	view, err := loadbalance.NewView(c.Policy.Env)
	if err != nil {
		return nil, fmt.Errorf("dispatch: %w", err)
	}
	s := &Service{
		run: c.Run, policy: c.Policy, plan: c.Plan, view: view, dir: c.Dir, now: c.Now, seed: c.Seed, log: c.Log,
		record: c.Record, name: c.Name, stride: c.Stride, in: make(chan *pending, 4*c.Plan.Batch),
		streams: newStreams(c.Plan.Streams), test: newCostTest(c.Plan.Guards.Cost), warned: map[Reason]time.Time{},
		alarm: newAlarm(c.Plan.Alarm, c.Publish, c.Log),
	}
	if !c.Plan.Experience.Publish {
		s.record = nil
	}
	s.replay = newReplayer(s)
	s.state = state{Stage: c.Plan.Stage, Since: c.Now()}
	if s.dir == "" {
		return s, nil
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, fmt.Errorf("dispatch: %w", err)
	}
	if err := s.loadState(); err != nil {
		return nil, fmt.Errorf("dispatch: %w", err)
	}
	if err := s.loadVersions(ctx); err != nil {
		return nil, fmt.Errorf("dispatch: kept versions: %w", err)
	}
	if s.audit, err = openAudit(s.dir, s.plan.Audit); err != nil {
		return nil, fmt.Errorf("dispatch: %w", err)
	}
	return s, nil
}

// tendEvery is how often holds, ages and steps are looked after.
const tendEvery = time.Second

// Run decides until ctx ends. What has been asked by then is answered.
func (s *Service) Run(ctx context.Context) error {
	var group errgroup.Group
	stop, cancel := context.WithCancel(ctx)
	defer cancel()
	recorded := make(chan struct{}) // all decisions are
	if s.audit != nil {
		sync := time.NewTicker(s.plan.Audit.Sync)
		defer sync.Stop()
		group.Go(func() error { return s.audit.run(recorded, sync.C) })
	}
	group.Go(func() error { s.alarm.run(stop); return nil })
	group.Go(func() error { s.replay.run(stop); return nil })
	group.Go(func() error {
		tick := time.NewTicker(tendEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.tend()
			case <-stop.Done():
				return nil
			}
		}
	})
	s.decideUntil(ctx)
	cancel()
	close(recorded)
	return errors.Join(group.Wait(), s.save())
}

// ErrStopping: the service ends.
var ErrStopping = errors.New("the dispatcher is stopping")

// Decide answers a request, within the deadline of the plan: by the reference where
// the policy has not answered by then. Errors wrap ErrRequest, ErrFull or
// ErrStopping.
func (s *Service) Decide(ctx context.Context, r Request) (Decision, error) {
	if err := r.check(s.policy.Model.Actions); err != nil {
		return Decision{}, err
	}
	p := &pending{request: r, arrived: s.now(), answer: make(chan answer, 1)}
	if err := s.enter(p); err != nil {
		return Decision{}, err
	}
	late := time.NewTimer(s.plan.Guards.Deadline.Limit)
	defer late.Stop()
	select {
	case s.in <- p:
	case <-late.C:
		return s.decideLate(p)
	case <-ctx.Done():
		return Decision{}, fmt.Errorf("%w: %w", ErrStopping, ctx.Err())
	}
	select {
	case a := <-p.answer:
		return a.decision, a.err
	case <-late.C:
		return s.decideLate(p)
	}
}

// enter finds the request's stream.
func (s *Service) enter(p *pending) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &p.request
	st, known := s.streams.get(r.Stream, func() *stream { return s.newStream(r.Stream) })
	p.stream = st
	switch {
	case r.Start:
		s.begin(st)
	case !known && r.Loads == nil:
		st.settle = s.plan.Guards.State.Settle
	}
	if r.Loads == nil && len(st.queues.jobs) >= s.plan.Unfinished {
		return fmt.Errorf("stream %q has %w: %d, so report completions, or start it anew", r.Stream, ErrFull, len(st.queues.jobs))
	}
	return nil
}

func (s *Service) newStream(name string) *stream {
	m := s.policy.Model
	return &stream{
		name: name, position: position(name), queues: newQueues(&s.plan, m.Actions, s.now()), memory: make([]float32, m.ContextLen()),
		sums: make(surprise, m.Actions),
	}
}

// begin makes a stream one whose servers are empty and of which nothing is remembered.
// A hold lasts.
func (s *Service) begin(st *stream) {
	st.queues = newQueues(&s.plan, s.policy.Model.Actions, s.now())
	st.begun, st.settle, st.settled, st.size = false, 0, 0, 0
	st.calm()
	st.block, st.arrived = nil, time.Time{}
	st.record = nil
}

// decideLate takes the reference's choice since the policy's has not come in time.
func (s *Service) decideLate(p *pending) (Decision, error) {
	s.mu.Lock()
	if p.done {
		s.mu.Unlock()
		a := <-p.answer
		return a.decision, a.err
	}
	now := s.now()
	m := s.policy.Model
	look := newLook(m.Actions)
	s.look(p, look, now)
	d, err := s.assign(p, look, verdict{advice: -1, reason: ReasonDeadline}, now)
	p.done = true
	s.rush(1)
	s.mu.Unlock()
	return d, err
}

// look is what is seen of a stream's servers when a job arrives.
type look struct {
	loads []float64
	up    []bool
}

func newLook(servers int) *look { return &look{make([]float64, servers), make([]bool, servers)} }

// look fills l. Service.mu is held.
func (s *Service) look(p *pending, l *look, now time.Time) {
	st := p.stream
	st.queues.advance(now)
	if p.request.Loads != nil {
		copy(l.loads, p.request.Loads)
	} else {
		st.queues.loads(l.loads, now)
	}
	for i := range l.up {
		l.up[i] = true
	}
	for _, server := range p.request.Down {
		l.up[server] = false
	}
}

// verdict is what became of the policy's advice.
type verdict struct {
	advice  int // -1: none
	logProb float32
	version uint64
	reason  Reason // why the reference decides; empty: the policy does
}

// assign takes the decision: it puts the job where it shall go and records that.
// Service.mu is held.
func (s *Service) assign(p *pending, l *look, v verdict, now time.Time) (Decision, error) {
	st, r := p.stream, &p.request
	size := float64(r.Size)
	rate := func(server int) float64 { return st.queues.rate(server, now) }
	d := Decision{
		Job: r.Job, Decider: "policy", Reason: v.reason, Stage: s.state.Stage, Version: v.version, Advice: v.advice,
		Reference: refer(s.plan.Reference, l.loads, size, l.up, rate),
	}
	d.Server = v.advice
	if v.reason != "" {
		d.Decider, d.Server = "reference", d.Reference
	}
	d.Name = s.serverName(d.Server)
	if d.Job == "" {
		st.jobs++
		d.Job = strconv.FormatUint(st.jobs, 10)
	}
	backlog := l.loads[d.Server] / rate(d.Server)
	if r.Loads == nil {
		backlog = st.queues.backlog(d.Server, now)
		if err := st.queues.push(d.Server, d.Job, size, now); err != nil {
			return Decision{}, err
		}
	}
	st.settled, st.size = -(backlog + math.Trunc(size/rate(d.Server))), r.Size
	p.choice = d.Server
	if st.begun {
		s.policy.Model.SetAction(st.memory, d.Server)
	}
	s.arrive(st, r.Size, now)
	s.counts.add(&d)
	if s.audit != nil {
		s.audit.add(&Record{
			Time: now, Stream: st.name, Job: d.Job, Size: r.Size, Stage: d.Stage, Version: d.Version, Advice: d.Advice,
			Reference: d.Reference, Server: d.Server, Decider: d.Decider, Reason: d.Reason, Surprise: st.surprise,
		})
	}
	wait := s.now().Sub(p.arrived)
	s.waited += wait
	s.latency[latencyBucket(wait)]++
	return d, nil
}

func (s *Service) serverName(server int) string {
	if len(s.plan.Servers) > 0 {
		return s.plan.Servers[server]
	}
	return strconv.Itoa(server)
}

// arrive keeps the arrival for a replay. Service.mu is held.
func (s *Service) arrive(st *stream, size int64, now time.Time) {
	var gap int64
	if !st.arrived.IsZero() {
		gap = min(max(int64(math.Round(st.queues.units(now.Sub(st.arrived)))), 0), loadbalance.MaxGap)
	}
	st.arrived = now
	st.block = append(st.block, loadbalance.Job{Gap: gap, Size: size})
	if len(st.block) == s.plan.Guards.Cost.Block {
		rates := make([]float64, len(st.queues.rates))
		for i := range rates {
			rates[i] = st.queues.rate(i, now)
		}
		if s.acting != nil {
			s.replay.offer(block{jobs: st.block, rates: rates, version: s.acting})
		}
		st.block = nil
	}
}

// Complete takes jobs out of a stream's queues. Those that are not known are an error
// that wraps ErrUnknown; the others are taken out all the same.
func (s *Service) Complete(c Completion) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.streams.byName[c.Stream]
	if st == nil {
		return fmt.Errorf("stream %q is %w", c.Stream, ErrUnknown)
	}
	now := s.now()
	st.queues.advance(now)
	var errs []error
	for _, job := range c.Jobs {
		response, err := st.queues.complete(job, now)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.counts.Completed++
		st.response.add(float64(response))
	}
	return errors.Join(errs...)
}

// batch is the memory that the loop needs.
type batch struct {
	requests []*pending
	later    []*pending // of a stream that is in the batch already
	looks    []*look
	version  *version
	draw     *drawer

	loads, rates               []float64 // of one row
	obs, memory, probs, excess []float32
	flags                      []uint8
	mask                       []bool
}

// decideUntil is the loop: it answers all requests that have come meanwhile by one
// step of the policy.
func (s *Service) decideUntil(ctx context.Context) {
	m, rows := s.policy.Model, s.plan.Batch
	b := &batch{
		draw: newDrawer(s.seed, s.plan.Greedy), loads: make([]float64, m.Actions+1), rates: make([]float64, m.Actions), obs: make([]float32, rows*m.Obs), memory: make([]float32, rows*m.ContextLen()),
		probs: make([]float32, rows*m.Actions), excess: make([]float32, rows*m.Obs), flags: make([]uint8, rows), mask: make([]bool, rows*m.Actions),
	}
	for range rows {
		b.looks = append(b.looks, newLook(m.Actions))
	}
	for {
		if len(b.later) == 0 {
			select {
			case p := <-s.in:
				b.later = append(b.later, p)
			case <-ctx.Done():
				if len(s.in) == 0 {
					return
				}
				continue
			}
		}
		s.gather(b)
		s.step(b)
		s.answer(b)
	}
}

// gather takes what has been asked, at most one request of a stream, and looks at the
// streams.
func (s *Service) gather(b *batch) {
	waiting := b.later
	b.requests, b.later = b.requests[:0], nil
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for len(b.requests) < s.plan.Batch {
		var p *pending
		if len(waiting) > 0 {
			p, waiting = waiting[0], waiting[1:]
		} else {
			select {
			case p = <-s.in:
			default:
				return
			}
		}
		switch {
		case p.done: // late before its turn
		case p.stream.busy:
			b.later = append(b.later, p)
			if len(b.later) == s.plan.Batch {
				return
			}
		default:
			s.place(b, p, now)
		}
	}
	b.later = append(b.later, waiting...)
}

// place gives a request a row. Service.mu is held.
func (s *Service) place(b *batch, p *pending, now time.Time) {
	m, st, r := s.policy.Model, p.stream, len(b.requests)
	st.busy = true
	b.requests = append(b.requests, p)
	l := b.looks[r]
	s.look(p, l, now)
	loads, rates := b.loads, b.rates
	high := s.policy.Env.ObsHigh
	if high == 0 {
		high = loadbalance.DefaultObsHigh
	}
	for i, load := range l.loads {
		loads[i] = min(load, high)
	}
	loads[m.Actions] = min(float64(p.request.Size), high)
	for i := range rates {
		rates[i] = 0
		if l.up[i] {
			rates[i] = st.queues.rate(i, now)
		}
	}
	obs := b.obs[r*m.Obs : (r+1)*m.Obs]
	n := s.view.Width()
	s.view.Observe(obs[:n], loads, l.up, rates, st.queues.rates)
	reward, signal := s.view.Reward(-st.queues.takeArea(), st.settled, st.size)
	b.flags[r] = 0
	if st.record != nil && st.record.ends() {
		st.begun = false // a trial that is learnt from begins with an empty memory
	}
	if !st.begun {
		b.flags[r] = model.First | protocol.FlagEpisodeStart
		reward, signal = 0, 0
	}
	clear(obs[n:])
	if !s.policy.Blind {
		obs[n] = float32(signal)
		if !st.begun {
			obs[n+1] = 1
		}
	}
	copy(b.mask[r*m.Actions:], l.up)
	copy(b.memory[r*m.ContextLen():], st.memory)
	if s.record != nil {
		s.observe(st, obs, float32(reward), b.flags[r], l.up)
	}
}

// step has the acting version advise on all rows at once.
func (s *Service) step(b *batch) {
	s.mu.Lock()
	acting := s.acting
	s.mu.Unlock()
	b.version = acting
	if acting == nil || len(b.requests) == 0 {
		return
	}
	n := len(b.requests)
	if err := acting.batched.Step(n, b.obs, b.flags, b.mask, b.memory, b.probs, b.excess); err != nil {
		// A memory that is damaged, by numbers that grew out of bounds: no row has advice.
		s.log.Error("the policy failed", "error", err)
		for i := range b.probs {
			b.probs[i] = float32(math.NaN())
		}
	}
}

// answer takes the decisions of a batch.
func (s *Service) answer(b *batch) {
	m := s.policy.Model
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for r, p := range b.requests {
		st := p.stream
		st.busy = false
		v := verdict{advice: -1}
		if b.version != nil {
			v.version = b.version.number
			s.heed(b, r, p, &v)
		}
		if p.done {
			// The deadline has decided meanwhile: what it chose is what is remembered.
			if st.begun {
				m.SetAction(st.memory, p.choice)
			}
			continue
		}
		p.done = true
		s.rush(0)
		v.reason = s.judge(st, b.looks[r], v, b.version, now)
		d, err := s.assign(p, b.looks[r], v, now)
		if err == nil && s.record != nil {
			s.acted(st, d.Server, v, b.probs[r*m.Actions:(r+1)*m.Actions])
		}
		p.answer <- answer{d, err}
	}
}

// heed takes over what the policy says in a row, and what it remembers.
func (s *Service) heed(b *batch, r int, p *pending, v *verdict) {
	m, st := s.policy.Model, p.stream
	n := m.ContextLen()
	if v.advice = b.draw.from(b.probs[r*m.Actions : (r+1)*m.Actions]); v.advice < 0 {
		st.begun = false
		s.hold(nil, Hold{Guard: ReasonParameters, Note: "the policy's numbers are not finite"}, s.plan.Guards.Parameters.Hold)
		return
	}
	v.logProb = float32(math.Log(float64(b.probs[r*m.Actions+v.advice])))
	copy(st.memory, b.memory[r*n:(r+1)*n])
	st.begun = true
	c := &b.version.calibration
	for k, mean := range c.Mean {
		st.sums.add(k, side(s.view, b.excess[r*m.Obs:(r+1)*m.Obs], k), mean, remembered*b.version.threshold*c.Usual[k])
	}
	st.surprise = st.sums.over(c.Usual)
}
