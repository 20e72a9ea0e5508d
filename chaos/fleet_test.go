package chaos

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	run         = "chaos"
	natsPort    = 4222
	monitorPort = "9464"
	patience    = 90 * time.Second // for what must happen; what it took is measured
	interval    = 50 * time.Millisecond
)

// unit is a process of the fleet on a host of its own.
type unit struct {
	f    *fleet
	role string
	name string
	host *host
	args []string
	env  []string

	cmd   *exec.Cmd
	ended chan struct{}
}

// fleet is what is broken.
type fleet struct {
	t      *testing.T
	dir    string
	binary string

	servers, actors, learners []*unit
	replay                    *unit
	js                        jetstream.JetStream
	client                    *http.Client
}

// newFleet starts a fleet whose replay holds so many steps.
func newFleet(t *testing.T, n *network, capacity int) *fleet {
	f := &fleet{t: t, dir: t.TempDir(), client: &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	f.binary = filepath.Join(f.dir, "dreamfleet")
	build := exec.Command("go", "build", "-trimpath", "-o", f.binary, "../cmd/dreamfleet")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	f.must(build)

	var addresses []string
	var hosts []*host
	for range 3 {
		h := n.add()
		hosts, addresses = append(hosts, h), append(addresses, h.address)
	}
	cluster := filepath.Join(f.dir, "cluster")
	f.must(exec.Command(f.binary, "nats", "init", "--out", cluster, "--hosts", strings.Join(addresses, ",")))
	for i, h := range hosts {
		f.servers = append(f.servers, &unit{f: f, role: "nats", name: "nats-" + strconv.Itoa(i+1), host: h,
			args: []string{"nats", "--config", filepath.Join(cluster, h.address, "nats-server.conf")}})
	}
	url := "tls://" + strings.Join(addresses, ":4222,tls://") + ":4222"
	member := func(role, name string, args ...string) *unit {
		return &unit{f: f, role: role, name: name, host: n.add(), args: append([]string{role}, args...), env: []string{
			"DREAMFLEET_NATS_URL=" + url, "DREAMFLEET_NATS_CREDS=" + filepath.Join(cluster, "keys", role+".nk"),
			"DREAMFLEET_LEDGER=" + f.ledger(name),
		}}
	}
	f.replay = member("replay", "replay", "--run", filepath.Join(f.dir, "replay", run))
	for i := range 2 {
		name := "learner-" + strconv.Itoa(i+1)
		f.learners = append(f.learners, member("learner", name, "--standby", "--run", filepath.Join(f.dir, name, run), "--preset", "debug",
			"--steps", "0", "--duration", "0", "--set", "evaluate.every=0", "--set", "replay.capacity="+strconv.Itoa(capacity), "--set", "learner.train_ratio=4",
			"--set", "learner.checkpoint_every=100", "--set", "learner.threads=1", "--set", "log.every=1000", "--set", "bus.store_bytes=268435456"))
	}
	for i := range 2 {
		name := "actor-" + strconv.Itoa(i+1)
		f.actors = append(f.actors, member("actor", name, "--name", name))
	}
	for _, u := range f.all() {
		u.start()
	}
	f.js = f.operator(cluster, url)
	return f
}

func (f *fleet) must(cmd *exec.Cmd) {
	f.t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		f.t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

func (f *fleet) all() []*unit {
	return slices.Concat(f.servers, []*unit{f.replay}, f.learners, f.actors)
}

// clients are the units that connect to a server.
func (f *fleet) clients() []*unit { return f.all()[len(f.servers):] }

// operator connects the test itself, to ask who leads a stream.
func (f *fleet) operator(cluster, url string) jetstream.JetStream {
	key := filepath.Join(cluster, "keys", "operator.nk")
	opt, err := nats.NkeyOptionFromSeed(key)
	if err != nil {
		f.t.Fatal(err)
	}
	nc, err := nats.Connect(url, opt, nats.RootCAs(key), nats.CustomInboxPrefix("_INBOX_operator"), nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1), nats.ReconnectWait(interval), nats.PingInterval(time.Second), nats.FlusherTimeout(time.Second))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		f.t.Fatal(err)
	}
	return js
}

