package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/learner/dreamer"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// scaleFleet is a server, a replay and processes of lightweight actors on this machine, and
// this process as the learner.
type scaleFleet struct {
	nats, replay *process
	actors       []*actorProcess
	learner      *protocol.Bus
	lease        *protocol.Lease
	sender       *protocol.Broadcaster
	remote       *protocol.RemoteReplay
	blob         []byte // parameters of the preset small
	version      uint64
	bare         float64 // the server's memory before anybody had connected
}

// actorProcess is a process of lightweight actors and what it says.
type actorProcess struct {
	*process
	in  io.WriteCloser
	out *bufio.Reader
}

// perProcess is how many actors share a process. It does not matter for what is measured
// of the server; this many keep a process's own bookkeeping small.
const perProcess = 250

// scaleConfig is the run's configuration: the preset small, whose replay waits for nothing
// before it gives batches.
func scaleConfig() protocol.Config {
	cfg := protocol.DefaultConfig()
	cfg.Run = benchRun
	cfg.Learner.Prefill = int64(cfg.Learner.BatchSize * cfg.Learner.BatchLength)
	return cfg
}

// start starts everything but the actors, and waits until the replay is there.
func (z *Scale) start(ctx context.Context, dir string) (f *scaleFleet, err error) {
	f = &scaleFleet{}
	defer func() {
		if err != nil {
			f.stop()
		}
	}()
	listen, err := freeAddress()
	if err != nil {
		return f, err
	}
	url := "nats://" + listen
	if f.nats, err = z.role("nats", "nats", "--listen", listen, "--store", filepath.Join(dir, "nats"), "--log-level", "warn"); err != nil {
		return f, err
	}
	if err := await(ctx, f.nats, func() error { _, err := f.nats.metric("dreamfleet_nats_connections"); return err }); err != nil {
		return f, err
	}
	if f.bare, err = f.nats.memory(); err != nil {
		return f, err
	}
	if err := f.lead(ctx, url); err != nil {
		return f, err
	}
	f.replay, err = z.role("replay", "replay", "--nats", url, "--run", filepath.Join(dir, benchRun), "--log-level", "warn")
	if err != nil {
		return f, err
	}
	return f, await(ctx, f.replay, func() error { _, err := f.replay.metric("dreamfleet_replay_chunks"); return err })
}

// role starts a role of this program, with metrics.
func (z *Scale) role(name string, args ...string) (*process, error) {
	monitor, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return startProcess(name, z.Program(append(args, "--monitor", monitor)...), monitor)
}

// startPatience is how long a role may take to come up on a busy machine.
const startPatience = time.Minute

// await asks again and again until there is an answer without an error.
func await(ctx context.Context, p *process, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if ended := p.failure(); ended != nil {
			return ended
		}
		timer := time.NewTimer(20 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%s: %w; last: %w", p.name, ctx.Err(), err)
		}
	}
}

// lead makes this process the run's learner.
func (f *scaleFleet) lead(ctx context.Context, url string) (err error) {
	cfg := scaleConfig()
	f.learner, err = protocol.Connect(ctx, protocol.BusConfig{URL: url, Run: benchRun, Role: protocol.RoleLearner, Name: "learner"}, hclog.NewNullLogger())
	if err != nil {
		return err
	}
	document, err := cfg.Encode()
	if err != nil {
		return err
	}
	if f.lease, err = f.learner.TakeLease(ctx, false); err != nil {
		return err
	}
	if err := f.learner.PutConfig(ctx, document); err != nil {
		return err
	}
	if f.sender, err = f.lease.NewBroadcaster(); err != nil {
		return err
	}
	small, cfg, err := presetConfig("small", 1)
	if err != nil {
		return err
	}
	f.remote, err = f.learner.RemoteReplay(protocol.BatchShape{
		Size: cfg.Learner.BatchSize, Length: cfg.Learner.BatchLength,
		ObsLen: small.Model.Obs, Actions: small.Model.Actions, ContextLen: small.Model.ContextLen(),
	})
	if err != nil {
		return err
	}
	agent, err := dreamer.New(small, 1)
	if err != nil {
		return err
	}
	f.blob, err = agent.Params(nil)
	return errors.Join(err, agent.Close())
}

