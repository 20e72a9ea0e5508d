package chaos

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/dreamfleet/dreamfleet/replay"
)

var (
	faultsFlag = flag.Int("faults", 0, "how many faults to make; 0 leaves the test out")
	seedFlag   = flag.Uint64("seed", 0, "of their order; 0 takes a new one")
	boundFlag  = flag.Duration("bound", 0, "fail where a survivor takes longer to reconnect; 0 only measures")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// load is how many chunks flow between one fault and the next.
const load = 100

// row is what was measured of one fault.
type row struct {
	fault      string
	reconnects []time.Duration // of each client that had lost its server
	pause      time.Duration   // longest time without an update of the learner
	chunks     int             // acknowledged and found in the replay, of the whole test
}

// fault breaks something and repairs it. What it notes in r is when clients are back.
type fault struct {
	name string
	do   func(c *chaos, r *row)
}

var faults = []fault{
	{"actor killed", func(c *chaos, r *row) { c.kill(c.any(c.actors), r) }},
	{"replay killed", func(c *chaos, r *row) {
		before := c.leading().metrics()["dreamfleet_bus_batch_waits_total"]
		c.kill(c.replay, r)
		c.counted(c.leading, "dreamfleet_bus_batch_waits_total", before+1)
	}},
	{"learner killed", func(c *chaos, r *row) {
		u := c.leading()
		u.end(syscall.SIGKILL)
		c.until("the standby leads", func() bool { v := c.leadingNow(); return v != nil && v != u })
		u.start()
	}},
	{"NATS leader killed", func(c *chaos, r *row) {
		u := c.leader()
		c.without(u, r, func() { u.end(syscall.SIGKILL) }, u.start)
	}},
	{"link of a NATS server cut", func(c *chaos, r *row) {
		u := c.any(c.clients()).server() // one that has a client
		if u == nil {
			u = c.leader()
		}
		c.without(u, r, u.host.cut, u.host.heal)
	}},
	{"link of a role cut", func(c *chaos, r *row) {
		u := c.any(append(c.actors, c.replay))
		const reconnects = "dreamfleet_bus_reconnects_total"
		work := map[string]string{"actor": "dreamfleet_bus_published_chunks_total", "replay": "dreamfleet_bus_consumed_chunks_total"}[u.role]
		before := u.metrics()
		u.host.cut()
		c.wait(time.Duration(8000+c.rng.IntN(4000)) * time.Millisecond) // it has noticed by then
		u.host.heal()
		r.reconnects = append(r.reconnects, c.until(u.name+" works again", func() bool {
			u.alive()
			now := u.metrics()
			return now[reconnects] > before[reconnects] && now[work] > before[work]
		}))
	}},
	{"role restarted", func(c *chaos, r *row) {
		u := c.any(c.all())
		if u.role == "nats" {
			c.without(u, r, func() { u.end(syscall.SIGTERM) }, u.start)
			return
		}
		u.end(syscall.SIGTERM)
		u.start()
	}},
}

// chaos is a fleet and what happens to it.
type chaos struct {
	*fleet
	seed uint64 // of rng
	rng  *rand.Rand
	rows []row
}

// newChaos starts a fleet whose replay holds capacity steps, and says how to have the
// same faults again.
func newChaos(t *testing.T, command string, capacity int) *chaos {
	t.Helper()
	n, err := newNetwork(t)
	if err != nil {
		skip(t, err)
	}
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1_000_000) + 1
	}
	t.Logf("seed %d: '%s SEED=%d' takes the same order", seed, command, seed)
	return &chaos{fleet: newFleet(t, n, capacity), seed: seed, rng: rand.New(rand.NewPCG(seed, 0))}
}

func TestChaos(t *testing.T) {
	if *faultsFlag == 0 {
		t.Skip("left out: 'make chaos' runs it")
	}
	// All that is acted fits into the replay, so that what is missing is lost.
	c := newChaos(t, fmt.Sprintf("make chaos FAULTS=%d", *faultsFlag), 8_000_000)
	t.Cleanup(c.report)
	c.until("training begins", func() bool { return c.updates() > 0 })
	var order []int
	for i := range *faultsFlag {
		if len(order) == 0 {
			order = c.rng.Perm(len(faults))
		}
		f := faults[order[0]]
		order = order[1:]
		t.Logf("fault %d: %s", i+1, f.name)
		c.suffer(f)
	}
}

// suffer makes a fault and checks everything afterwards.
func (c *chaos) suffer(f fault) {
	c.rows = append(c.rows, row{fault: f.name})
	r := &c.rows[len(c.rows)-1]
	stop := c.pauses(r)
	defer stop()
	f.do(c, r)
	c.recovered()
	before := len(c.acknowledged())
	c.until("trajectories go on", func() bool { return len(c.acknowledged()) > before+load })
	stop()
	r.chunks = c.verify()
	for _, d := range r.reconnects {
		if *boundFlag > 0 && d > *boundFlag {
			c.t.Errorf("%s: a survivor was back after %v only", f.name, d.Round(interval))
		}
	}
}

// recovered waits until every client is connected and training goes on.
func (c *chaos) recovered() {
	c.until("every client is connected", func() bool {
		for _, u := range c.clients() {
			u.alive()
			if u.server() == nil || u.metrics()["dreamfleet_bus_connected"] < 1 {
				return false
			}
		}
		return true
	})
	from := c.updates()
	c.until("training goes on", func() bool { return c.updates() > from })
}

