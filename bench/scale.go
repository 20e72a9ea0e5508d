package bench

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"time"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// Scale measures a fleet on this machine with one actor, with ten, and so on: a server, a
// replay, and lightweight actors that publish chunks at a given rate, each role in processes
// of its own. What it measures are the constants that Sizing reckons with, and what all of
// it together does, which checks them.
type Scale struct {
	Actors []int         // numbers of them, ascending
	Rate   float64       // chunks a second of each actor
	Round  time.Duration // of measuring
	Rounds int           // counted, after one to warm up
	Dir    string        // an empty folder, on the disk to be measured

	// Program makes a command of this program with arguments.
	Program func(args ...string) *exec.Cmd
}

// idleRound is how long the fleet is looked at while it does nothing but live: two heartbeats
// of each actor, and one look at the configuration.
const idleRound = 7 * time.Second

// Run measures one number of actors after another and reports figures named
// scale/<actors>/<what>.
func (z *Scale) Run(ctx context.Context, report func(Result)) error {
	o := &Options{Dir: z.Dir}
	for i, actors := range z.Actors {
		err := o.inFolder("scale", func(dir string) error {
			return z.measure(ctx, dir, actors, i == len(z.Actors)-1, report)
		})
		if err != nil {
			return fmt.Errorf("%d actors: %w", actors, err)
		}
	}
	return nil
}

// scaling is a measurement with one number of actors.
type scaling struct {
	*Scale
	fleet  *scaleFleet
	actors int
	config string
	report func(Result)
	idle   usage // a second
}

// usage is what has been used up and done between two snapshots.
type usage struct {
	seconds                  float64
	nats, replay, act        float64 // seconds of processor time
	messages, received, sent float64 // of the server
	chunks, delay, age, flow float64 // acknowledged; their delays in s and ages in versions; flow messages
}

func between(a, b snapshot) usage {
	return usage{
		seconds: b.at.Sub(a.at).Seconds(),
		nats:    b.nats - a.nats, replay: b.replay - a.replay, act: b.actors - a.actors,
		messages: b.messages - a.messages, received: b.received - a.received, sent: b.sent - a.sent,
		chunks: float64(b.report.Acknowledged - a.report.Acknowledged), delay: b.report.Delay - a.report.Delay,
		age: float64(b.report.Age - a.report.Age), flow: float64(b.report.Flow - a.report.Flow),
	}
}

func (z *Scale) measure(ctx context.Context, dir string, actors int, last bool, report func(Result)) error {
	f, err := z.start(ctx, dir)
	if err != nil {
		return err
	}
	defer f.stop()
	if err := z.join(ctx, f, actors); err != nil {
		return err
	}
	s, err := defaultSteps()
	if err != nil {
		return err
	}
	m := &scaling{Scale: z, fleet: f, actors: actors, report: report}
	m.config = fmt.Sprintf("%d actors with a connection each, chunks of %d steps, parameters of %d bytes, %d cores, load %s",
		actors, s.chunk, len(f.blob), runtime.NumCPU(), loadAverage())
	for _, phase := range []func(context.Context) error{m.measureIdle, m.measureFanout, m.measureLoad, m.measureAll} {
		if err := phase(ctx); err != nil {
			return err
		}
	}
	if last {
		return m.measureReplay(ctx)
	}
	return nil
}

func (m *scaling) figure(name, unit string, value float64) {
	m.report(Result{Name: fmt.Sprintf("scale/%d/%s", m.actors, name), Config: m.config, Value: value, Unit: unit, LimitKind: "none"})
}

// measureIdle measures what a fleet costs that does nothing: connections, heartbeats and
// looks at the configuration.
func (m *scaling) measureIdle(ctx context.Context) error {
	if _, _, err := m.deliver(ctx); err != nil { // who has no parameters asks twice a second
		return err
	}
	u, err := m.round(ctx, idleRound)
	if err != nil {
		return err
	}
	memory, err := m.fleet.nats.memory()
	if err != nil {
		return err
	}
	m.idle = u.per(u.seconds)
	m.figure("idle_nats", "cores", m.idle.nats)
	m.figure("idle_replay", "cores", m.idle.replay)
	m.figure("idle_actors", "cores", m.idle.act)
	m.figure("heartbeats", "messages/s", m.idle.messages)
	m.figure("heartbeats_received", "B/s", m.idle.received)
	m.figure("heartbeats_sent", "B/s", m.idle.sent)
	m.figure("idle_flow", "messages/s", m.idle.flow)
	m.figure("server_memory", "B", memory)
	if more := memory - m.fleet.bare; m.actors >= 10 && more > 0 { // the learner's and replay's are no longer most of it
		m.figure("connection_memory", "B", more/float64(m.actors))
	}
	return nil
}