// join starts so many actors and waits until all are connected.
func (z *Scale) join(ctx context.Context, f *scaleFleet, count int) error {
	for first := 0; first < count; first += perProcess {
		n := min(perProcess, count-first)
		cmd := z.Program("bench", "scale", "actors", "--nats", f.url(), "--first", strconv.Itoa(first), "--count", strconv.Itoa(n))
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		read, write, err := os.Pipe()
		if err != nil {
			return err
		}
		cmd.Stdout = write
		p, err := startProcess("actors", cmd, "")
		write.Close()
		if err != nil {
			return errors.Join(err, read.Close())
		}
		f.actors = append(f.actors, &actorProcess{p, in, bufio.NewReader(read)})
	}
	connected := 0
	for _, p := range f.actors {
		r, err := p.read(ctx)
		if err != nil {
			return err
		}
		connected += r.Connected
	}
	if connected != count {
		return fmt.Errorf("%d of %d actors have connected", connected, count)
	}
	return nil
}

func (f *scaleFleet) url() string {
	for i, arg := range f.nats.cmd.Args {
		if arg == "--listen" {
			return "nats://" + f.nats.cmd.Args[i+1]
		}
	}
	return ""
}

// read is the next report.
func (p *actorProcess) read(ctx context.Context) (r ScaleReport, err error) {
	kill := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() }) // which ends the reading
	defer kill()
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		<-p.ended
		return r, errors.Join(context.Cause(ctx), p.failure())
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("report of actors: %w", err)
	}
	return r, nil
}

// report sums up what all actors have done.
func (f *scaleFleet) report(ctx context.Context) (sum ScaleReport, err error) {
	sum.Versions = map[uint64]arrival{}
	if err := f.say("report"); err != nil {
		return sum, err
	}
	for _, p := range f.actors {
		r, err := p.read(ctx)
		if err != nil {
			return sum, err
		}
		sum.Connected += r.Connected
		sum.Acknowledged += r.Acknowledged
		sum.Failed += r.Failed
		sum.Delay += r.Delay
		sum.Age += r.Age
		sum.Flow += r.Flow
		sum.ParamBytes += r.ParamBytes
		for version, a := range r.Versions {
			all := sum.Versions[version]
			sum.Versions[version] = arrival{all.Count + a.Count, max(all.Last, a.Last)}
		}
	}
	return sum, nil
}

func (f *scaleFleet) say(command string) error {
	for _, p := range f.actors {
		if _, err := fmt.Fprintln(p.in, command); err != nil {
			return errors.Join(p.failure(), err)
		}
	}
	return nil
}

// publish broadcasts the next version of the parameters and returns when it began.
func (f *scaleFleet) publish(ctx context.Context) (began time.Time, err error) {
	f.version++
	blob := append([]byte(nil), f.blob...)
	binary.LittleEndian.PutUint64(blob[len(blob)-8:], f.version) // another digest
	began = time.Now()
	return began, f.sender.Publish(ctx, f.version, blob)
}

// spread waits until all actors have the version published last, at most patience, and
// returns how long that has taken. late says that some of them did not get it in time.
func (f *scaleFleet) spread(ctx context.Context, began time.Time, actors int, patience time.Duration) (took float64, late bool, err error) {
	for {
		r, err := f.report(ctx)
		if err != nil {
			return 0, false, err
		}
		if a := r.Versions[f.version]; a.Count >= actors {
			return float64(a.Last-began.UnixNano()) / 1e9, false, nil
		}
		if time.Since(began) > patience {
			return 0, true, nil
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return 0, false, err
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *scaleFleet) stop() {
	for _, p := range f.actors {
		_ = p.in.Close() // which asks it to end
	}
	for _, p := range f.actors {
		p.stop()
	}
	if f.replay != nil {
		f.replay.stop()
	}
	if f.learner != nil {
		f.learner.Close()
	}
	if f.nats != nil {
		f.nats.stop()
	}
}

// snapshot is what the fleet has used up and done at a moment.
type snapshot struct {
	at                       time.Time
	nats, replay, actors     float64 // seconds of processor time
	messages, received, sent float64 // of the server: messages and bytes from clients, bytes to clients
	report                   ScaleReport
}

func (f *scaleFleet) snapshot(ctx context.Context) (s snapshot, err error) {
	if s.report, err = f.report(ctx); err != nil {
		return s, err
	}
	for _, of := range []struct {
		name string
		to   *float64
	}{
		{"dreamfleet_nats_received_messages_total", &s.messages},
		{"dreamfleet_nats_received_bytes_total", &s.received},
		{"dreamfleet_nats_sent_bytes_total", &s.sent},
	} {
		if *of.to, err = f.nats.metric(of.name); err != nil {
			return s, err
		}
	}
	if s.nats, err = f.nats.cpu(); err != nil {
		return s, err
	}
	if s.replay, err = f.replay.cpu(); err != nil {
		return s, err
	}
	for _, p := range f.actors {
		cpu, err := p.cpu()
		if err != nil {
			return s, err
		}
		s.actors += cpu
	}
	s.at = time.Now()
	return s, nil
}

// loadAverage is the number of threads that have wanted to run in the last minute.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