// pauses measures the longest time without an update until the function that it
// returns is called.
func (c *chaos) pauses(r *row) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		last, since := c.updates(), time.Now()
		for {
			select {
			case <-end:
				return
			case <-time.After(5 * interval):
			}
			if now := c.updates(); now != last {
				last, since = now, time.Now()
			}
			r.pause = max(r.pause, time.Since(since))
		}
	}()
	return func() {
		select {
		case <-end:
		default:
			close(end)
		}
		<-ended
	}
}

func (c *chaos) any(units []*unit) *unit { return units[c.rng.IntN(len(units))] }

func (c *chaos) wait(d time.Duration) { <-time.After(d) }

// kill kills a client and starts it again after a moment.
func (c *chaos) kill(u *unit, _ *row) {
	u.end(syscall.SIGKILL)
	c.wait(time.Duration(c.rng.IntN(3000)) * time.Millisecond)
	u.start()
}

// without breaks a server, waits until all its clients have found another one, and
// repairs it.
func (c *chaos) without(server *unit, r *row, fail, repair func()) {
	var affected []*unit
	counts := map[*unit]float64{}
	for _, u := range c.clients() {
		if u.server() == server {
			affected = append(affected, u)
			counts[u] = u.metrics()["dreamfleet_bus_reconnects_total"]
		}
	}
	began := time.Now()
	fail()
	for len(affected) > 0 {
		c.until(affected[0].name+" finds another server than "+server.name, func() bool {
			for i, u := range affected {
				u.alive()
				if now := u.server(); now != nil && now != server && u.metrics()["dreamfleet_bus_reconnects_total"] > counts[u] {
					r.reconnects = append(r.reconnects, time.Since(began))
					affected = append(affected[:i:i], affected[i+1:]...)
					return true
				}
			}
			return false
		})
	}
	repair()
	c.until(server.name+" serves again", func() bool {
		_, ok := server.metrics()["dreamfleet_nats_connections"]
		return ok
	})
}

// leading is the learner that trains.
func (c *chaos) leading() *unit {
	var u *unit
	c.until("a learner leads", func() bool { u = c.leadingNow(); return u != nil })
	return u
}

func (c *chaos) leadingNow() *unit {
	for _, u := range c.learners {
		if _, ok := u.metrics()["dreamfleet_learner_updates_total"]; ok {
			return u
		}
	}
	return nil
}

// updates is how many the leading learner has made.
func (c *chaos) updates() float64 {
	if u := c.leadingNow(); u != nil {
		return u.metrics()["dreamfleet_learner_updates_total"]
	}
	return 0
}

// counted waits until a counter says what happened.
func (c *chaos) counted(u func() *unit, name string, atLeast float64) {
	c.until(name+" is counted", func() bool { return u().metrics()[name] >= atLeast })
}

// verify compares what actors were told is stored with what is.
func (c *chaos) verify() (chunks int) {
	sent := c.acknowledged()
	missing := ""
	c.until("all that was acknowledged is in the replay", func() bool {
		have := c.stored()
		for id, sum := range sent {
			switch got, ok := have[id]; {
			case !ok:
				missing = id
				return false
			case got != sum:
				c.t.Fatalf("chunk %s was sent with digest %s and is stored with %s", id, sum, got)
			}
		}
		missing = ""
		return true
	})
	if missing != "" {
		c.t.Fatalf("chunk %s is lost", missing)
	}
	return len(sent)
}

// stored reads a copy of the replay's files, which is written to meanwhile.
func (c *chaos) stored() map[string]string {
	t := c.t
	from := filepath.Join(c.dir, "replay", run, "replay")
	copied, err := os.MkdirTemp(c.dir, "copy-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(copied)
	segments, err := filepath.Glob(filepath.Join(from, "*.segment"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range segments {
		content, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(filepath.Join(copied, filepath.Base(path)), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	store, err := replay.Open(replay.Config{
		Dir: copied, Run: run, Capacity: 8_000_000, Mix: replay.Mix{Uniform: 1}, Batch: 1, Length: 1, ReadOnly: true,
		Limiter: replay.LimiterConfig{Ratio: 1, MinSteps: 1, Budget: 1 << 20},
	}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	sums := map[string]string{}
	for chunk := range store.Each {
		sum, err := chunk.Digest()
		if err != nil {
			t.Fatal(err)
		}
		sums[chunk.MessageID()] = fmt.Sprintf("%x", sum)
	}
	// The replay counts what it inserts, in the files too, and evicts nothing here: what was
	// inserted twice would be counted twice, and listed once.
	if s := store.Stats(); s.Evicted != 0 || s.DamagedRecords != 0 {
		t.Fatalf("%d chunks were inserted twice, %d stretches are damaged", s.Evicted, s.DamagedRecords)
	}
	return sums
}

// report prints what was measured.
func (c *chaos) report() {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "fault\tclients back after\tlongest pause of updates\tchunks acknowledged and found")
	for _, r := range c.rows {
		var back []string
		for _, d := range r.reconnects {
			back = append(back, fmt.Sprintf("%.1f s", d.Seconds()))
		}
		if len(back) == 0 {
			back = []string{"-"}
		}
		fmt.Fprintf(w, "%s\t%s\t%.1f s\t%d\n", r.fault, strings.Join(back, ", "), r.pause.Seconds(), r.chunks)
	}
	if err := w.Flush(); err != nil {
		c.t.Error(err)
	}
	c.t.Logf("measured:\n%s", &b)
	c.complain()
}

// complain shows the logs of a fleet whose test has failed.
func (c *chaos) complain() {
	if c.t.Failed() {
		for _, u := range c.all() {
			c.t.Logf("%s said last:\n%s", u.name, tail(u.log()))
		}
	}
}
