package bench

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
)

// made are figures of fleets that follow the model exactly, with these constants.
func made(c *costs, sizes ...float64) []Result {
	var all []Result
	for _, n := range sizes {
		add := func(name string, value float64) {
			all = append(all, Result{Name: fmt.Sprintf("scale/%g/%s", n, name), Config: "chunks, 8 cores, load 0.10", Value: value})
		}
		idle := load{connections: n, flow: 4 * n}
		busy := load{connections: n, chunks: 3 * n, flow: n * min(100, 3*n)}
		both := busy
		both.versions = 0.5
		for _, x := range []struct {
			prefix, received, sent string
			of                     load
		}{{"idle", "heartbeats_received", "heartbeats_sent", idle}, {"chunks", "chunks_received", "chunks_sent", busy}, {"together", "together_received", "together_sent", both}} {
			add(x.prefix+"_nats", c.natsCores(x.of))
			add(x.prefix+"_replay", c.replayCores(x.of))
			add(x.received, c.receivedBytes(x.of))
			add(x.sent, c.sentBytes(x.of))
		}
		add("idle_flow", idle.flow)
		add("flow", busy.flow)
		add("together_flow", both.flow)
		add("chunks", busy.chunks)
		add("together", both.chunks)
		add("together_versions", both.versions)
		add("fanout", c.fanoutSeconds(n))
		add("fanout_bytes", c.sent.version*n)
		add("fanout_nats", c.nats.version*n)
		for _, name := range []string{"staleness", "batch_bytes", "batch_nats", "batch_replay", "step_bytes", "server_memory", "chunk_bytes"} {
			add(name, 1)
		}
	}
	return all
}

func modelCosts() *costs {
	c := &costs{}
	c.nats.fixed, c.nats.connection, c.nats.chunk, c.nats.flow, c.nats.version = 0.01, 1e-4, 3e-4, 2e-6, 1e-3
	c.replay.fixed, c.replay.chunk = 0.01, 2e-4
	c.received.connection, c.received.chunk, c.received.version = 200, 7000, 1.5e6
	c.sent.connection, c.sent.chunk, c.sent.flow, c.sent.version = 300, 7200, 100, 1.5e6
	c.fanout.fixed, c.fanout.connection = 0.01, 0.004
	return c
}

// Constants are found again, and predict the sizes that were not fitted to.
func TestFitCosts(t *testing.T) {
	want := modelCosts()
	points, err := scalePoints(made(want, 1, 10, 100, 1000))
	if err != nil {
		t.Fatal(err)
	}
	got, err := fitCosts(points)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name      string
		got, want float64
	}{
		{"nats.fixed", got.nats.fixed, want.nats.fixed}, {"nats.connection", got.nats.connection, want.nats.connection},
		{"nats.chunk", got.nats.chunk, want.nats.chunk}, {"nats.flow", got.nats.flow, want.nats.flow}, {"nats.version", got.nats.version, want.nats.version},
		{"replay.fixed", got.replay.fixed, want.replay.fixed}, {"replay.chunk", got.replay.chunk, want.replay.chunk},
		{"received.connection", got.received.connection, want.received.connection}, {"received.chunk", got.received.chunk, want.received.chunk},
		{"sent.connection", got.sent.connection, want.sent.connection}, {"sent.chunk", got.sent.chunk, want.sent.chunk},
		{"sent.flow", got.sent.flow, want.sent.flow}, {"sent.version", got.sent.version, want.sent.version},
		{"fanout.fixed", got.fanout.fixed, want.fanout.fixed}, {"fanout.connection", got.fanout.connection, want.fanout.connection},
	} {
		if math.Abs(x.got-x.want) > 1e-6*x.want {
			t.Errorf("%s is %g, want %g", x.name, x.got, x.want)
		}
	}
	rows, err := checkRows(points)
	if err != nil || len(rows) != 20 {
		t.Fatalf("%d rows, error %v", len(rows), err)
	}
	for _, row := range rows {
		if row.Error != "+0 %" && row.Error != "-0 %" {
			t.Errorf("a fleet that follows the model is mispredicted: %+v", row)
		}
	}
	// A size that does not follow it shows.
	points[3].figures["together_nats"] *= 2
	if rows, err = checkRows(points); err != nil || rows[15].Error != "-50 %" {
		t.Errorf("twice the cores are told as %+v, error %v", rows[15], err)
	}
}

// No coefficient is below zero, whatever noise would make of it.
func TestFitIsNotNegative(t *testing.T) {
	var f fit
	f.add(1, 1, 1)
	f.add(0.9, 1, 2)
	f.add(0.8, 1, 3)
	var a, b float64
	if err := f.solve([]*float64{&a, &b}); err != nil || b != 0 || a < 0.8 || a > 1 {
		t.Errorf("%v + %v x, error %v", a, b, err)
	}
}

func TestWriteSizing(t *testing.T) {
	var page bytes.Buffer
	if err := WriteSizing(&page, made(modelCosts(), 1, 10, 100)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| 10 k | 16 | 625 |", "8 cores, with a load average of 0.10, 0.10, 0.10", "NATS, cores         = 0.01 + 100 µs h + 300 µs c + 2 µs f + 1 ms v h"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, page.String())
		}
	}
	for want, figures := range map[string][]Result{
		"at least 3 are needed":           made(modelCosts(), 1, 10),
		"scale/10/chunks_nats is missing": without(made(modelCosts(), 1, 10, 100), "scale/10/chunks_nats"),
		"scale/100/step_bytes is missing": without(made(modelCosts(), 1, 10, 100), "scale/100/step_bytes"),
	} {
		if err := WriteSizing(&page, figures); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := ReadResults(strings.NewReader("{}\n}")); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("got %v", err)
	}
}

func without(all []Result, name string) []Result {
	var left []Result
	for _, r := range all {
		if r.Name != name {
			left = append(left, r)
		}
	}
	return left
}

func TestCheckActors(t *testing.T) {
	for _, bad := range [][]int{nil, {0, 1}, {10, 1}, {1, 100_000}} {
		if CheckActors(bad) == nil {
			t.Errorf("%v are accepted", bad)
		}
	}
	if err := CheckActors([]int{1, 10, 1000}); err != nil {
		t.Error(err)
	}
}
