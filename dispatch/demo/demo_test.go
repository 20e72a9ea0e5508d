package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Rules choose by what is unfinished, and all jobs reach real servers, one after the other at each.
func TestRulesOnRealServers(t *testing.T) {
	for name, cost := range map[string]func(*rule, *queue, int, float64) float64{"round-robin": roundRobin, "least": leastConnections, "left": leastFinish} {
		list := []*cell{}
		for _, n := range []string{"a", "b"} {
			c, err := startCell(n, []float64{100, 200})
			if err != nil {
				t.Fatal(err)
			}
			defer c.close()
			list = append(list, c)
		}
		jobs := []loadbalance.JobList{make(loadbalance.JobList, 30), make(loadbalance.JobList, 30)}
		for i := range jobs {
			for k := range jobs[i] {
				jobs[i][k] = loadbalance.Job{Size: 100}
			}
		}
		samples, err := drive(t.Context(), list, jobs, newRule([]float64{100, 200}, cost))
		if err != nil || len(samples) != 60 {
			t.Fatalf("%s: %d samples, %v", name, len(samples), err)
		}
		at := map[int]int{}
		for _, s := range samples {
			at[s.Server]++
			if s.Response <= 0 {
				t.Errorf("%+v", s)
			}
		}
		if even := at[0] == 30; name == "round-robin" && !even || at[0] == 0 || at[1] == 0 {
			t.Errorf("%s: %v", name, at)
		}
	}
}

// A server has one job in service at a time: the next gets its turn when that is done.
func TestServersHaveOneJobInService(t *testing.T) {
	b, err := startBackend(1)
	if err != nil {
		t.Fatal(err)
	}
	defer b.server.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	b.turn <- struct{}{} // as a job in service has it
	done := make(chan error, 1)
	go func() { done <- post(t.Context(), client, b.url+"/?size=1") }()
	select {
	case <-done:
		t.Fatal("two jobs are served at once")
	default:
	}
	<-b.turn
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPage(t *testing.T) {
	r := results{Rates: rates, Unit: 1e-3, Policies: []string{"LEFT", "policy"}, Compared: map[string][]sample{}, Marks: []mark{{5, "server 4 <slows>"}}}
	for i := range 40 {
		s := sample{Cell: i % 2, At: float64(i), Response: 0.1 * float64(i+1), Decider: "policy"}
		r.Surprise = append(r.Surprise, surprise{i % 2, float64(i), 0.1 * float64(i)})
		r.Compared["LEFT"], r.Compared["policy"], r.Incident = append(r.Compared["LEFT"], s), append(r.Compared["policy"], s), append(r.Incident, s)
	}
	path := filepath.Join(t.TempDir(), "report.html")
	if err := r.writePage(path); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(path)
	if err != nil || strings.Count(string(page), "<svg") != 4 || !strings.Contains(string(page), "server 4 &lt;slows&gt;") || strings.Contains(string(page), "src=") {
		t.Errorf("%v: %.2000s", err, page)
	}
}
