package main

import (
	"context"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dreamfleet/dreamfleet/monitor"
)

// scrape asks a process for its metrics and returns the names, with those of histograms whole.
func scrape(t *testing.T, address string) map[string]bool {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get(address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v: %s", resp.Status, err, body)
	}
	names := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (dreamfleet_\w+) `).FindAllStringSubmatch(string(body), -1) {
		names[m[1]] = true
	}
	return names
}

// ready returns whether /readyz says so.
func ready(t *testing.T, address string) bool {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get(address + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

var addressLine = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)

// A training process exports every metric of the table and no other, and every name in metrics.jsonl
// stands in the table.
func TestTrainExportsTheTable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out said
	done := make(chan int)
	go func() {
		done <- run(ctx, append([]string{"train", "--run", dir, "--steps", "0", "--duration", "1h", "--monitor", "127.0.0.1:0",
			"--set", "evaluate.every=500"}, tiny...), &out, &out)
	}()
	waitFor(t, func() bool { return addressLine.MatchString(out.String()) })
	address := addressLine.FindString(out.String())
	want := map[string]bool{}
	for _, m := range monitor.Table {
		want[m.Name] = !strings.HasPrefix(m.Name, "dreamfleet_dispatch_") // those of another role
	}
	maps.DeleteFunc(want, func(_ string, here bool) bool { return !here })
	var got map[string]bool
	missing := func() (names []string) {
		got = scrape(t, address)
		for name := range want {
			if !got[name] {
				names = append(names, name)
			}
		}
		return names
	}
	late := time.Now().Add(time.Minute)
	for names := missing(); len(names) > 0; names = missing() {
		select {
		case code := <-done:
			t.Fatalf("train ended with %d: %s", code, out.String())
		default:
		}
		if time.Now().After(late) {
			t.Fatalf("not exported: %s", strings.Join(names, ", "))
		}
	}
	for name := range got {
		if !want[name] {
			t.Errorf("%s is exported and not in the table", name)
		}
	}
	// Nothing is stale before actors have followed the first parameters.
	waitFor(t, func() bool {
		written, err := os.ReadFile(filepath.Join(dir, monitor.MetricsFile))
		return err == nil && strings.Contains(string(written), "learner/staleness")
	})
	if !ready(t, address) {
		t.Error("it trains and is not ready")
	}
	cancel()
	if code := <-done; code != exitOK {
		t.Errorf("train ended with %d: %s", code, out.String())
	}

	lines, err := monitor.ReadMetrics(dir)
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]bool{}
	for _, line := range lines {
		for name := range line.Values {
			series[name] = true
			if _, _, ok := monitor.ForSeries(name); !ok {
				t.Errorf("%s is in metrics.jsonl and not in the table", name)
			}
		}
	}
	for _, m := range monitor.Table {
		found := m.Series == "" || series[m.Series] || strings.HasPrefix(m.Series, "bus/") // only where there were some
		for name := range series {
			if of, _, _ := monitor.ForSeries(name); of.Name == m.Name {
				found = true
			}
		}
		if !found {
			t.Errorf("series %s is in the table and not in metrics.jsonl", m.Series)
		}
	}
}

// Each role by itself exports what is its own, and is ready only with the others.
func TestRolesExportTheirOwn(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	serving, stopNATS := context.WithCancel(t.Context())
	defer stopNATS()
	var wg, bus sync.WaitGroup
	url := startNATS(serving, t, &bus, dir)
	logs := map[string]*said{}
	start := func(role string, args ...string) string {
		log := &said{}
		logs[role] = log
		wg.Go(func() {
			args = append([]string{role, "--nats", url, "--run", filepath.Join(dir, "run"), "--monitor", "127.0.0.1:0"}, args...)
			if code := run(ctx, args, log, log); code != exitOK {
				t.Errorf("%s ended with %d: %s", role, code, log.String())
			}
		})
		waitFor(t, func() bool { return addressLine.MatchString(log.String()) })
		return addressLine.FindString(log.String())
	}
	acting := start("actor")
	storing := start("replay")
	if ready(t, acting) || ready(t, storing) {
		t.Error("ready without the run's configuration")
	}
	learning := start("learner", append([]string{"--steps", "0", "--duration", "1h"}, tiny...)...)
	own := map[string][]string{
		acting:   {"dreamfleet_actor_steps_total", "dreamfleet_bus_published_chunks_total"},
		storing:  {"dreamfleet_replay_inserted_steps_total", "dreamfleet_bus_consumed_chunks_total"},
		learning: {"dreamfleet_learner_updates_total", "dreamfleet_learner_loss", "dreamfleet_bus_batches_total"},
	}
	for address, names := range own {
		waitFor(t, func() bool { return ready(t, address) })
		for _, name := range append(names, "dreamfleet_build_info", "dreamfleet_loop_seconds", "dreamfleet_loop_saturation_ratio") {
			waitFor(t, func() bool { return scrape(t, address)[name] })
		}
	}
	for address, other := range map[string]string{acting: "dreamfleet_replay_steps", storing: "dreamfleet_actor_actors", learning: "dreamfleet_nats_connections"} {
		if scrape(t, address)[other] {
			t.Errorf("%s has %s", address, other)
		}
	}
	cancel()
	wg.Wait()
	stopNATS()
	bus.Wait()
}

func TestMonitorAddressThatCannotBe(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, command := range []string{"train --preset debug", "nats --store s", "actor --nats nats://127.0.0.1:1", "replay --nats nats://127.0.0.1:1", "learner --preset debug --nats nats://127.0.0.1:1"} {
		code, _, stderr := execute(t, append(strings.Fields(command), "--monitor", ":9464")...)
		if code != exitUsage || !strings.Contains(stderr, "0.0.0.0:9464") {
			t.Errorf("%s: exit code %d: %s", command, code, stderr)
		}
	}
}