func (u usage) per(n float64) usage {
	for _, x := range []*float64{&u.nats, &u.replay, &u.act, &u.messages, &u.received, &u.sent, &u.chunks, &u.delay, &u.age, &u.flow} {
		*x /= n
	}
	return u
}

// round lets the fleet go on for a time and returns what it has done.
func (m *scaling) round(ctx context.Context, length time.Duration) (usage, error) {
	before, err := m.fleet.snapshot(ctx)
	if err != nil {
		return usage{}, err
	}
	if err := wait(ctx, length); err != nil {
		return usage{}, err
	}
	after, err := m.fleet.snapshot(ctx)
	return between(before, after), err
}

// phaseLength is after which no further round of a phase begins, once one counts: parameters
// to a thousand actors take half a minute where the machine is busy with other things.
const phaseLength = 40 * time.Second

// rounds are as many as count after one to warm up, as far as the time goes.
func (m *scaling) rounds(do func() (usage, error)) ([]usage, error) {
	var all []usage
	began := time.Now()
	for range m.Rounds + 1 {
		if len(all) > 1 && time.Since(began) > phaseLength {
			break
		}
		u, err := do()
		if err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	return all[1:], nil
}

func medianOf(all []usage, of func(usage) float64) float64 {
	x := make([]float64, len(all))
	for i, u := range all {
		x[i] = of(u)
	}
	return median(x)
}

// deliverPatience is how long a version may take to reach all actors.
const deliverPatience = 2 * time.Minute

// deliver publishes a version and waits until all have it.
func (m *scaling) deliver(ctx context.Context) (took float64, u usage, err error) {
	before, err := m.fleet.snapshot(ctx)
	if err != nil {
		return 0, u, err
	}
	began, err := m.fleet.publish(ctx)
	if err != nil {
		return 0, u, err
	}
	took, late, err := m.fleet.spread(ctx, began, m.actors, deliverPatience)
	if err == nil && late {
		err = fmt.Errorf("parameters have not reached all actors after %v", deliverPatience)
	}
	if err != nil {
		return 0, u, err
	}
	after, err := m.fleet.snapshot(ctx)
	return took, between(before, after), err
}

// measureFanout measures versions of the parameters by themselves.
func (m *scaling) measureFanout(ctx context.Context) error {
	var times []float64
	all, err := m.rounds(func() (usage, error) {
		took, u, err := m.deliver(ctx)
		times = append(times, took)
		return m.less(u), err
	})
	if err != nil {
		return err
	}
	m.figure("fanout", "s", median(times[1:]))
	m.figure("fanout_bytes", "B", medianOf(all, func(u usage) float64 { return u.sent }))
	m.figure("fanout_nats", "core s", medianOf(all, func(u usage) float64 { return u.nats }))
	m.figure("fanout_actors", "core s", medianOf(all, func(u usage) float64 { return u.act }))
	return nil
}

// less is u without what an idle fleet would have used.
func (m *scaling) less(u usage) usage {
	for _, x := range []struct {
		of   *float64
		idle float64
	}{{&u.nats, m.idle.nats}, {&u.replay, m.idle.replay}, {&u.act, m.idle.act}, {&u.messages, m.idle.messages}, {&u.received, m.idle.received}, {&u.sent, m.idle.sent}} {
		*x.of = max(0, *x.of-u.seconds*x.idle)
	}
	return u
}

// measureLoad measures chunks by themselves.
func (m *scaling) measureLoad(ctx context.Context) error {
	if err := m.fleet.say(fmt.Sprintf("load %g", m.Rate)); err != nil {
		return err
	}
	all, err := m.rounds(func() (usage, error) { return m.round(ctx, m.Round) })
	if err != nil {
		return err
	}
	m.throughput("chunks", all)
	m.figure("chunks_nats", "cores", medianOf(all, func(u usage) float64 { return u.nats / u.seconds }))
	m.figure("chunks_replay", "cores", medianOf(all, func(u usage) float64 { return u.replay / u.seconds }))
	m.figure("chunks_actors", "cores", medianOf(all, func(u usage) float64 { return u.act / u.seconds }))
	m.figure("chunks_received", "B/s", medianOf(all, func(u usage) float64 { return u.received / u.seconds }))
	m.figure("chunks_sent", "B/s", medianOf(all, func(u usage) float64 { return u.sent / u.seconds }))
	perChunk := func(of func(usage) float64) float64 {
		return 1e6 * medianOf(all, func(u usage) float64 { return of(m.less(u)) / max(1, u.chunks) })
	}
	m.figure("chunk_nats", "us", perChunk(func(u usage) float64 { return u.nats }))
	m.figure("chunk_replay", "us", perChunk(func(u usage) float64 { return u.replay }))
	m.figure("chunk_actor", "us", perChunk(func(u usage) float64 { return u.act }))
	m.figure("chunk_bytes", "B", medianOf(all, func(u usage) float64 { return m.less(u).received / max(1, u.chunks) }))
	m.figure("acknowledged", "ms", medianOf(all, func(u usage) float64 { return 1e3 * u.delay / max(1, u.chunks) }))
	m.figure("flow", "messages/s", medianOf(all, func(u usage) float64 { return u.flow / u.seconds }))
	return nil
}

// throughput reports chunks acknowledged a second beside those that actors were to publish.
func (m *scaling) throughput(name string, all []usage) {
	offered := m.Rate * float64(m.actors)
	value := medianOf(all, func(u usage) float64 { return u.chunks / u.seconds })
	m.report(Result{
		Name: fmt.Sprintf("scale/%d/%s", m.actors, name), Config: m.config, Value: value, Unit: "chunks/s",
		Limit: offered, LimitKind: "offered", Ratio: value / offered,
	})
}

// measureAll measures chunks and parameters together: a version a round.
func (m *scaling) measureAll(ctx context.Context) error {
	all, err := m.rounds(func() (usage, error) {
		before, err := m.fleet.snapshot(ctx)
		if err != nil {
			return usage{}, err
		}
		began, err := m.fleet.publish(ctx)
		if err != nil {
			return usage{}, err
		}
		if err := wait(ctx, max(0, m.Round-time.Since(began))); err != nil {
			return usage{}, err
		}
		// A fleet that is overloaded may need longer than the round.
		if _, _, err := m.fleet.spread(ctx, began, m.actors, deliverPatience); err != nil {
			return usage{}, err
		}
		after, err := m.fleet.snapshot(ctx)
		return between(before, after), err
	})
	if err != nil {
		return err
	}
	m.throughput("together", all)
	m.figure("together_versions", "1/s", medianOf(all, func(u usage) float64 { return 1 / u.seconds }))
	m.figure("together_nats", "cores", medianOf(all, func(u usage) float64 { return u.nats / u.seconds }))
	m.figure("together_replay", "cores", medianOf(all, func(u usage) float64 { return u.replay / u.seconds }))
	m.figure("together_actors", "cores", medianOf(all, func(u usage) float64 { return u.act / u.seconds }))
	m.figure("together_received", "B/s", medianOf(all, func(u usage) float64 { return u.received / u.seconds }))
	m.figure("together_sent", "B/s", medianOf(all, func(u usage) float64 { return u.sent / u.seconds }))
	m.figure("together_flow", "messages/s", medianOf(all, func(u usage) float64 { return u.flow / u.seconds }))
	m.figure("staleness", "versions", medianOf(all, func(u usage) float64 { return u.age / max(1, u.chunks) }))
	return nil
}

// measureReplay measures batches for the learner, and the disk.
func (m *scaling) measureReplay(ctx context.Context) error {
	if err := m.fleet.say("load 0"); err != nil {
		return err
	}
	var batch protocol.Batch
	if err := m.fleet.remote.Sample(ctx, &batch); err != nil {
		return err
	}
	var batches []float64
	all, err := m.rounds(func() (usage, error) {
		before, err := m.fleet.snapshot(ctx)
		if err != nil {
			return usage{}, err
		}
		n := 0.0
		for ; time.Since(before.at) < m.Round/2; n++ {
			// Chunks of a few rounds allow some thousand batches and no more: do not wait for others.
			attempt, cancel := context.WithTimeout(ctx, m.Round)
			err := m.fleet.remote.Sample(attempt, &batch)
			cancel()
			if ctx.Err() != nil {
				return usage{}, err
			}
			if err != nil {
				break
			}
		}
		batches = append(batches, n)
		after, err := m.fleet.snapshot(ctx)
		return between(before, after), err
	})
	if err != nil {
		return err
	}
	each := func(of func(usage) float64) float64 {
		var x []float64
		for i, u := range all {
			if n := batches[i+1]; n > 0 {
				x = append(x, of(m.less(u))/n)
			}
		}
		return median(x)
	}
	m.figure("batch_replay", "us", 1e6*each(func(u usage) float64 { return u.replay }))
	m.figure("batch_nats", "us", 1e6*each(func(u usage) float64 { return u.nats }))
	data, err := batch.AppendTo(nil)
	if err != nil {
		return err
	}
	m.figure("batch_bytes", "B", float64(len(data)))
	bytes, err := m.fleet.replay.metric("dreamfleet_replay_step_bytes")
	if err != nil {
		return err
	}
	m.figure("step_bytes", "B", bytes)
	return nil
}

// CheckActors refuses numbers of actors that cannot be measured.
func CheckActors(actors []int) error {
	if len(actors) == 0 || !slices.IsSorted(actors) || actors[0] < 1 || actors[len(actors)-1] > maxScale {
		return fmt.Errorf("actors are %v: one or more numbers from 1 to %d, ascending", actors, maxScale)
	}
	return nil
}

// maxScale is as many connections as the files that a process may have open usually allow.
const maxScale = 4000