// leader is the server that leads the trajectories.
func (f *fleet) leader() *unit {
	var at int
	f.until("a server leads the trajectories", func() bool {
		ctx, cancel := context.WithTimeout(f.t.Context(), 2*time.Second)
		defer cancel()
		stream, err := f.js.Stream(ctx, "TRAJ")
		if err != nil || stream.CachedInfo().Cluster == nil {
			return false
		}
		at = slices.IndexFunc(f.servers, func(u *unit) bool { return u.host.address == stream.CachedInfo().Cluster.Leader })
		return at >= 0
	})
	return f.servers[at]
}

// until polls for what must happen, and returns how long it took.
func (f *fleet) until(what string, ok func() bool) time.Duration {
	f.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > patience {
			f.t.Fatalf("in vain for %v: %s", patience, what)
		}
		<-time.After(interval)
	}
	return time.Since(began)
}

func (f *fleet) ledger(name string) string { return filepath.Join(f.dir, name+".ledger") }

func (u *unit) log() string { return filepath.Join(u.f.dir, u.name+".log") }

func (u *unit) start() {
	t := u.f.t
	t.Helper()
	out, err := os.OpenFile(u.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	// ip becomes the program, and so has its process id.
	u.cmd = exec.Command("ip", append([]string{"netns", "exec", u.host.namespace, u.f.binary}, u.args...)...)
	u.cmd.Env = append(append(os.Environ(), "DREAMFLEET_MONITOR=0.0.0.0:"+monitorPort), u.env...)
	u.cmd.Stdout, u.cmd.Stderr = out, out
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, ended := u.cmd, make(chan struct{})
	u.ended = ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // its end is looked at by whoever wants it to
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
	})
}

// end sends a signal and waits until the process is gone.
func (u *unit) end(s os.Signal) {
	if err := u.cmd.Process.Signal(s); err != nil {
		u.f.t.Fatalf("%s: %v", u.name, err)
	}
	<-u.ended
	if s == syscall.SIGTERM && u.cmd.ProcessState.ExitCode() != 0 {
		u.f.t.Errorf("%s, asked to end, ended with %v", u.name, u.cmd.ProcessState)
	}
}

// alive fails the test where the process has ended by itself.
func (u *unit) alive() {
	select {
	case <-u.ended:
		u.f.t.Fatalf("%s has ended by itself with %v: %s", u.name, u.cmd.ProcessState, tail(u.log()))
	default:
	}
}

func tail(path string) string {
	content, _ := os.ReadFile(path) // for a message only
	return string(content[max(0, len(content)-2000):])
}

// metrics are the unit's, summed over labels; empty while it does not answer.
func (u *unit) metrics() map[string]float64 {
	values := map[string]float64{}
	resp, err := u.f.client.Get("http://" + net.JoinHostPort(u.host.address, monitorPort) + "/metrics")
	if err != nil {
		return values
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(io.LimitReader(resp.Body, 4<<20))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if at := strings.LastIndexByte(lines.Text(), ' '); at > 0 {
			value = lines.Text()[at+1:]
		}
		name, _, _ = strings.Cut(name, "{")
		if v, err := strconv.ParseFloat(value, 64); err == nil && name != "#" {
			values[name] += v
		}
	}
	return values
}

// server is the one that the process has a connection to, nil if none or one not known.
func (u *unit) server() *unit {
	for _, address := range u.connections() {
		for _, s := range u.f.servers {
			if s.host.address == address {
				return s
			}
		}
	}
	return nil
}

// connections are the addresses at whose port 4222 the process's namespace has
// established connections, as the system tells.
func (u *unit) connections() (addresses []string) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", u.cmd.Process.Pid))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(content)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != "01" {
			continue
		}
		address, port, _ := strings.Cut(f[2], ":")
		raw, err := hex.DecodeString(address)
		if n, portErr := strconv.ParseUint(port, 16, 16); err == nil && portErr == nil && n == natsPort && len(raw) == 4 {
			var a [4]byte
			binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(raw))
			addresses = append(addresses, net.IP(a[:]).String())
		}
	}
	return addresses
}

// acknowledged reads the ledgers of all actors that there ever were.
func (f *fleet) acknowledged() map[string]string {
	sums := map[string]string{}
	for _, u := range f.actors {
		content, err := os.ReadFile(f.ledger(u.name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			f.t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			id, sum, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			if !ok || !strings.HasSuffix(line, "\n") {
				continue // being written
			}
			if other, twice := sums[id]; twice && other != sum {
				f.t.Fatalf("chunk %s was sent as %s and as %s", id, other, sum)
			}
			sums[id] = sum
		}
	}
	return sums
}
