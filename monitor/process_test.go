package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/watchdog"
)

// testClock is told what time it is.
type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *testClock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func startProcess(t *testing.T, ctx context.Context, cfg ProcessConfig) *Process {
	t.Helper()
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Role, cfg.Version, cfg.Log = "learner", "v1", hclog.NewNullLogger()
	p, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// get asks a process for a page.
func get(t *testing.T, p *Process, path string) (code int, body string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get("http://" + p.Address() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestReadyWhenAllChecksPass(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := startProcess(t, ctx, ProcessConfig{Run: "small", Listen: "127.0.0.1:0", Checks: []string{"bus", "store"}})
	status := func(want int) (answer struct {
		Status, Role, Run, Version string
		Checks                     []Outcome
	}) {
		t.Helper()
		code, body := get(t, p, "/readyz")
		if err := json.Unmarshal([]byte(body), &answer); err != nil || code != want {
			t.Fatalf("%d, %v: %s", code, err, body)
		}
		return answer
	}
	p.Check("bus", func() error { return nil })
	a := status(http.StatusServiceUnavailable)
	if want := []Outcome{{Name: "bus", OK: true}, {Name: "store", Reason: "not yet"}}; a.Status != "unavailable" || !slices.Equal(a.Checks, want) {
		t.Errorf("one check is missing: %+v", a)
	}
	p.Check("store", func() error { return nil })
	if a := status(http.StatusOK); a.Status != "ok" || a.Role != "learner" || a.Run != "small" || a.Version != "v1" || len(a.Checks) != 2 {
		t.Errorf("all pass: %+v", a)
	}
	p.Check("bus", func() error { return errors.New("cut off") })
	if a := status(http.StatusServiceUnavailable); a.Checks[0].Reason != "cut off" {
		t.Errorf("a check fails: %+v", a)
	}
	p.Check("bus", func() error { return nil })
	cancel()
	for late := time.Now().Add(10 * time.Second); ; {
		if ready, outcomes := p.Ready(); !ready && outcomes[2].Reason == "stopping" {
			break
		}
		if time.Now().After(late) {
			t.Fatal("ready while it is stopping")
		}
	}
	status(http.StatusServiceUnavailable)
}

func TestHealthyUnlessALoopStalls(t *testing.T) {
	clock := &testClock{now: time.Unix(1_700_000_000, 0)}
	p := startProcess(t, t.Context(), ProcessConfig{Listen: "127.0.0.1:0", Now: clock.read})
	learn, cast := p.Watchdog.Loop("learner", "learn"), p.Watchdog.Loop("learner", "broadcast")
	defer learn.End()
	defer cast.End()
	learn.Do("update")
	cast.Wait("version")
	clock.pass(30 * time.Second)
	if code, body := get(t, p, "/healthz"); code != http.StatusOK || !strings.Contains(body, `{"role":"learner","loop":"learn","state":"busy","step":"update","seconds":30}`) {
		t.Errorf("%d: %s", code, body)
	}
	clock.pass(time.Minute)
	code, body := get(t, p, "/healthz")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, `"loop":"learn","state":"stalled","step":"update"`) ||
		!strings.Contains(body, `"loop":"broadcast","state":"waiting","step":"version"`) {
		t.Errorf("%d: %s", code, body)
	}
	if _, body := get(t, p, "/metrics"); !strings.Contains(body, `dreamfleet_loop_stalled{loop="learn",role="learner"} 1`) {
		t.Error("the stall is not exported")
	}
	learn.Wait("batch")
	if code, body := get(t, p, "/healthz"); code != http.StatusOK {
		t.Errorf("%d after it went on: %s", code, body)
	}
}

func TestProfilesAreForLoopbackOnly(t *testing.T) {
	p := startProcess(t, t.Context(), ProcessConfig{Listen: "127.0.0.1:0"})
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/cmdline"} {
		if code, _ := get(t, p, path); code != http.StatusOK {
			t.Errorf("%s over loopback: %d", path, code)
		}
	}
	handler := p.handler()
	for name, request := range map[string]struct{ local, remote, host string }{
		"from elsewhere":            {"10.0.0.5:9464", "10.0.0.9:40000", "10.0.0.5:9464"},
		"to the machine's address":  {"10.0.0.5:9464", "10.0.0.5:40000", "10.0.0.5:9464"},
		"by a name of elsewhere":    {"127.0.0.1:9464", "127.0.0.1:40000", "evil.example:9464"},
		"through a name of loopack": {"127.0.0.1:9464", "127.0.0.1:40000", "127.0.0.1.evil.example"},
	} {
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/profile", "/debug/pprof/trace", "/debug/pprof/symbol", "/debug/pprof/cmdline"} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			local, err := net.ResolveTCPAddr("tcp", request.local)
			if err != nil {
				t.Fatal(err)
			}
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
			r.RemoteAddr, r.Host = request.remote, request.host
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if w.Code != http.StatusForbidden {
				t.Errorf("%s %s: %d", path, name, w.Code)
			}
		}
	}
}

func TestListenAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:9464": "", "0.0.0.0:0": "", "[::1]:9464": "",
		":9464": "0.0.0.0:9464", "9464": "is not host:port", "localhost": "is not host:port",
	} {
		if err := CheckListen(address); (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", address, err)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, err := Start(t.Context(), ProcessConfig{Listen: taken.Addr().String(), Now: time.Now, Log: hclog.NewNullLogger()}); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a port in use: %v", err)
	}
}

func TestSourcesTellWhatIsInTheTable(t *testing.T) {
	p := startProcess(t, t.Context(), ProcessConfig{Run: "small", Listen: "127.0.0.1:0"})
	p.Source("recorded", Recorded(map[string]float64{
		"loss/kl": 1.5, "learner/skipped": 2, "train/entropy": 0.5, "env/steps": 7, "unknown": 1, "loss/": 3,
	}))
	code, body := get(t, p, "/metrics")
	if code != http.StatusOK {
		t.Fatalf("%d: %s", code, body)
	}
	for _, want := range []string{
		`dreamfleet_learner_loss{run="small",term="kl"} 1.5`, "# TYPE dreamfleet_learner_skipped_updates_total counter",
		`dreamfleet_learner_skipped_updates_total{run="small"} 2`, `dreamfleet_learner_measure{name="entropy",run="small"} 0.5`,
		`dreamfleet_build_info{role="learner",run="small",version="v1"} 1`, "go_goroutines", "process_open_fds",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(body, "inserted_steps") || strings.Contains(body, "unknown") || strings.Contains(body, `term=""`) {
		t.Error("recorded values are exported that another source has, or that the table has not")
	}
	for name, wrong := range map[string]Source{
		"unknown name": func(e *Emitter) { e.Value("dreamfleet_other", 1) },
		"other kind":   func(e *Emitter) { e.Value("dreamfleet_loop_seconds", 1, "a", "b", "c", "d") },
		"other labels": func(e *Emitter) { e.Value("dreamfleet_learner_loss", 1) },
		"twice":        func(e *Emitter) { e.Value("dreamfleet_replay_steps", 1); e.Value("dreamfleet_replay_steps", 1) },
	} {
		p.Source("recorded", wrong)
		if code, body := get(t, p, "/metrics"); code != http.StatusInternalServerError {
			t.Errorf("%s: %d: %s", name, code, body)
		}
	}
}

func TestDistributionIsCumulative(t *testing.T) {
	p := startProcess(t, t.Context(), ProcessConfig{Listen: "127.0.0.1:0"})
	p.Source("ages", func(e *Emitter) {
		e.Distribution("dreamfleet_learner_staleness_versions", 30, []float64{0, 1}, []uint64{3, 2, 4})
	})
	_, body := get(t, p, "/metrics")
	p.SetRun("small") // found out later
	if _, body := get(t, p, "/metrics"); !strings.Contains(body, `dreamfleet_learner_staleness_versions_count{run="small"} 9`) {
		t.Error("the run's name is missing")
	}
	for _, want := range []string{`_bucket{le="0"} 3`, `_bucket{le="1"} 5`, `_bucket{le="+Inf"} 9`, "_sum 30", "_count 9"} {
		if !strings.Contains(body, "dreamfleet_learner_staleness_versions"+want) {
			t.Errorf("%s is missing", want)
		}
	}
}

// Names follow Prometheus's conventions, and no two rows claim the same.
func TestTable(t *testing.T) {
	names, series := map[string]bool{}, map[string]bool{}
	for _, m := range Table {
		if names[m.Name] || m.Series != "" && series[m.Series] {
			t.Errorf("%s stands there twice, or its series %s", m.Name, m.Series)
		}
		names[m.Name], series[m.Series] = true, true
		if !regexp.MustCompile(`^dreamfleet(_[a-z]+)+$`).MatchString(m.Name) {
			t.Errorf("%s is no good name", m.Name)
		}
		if (m.Kind == Counter) != strings.HasSuffix(m.Name, "_total") {
			t.Errorf("%s is a %s: _total is for counters", m.Name, m.Kind)
		}
		if m.Unit == "seconds" && !strings.HasSuffix(m.Name, "_seconds") ||
			m.Unit == "bytes" && !strings.HasSuffix(strings.TrimSuffix(m.Name, "_total"), "_bytes") {
			t.Errorf("%s is in %s and does not say so", m.Name, m.Unit)
		}
		if m.Unit == "" || !strings.HasSuffix(m.Help, ".") || strings.Contains(m.Help, "|") {
			t.Errorf("%s: unit %q, help %q", m.Name, m.Unit, m.Help)
		}
		if strings.HasSuffix(m.Series, "*") && len(m.Labels) == 0 || m.Recorded && m.Series == "" {
			t.Errorf("%s can not be exported from series %q", m.Name, m.Series)
		}
	}
	for name, want := range map[string]string{
		"loss/kl": "dreamfleet_learner_loss kl", "env/steps": "dreamfleet_replay_inserted_steps_total ",
		"bus/refused_other": "dreamfleet_bus_refused_messages_total other", "env/step": "", "": "", "loss/": "",
	} {
		m, label, ok := ForSeries(name)
		if got := m.Name + " " + label; ok != (want != "") || ok && got != want {
			t.Errorf("%q is %q, %v", name, got, ok)
		}
	}
}

// docs/metrics.md is what go generate makes of the table.
func TestMetricsAreDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != MetricsMarkdown() {
		t.Error("docs/metrics.md is out of date: go generate ./cmd/dreamfleet")
	}
}

