package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// process runs a command line as a process of its own, which is killed when the test ends.
type process struct {
	*exec.Cmd
	out  said
	done chan struct{} // closed when it has ended
}

func startProcess(t *testing.T, args ...string) *process {
	t.Helper()
	return startProgram(t, os.Args[0], asCommand+"=1", args...)
}

// startProgram does so with another program, and one more variable in its environment.
func startProgram(t *testing.T, program, variable string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.Env = append(os.Environ(), variable)
	p.Stdout, p.Stderr = &p.out, &p.out
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.Wait() // its exit code is looked at
	}()
	t.Cleanup(func() {
		_ = p.Process.Kill() // it may have ended
		<-p.done
		if t.Failed() {
			t.Logf("%v said:\n%s", args, &p.out)
		}
	})
	return p
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// end waits until the process has ended and returns its exit code.
func (p *process) end(t *testing.T) int {
	t.Helper()
	waitFor(t, func() bool {
		select {
		case <-p.done:
			return true
		default:
			return false
		}
	})
	return p.ProcessState.ExitCode()
}

// taken is what a follower of a run's parameters has seen.
type taken struct {
	mu        sync.Mutex
	sent      map[uint64]uint64 // version -> highest epoch under which frames of it went over the wire
	delivered []uint64          // versions
}

func (w *taken) epochs() []uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []uint64
	for _, v := range w.delivered {
		// The wire's part may come a moment after the follower's.
		if e := w.sent[v]; e > 0 && (len(all) == 0 || all[len(all)-1] != e) {
			all = append(all, e)
		}
	}
	return all
}

func (w *taken) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.delivered)
}

// A leader that is stopped is replaced by the standby, from the newest checkpoint on the bus. When it
// goes on, nothing of it is taken any more, and it ends with an error.
func TestStandbyReplacesAStoppedLeader(t *testing.T) {
	base := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	server := startNATS(ctx, t, &wg, base)
	for _, args := range [][]string{
		{"actor", "--run", "fleet", "--nats", server, "--log-level", "error"},
		{"replay", "--run", filepath.Join(base, "store", "fleet"), "--nats", server, "--log-level", "error"},
	} {
		wg.Go(func() {
			var out said
			if code := run(ctx, args, &out, &out); code != exitOK {
				t.Errorf("%s ended with %d: %s", args[0], code, &out)
			}
		})
	}
	lead := func(where string, more ...string) *process {
		args := append([]string{"learner", "--nats", server, "--run", filepath.Join(base, where, "fleet"), "--steps", "1000000000", "--duration", "0s"}, tiny...)
		return startProcess(t, append(args, more...)...)
	}
	w := watchParams(ctx, t, &wg, server)

	first := lead("first")
	waitFor(t, func() bool { return w.count() >= 3 })
	refused := lead("refused")
	if code := refused.end(t); code != exitFailure || !strings.Contains(refused.out.String(), "another learner leads the run: process "+strconv.Itoa(first.Process.Pid)) {
		t.Errorf("a second learner that is no standby ended with %d: %s", code, &refused.out)
	}
	standby := lead("standby", "--standby")
	waitFor(t, func() bool { return strings.Contains(standby.out.String(), "waiting until it is silent") })

	first.signal(t, syscall.SIGSTOP)
	waitFor(t, func() bool { return strings.Contains(standby.out.String(), "checkpoint fetched from the bus") })
	waitFor(t, func() bool { return len(w.epochs()) == 2 })
	first.signal(t, syscall.SIGCONT)
	if code := first.end(t); code != exitFailure || !strings.Contains(first.out.String(), "another learner has taken the run over: process "+strconv.Itoa(standby.Process.Pid)) {
		t.Errorf("the old leader ended with %d: %s", code, &first.out)
	}
	n := w.count()
	waitFor(t, func() bool { return w.count() >= n+3 })
	if epochs := w.epochs(); len(epochs) != 2 || !slices.IsSorted(epochs) {
		t.Errorf("parameters were taken of the epochs %v, one after another", epochs)
	}
	w.mu.Lock()
	if !slices.IsSorted(w.delivered) {
		t.Errorf("versions went back: %v", w.delivered)
	}
	w.mu.Unlock()

	// Asked to end, a leader lets the next one in at once.
	third := lead("first", "--standby")
	waitFor(t, func() bool { return strings.Contains(third.out.String(), "waiting until it is silent") })
	standby.signal(t, syscall.SIGTERM)
	if code := standby.end(t); code != exitOK {
		t.Errorf("the second leader ended with %d: %s", code, &standby.out)
	}
	waitFor(t, func() bool { return len(w.epochs()) == 3 })
}

// When a leader has used the run's budget up, the standby does not begin with it anew.
func TestStandbyEndsWithTheRun(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	server := startNATS(ctx, t, &wg, base)
	learner := func(where string) *process {
		args := []string{"learner", "--nats", server, "--run", filepath.Join(base, where, "fleet"), "--steps", "700", "--duration", "0s", "--standby"}
		return startProcess(t, append(args, tiny...)...)
	}
	leader := learner("first")
	waitFor(t, func() bool { return strings.Contains(leader.out.String(), "leading the run") })
	standby := learner("second")
	waitFor(t, func() bool { return strings.Contains(standby.out.String(), "waiting until it is silent") })
	for _, args := range [][]string{
		{"actor", "--run", "fleet", "--nats", server, "--log-level", "error"},
		{"replay", "--run", filepath.Join(base, "store", "fleet"), "--nats", server, "--log-level", "error"},
	} {
		wg.Go(func() {
			var out said
			if code := run(ctx, args, &out, &out); code != exitOK {
				t.Errorf("%s ended with %d: %s", args[0], code, &out)
			}
		})
	}
	if code := leader.end(t); code != exitOK {
		t.Errorf("the leader ended with %d: %s", code, &leader.out)
	}
	if code := standby.end(t); code != exitOK || !strings.Contains(standby.out.String(), "the learner that led has finished the run") {
		t.Errorf("the standby ended with %d: %s", code, &standby.out)
	}
	if _, err := os.Stat(filepath.Join(base, "second", "fleet", checkpointDir)); !os.IsNotExist(err) {
		t.Errorf("the standby has trained: %v", err)
	}
}

// watchParams follows a run's parameters as an actor does, and the wire beside it.
func watchParams(ctx context.Context, t *testing.T, wg *sync.WaitGroup, server string) *taken {
	t.Helper()
	w := &taken{sent: map[uint64]uint64{}}
	nc, err := nats.Connect(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	note := func(m *nats.Msg) {
		epoch, _ := strconv.ParseUint(m.Header.Get("Df-Epoch"), 10, 64)
		version, _ := strconv.ParseUint(m.Header.Get("Df-Version"), 10, 64)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.sent[version] = max(w.sent[version], epoch)
	}
	// Fetched frames come as replies.
	for _, subject := range []string{"params.fleet.chunk", "_INBOX_actor.>"} {
		if _, err := nc.Subscribe(subject, note); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.FlushTimeout(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	bus, err := protocol.Connect(ctx, protocol.BusConfig{URL: server, Run: "fleet", Role: protocol.RoleActor, Name: "watcher"}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		defer bus.Close()
		_ = bus.FollowParams(ctx, func(version uint64, _ []byte) { // ends with ctx
			w.mu.Lock()
			defer w.mu.Unlock()
			w.delivered = append(w.delivered, version)
		})
	})
	return w
}
