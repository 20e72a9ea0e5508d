package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/dreamfleet/dreamfleet/deploy/sshtest"
)

// A fleet of two hosts, over real ssh, with real processes and keys: this test's binary is the program
// that is launched, see TestMain.
func TestLaunch(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, name := range []string{"DREAMFLEET_NATS_URL", "DREAMFLEET_NATS_CREDS"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	port := freePort(t)
	if code, _, stderr := execute(t, "nats", "init", "--out", "cluster", "--hosts", fmt.Sprintf("127.0.0.1:%d", port), "--install", "etc"); code != exitOK {
		t.Fatal(stderr)
	}
	head, worker := sshtest.New(t), sshtest.New(t)
	monitors := freePorts(t)
	config := "budget: {steps: 0, duration: 0}\nevaluate: {every: 0, seeds: 2000-2001, jobs: 50}\nreplay: {shards: 2}\n"
	write(t, "try.yaml", config)
	write(t, "fleet.yaml", fmt.Sprintf(`run: try
preset: debug
config: try.yaml
cluster: cluster
defaults: {user: tester, monitor: 127.0.0.1:%d}
hosts:
  - name: head
    address: 127.0.0.1
    port: %d
    identity: %s
    options: [%s]
    roles: [nats, replay, learner]
    shards: [1, 2]
    bus: 127.0.0.1:%d
  - name: worker
    address: 127.0.0.1
    port: %d
    identity: %s
    options: [%s]
    actors: 2 # to begin with
    labels: {zone: a}
`, monitors, head.Port, head.Identity, strings.Join(head.Options, ", "), port, worker.Port, worker.Identity, strings.Join(worker.Options, ", ")))
	launch := func(args ...string) string {
		t.Helper()
		code, out, stderr := execute(t, append([]string{"launch"}, args...)...)
		if code != exitOK {
			t.Fatalf("launch %v ended with %d:\n%s%s", args, code, out, stderr)
		}
		return out
	}
	t.Cleanup(func() { // whatever has gone wrong, nothing goes on
		for _, host := range []*sshtest.Server{head, worker} {
			for _, kind := range []string{".keeper", ""} {
				for _, pid := range numbers(t, host, kind) {
					_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
				}
			}
		}
	})

	plan := launch("fleet.yaml", "--dry-run")
	if entries, err := os.ReadDir(worker.Home); err != nil || len(entries) > 0 {
		t.Errorf("a dry run has left %v, %v", entries, err)
	}
	if seed := seedOf(t, "cluster/keys/actor.nk"); strings.Contains(plan, seed) {
		t.Error("a dry run prints a key")
	}
	launch("fleet.yaml")
	if again := launch("fleet.yaml"); again != "head: nothing to do\nworker: nothing to do\n" && again != "worker: nothing to do\nhead: nothing to do\n" {
		t.Errorf("a second launch says\n%s", again)
	}
	info, err := os.Stat(filepath.Join(worker.Home, "dreamfleet/try/keys/actor.nk"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the actors' key: %v, %v", info, err)
	}
	if keys, err := filepath.Glob(filepath.Join(worker.Home, "dreamfleet/try/keys/*")); err != nil || len(keys) != 1 {
		t.Errorf("a host of actors has the keys %v, %v", keys, err)
	}
	// Everybody is heard, and actors act by what the learner has published.
	row := func(out, unit string) string {
		return regexp.MustCompile(`(?m)^\w+ +` + unit + ` .*$`).FindString(out)
	}
	waitFor(t, func() bool {
		_, out, _ := execute(t, "launch", "status", "fleet.yaml")
		for _, unit := range []string{"nats", "replay-1", "replay-2", "learner", "actor-1", "actor-2"} {
			r := row(out, unit)
			if !strings.Contains(r, " running ") || unit != "nats" && !strings.Contains(r, " ago") {
				return false
			}
		}
		return regexp.MustCompile(` steps/s(, held)? +\d+ +\d+s ago`).MatchString(row(out, "actor-2"))
	})
	for port, role := range map[int]string{0: "nats", 1: "learner", 2: "replay", 3: "replay", 100: "actor", 101: "actor"} {
		if text := get(t, fmt.Sprintf("http://127.0.0.1:%d/metrics", monitors+port)); !strings.Contains(text, `role="`+role+`"`) {
			t.Errorf("at port %d, the %s's, are no metrics of it:\n%s", monitors+port, role, text)
		}
	}
	before := pids(t, worker)

	// A third actor leaves the others alone, and the inventory says so.
	out := launch("scale", "fleet.yaml", "worker=3")
	if !strings.Contains(out, "worker: start actor-3\n") || strings.Contains(out, "actor-1") {
		t.Errorf("scale says\n%s", out)
	}
	text, err := os.ReadFile("fleet.yaml")
	if err != nil || !strings.Contains(string(text), "    actors: 3 # to begin with\n") {
		t.Errorf("the inventory is %s, %v", text, err)
	}
	after := pids(t, worker)
	if len(after) != 3 || after["actor-1"] != before["actor-1"] || after["actor-2"] != before["actor-2"] {
		t.Errorf("processes %v have become %v", before, after)
	}

	// Another configuration restarts the learner alone.
	heads := pids(t, head)
	write(t, "try.yaml", config+"log: {every: 20}\n")
	launch("fleet.yaml")
	if now := pids(t, head); now["learner"] == heads["learner"] || now["replay-1"] != heads["replay-1"] || now["replay-2"] != heads["replay-2"] || now["nats"] != heads["nats"] {
		t.Errorf("processes %v have become %v", heads, now)
	}
	if logs := launch("logs", "fleet.yaml", "--on", "zone=a", "--lines", "200"); !strings.Contains(logs, "worker actor-3: ") || !strings.Contains(logs, "acting") {
		t.Errorf("logs are\n%s", logs)
	}
	launch("restart", "fleet.yaml", "--on", "worker", "--role", "actor")
	if now := pids(t, worker); len(now) != 3 || now["actor-1"] == after["actor-1"] {
		t.Errorf("processes %v have become %v", after, now)
	}

	// A host that is away keeps nobody from being stopped, and is named.
	worker.Close()
	code, _, stderr := execute(t, "launch", "stop", "fleet.yaml")
	if code != exitFailure || !strings.Contains(stderr, "1 of 2 hosts failed:\nworker: cannot be reached") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if left := pids(t, head); len(left) != 0 {
		t.Errorf("after stopping, %v run", left)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// freePorts is the first of the ports of a host's metrics that nobody has, below those that connections get.
func freePorts(t *testing.T) int {
	t.Helper()
	for base := 20000; base < 32000; base += 200 {
		free := true
		for _, port := range []int{0, 1, 2, 3, 100, 101, 102} {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+port))
			if err == nil {
				l.Close()
			}
			free = free && err == nil
		}
		if free {
			return base
		}
	}
	t.Fatal("no ports are free")
	return 0
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// seedOf is the secret line of a key file.
func seedOf(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seed, _, _ := strings.Cut(string(text), "\n")
	return seed
}

// pids are the processes that a host keeps, by unit.
func pids(t *testing.T, host *sshtest.Server) map[string]int { return numbers(t, host, "") }

func numbers(t *testing.T, host *sshtest.Server, extension string) map[string]int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(host.Home, "dreamfleet/*/state/*"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, file := range files {
		if filepath.Ext(file) != extension {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has just ended
		}
		if pid, err := strconv.Atoi(strings.Fields(string(text) + " x")[0]); err == nil {
			found[strings.TrimSuffix(filepath.Base(file), extension)] = pid
		}
	}
	return found
}