// systemd is the socket that it listens on.
func systemd(t *testing.T) func() string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_PID", "")
	return func() string { // all that was said since; sending is done when it returns
		var all []string
		for b := make([]byte, 1024); ; {
			if err := conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			n, err := conn.Read(b)
			if err != nil {
				return strings.Join(all, "; ")
			}
			all = append(all, strings.ReplaceAll(string(b[:n]), "\n", ", "))
		}
	}
}

func TestSystemdHearsOfReadinessAndStalls(t *testing.T) {
	p := startProcess(t, t.Context(), ProcessConfig{Checks: []string{"bus"}})
	p.Close() // what it tells by itself
	heard := systemd(t)
	t.Setenv("WATCHDOG_USEC", "20000000")
	clock := &testClock{now: time.Unix(1_700_000_000, 0)}
	dog := watchdog.New(watchdog.Limit, clock.read, hclog.NewNullLogger())
	p.Watchdog = dog
	m := newServiceManager(p)
	if m.every != 10*time.Second {
		t.Fatalf("every %v", m.every)
	}
	look := func(want string) {
		t.Helper()
		m.look(clock.read())
		if got := heard(); got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
		clock.pass(5 * time.Second)
	}
	look("STATUS=bus: not yet; WATCHDOG=1")
	look("")
	p.Check("bus", func() error { return nil })
	look("READY=1, STATUS=ready; WATCHDOG=1")
	look("")
	loop := dog.Loop("learner", "learn")
	defer loop.End()
	loop.Do("update")
	look("WATCHDOG=1")
	clock.pass(time.Minute)
	look("") // it hangs: systemd ends and restarts it
	loop.Do("update")
	p.Check("bus", func() error { return errors.New("cut off") })
	look("STATUS=bus: cut off; WATCHDOG=1")
	p.Check("bus", func() error { return nil })
	look("STATUS=ready")
}

func TestSystemdHearsOfStopping(t *testing.T) {
	heard := systemd(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := startProcess(t, ctx, ProcessConfig{})
	await := func(want string) {
		t.Helper()
		all := ""
		for late := time.Now().Add(10 * time.Second); !strings.Contains(all, want); all += heard() {
			if time.Now().After(late) {
				t.Fatalf("heard %q, want %q", all, want)
			}
		}
	}
	await("READY=1")
	cancel()
	await("STOPPING=1")
	p.Close()
}
