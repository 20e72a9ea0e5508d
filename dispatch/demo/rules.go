package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/dreamfleet/dreamfleet/dispatch"
)

// chooser says where a job goes, and hears when it is done.
type chooser interface {
	choose(ctx context.Context, cell string, size int64, start bool) (server int, job string, decision dispatch.Decision, err error)
	done(ctx context.Context, cell, job string, server int, size int64) error
}

// rule is a rule that knows what is unfinished at each server.
type rule struct {
	rates []float64
	cost  func(r *rule, q *queue, server int, size float64) float64

	mu    sync.Mutex
	cells map[string]*queue
}

type queue struct {
	next    int
	jobs    []int       // unfinished
	work    []float64   // their sizes
	started []time.Time // when the job in service began
}

func newRule(rates []float64, cost func(r *rule, q *queue, server int, size float64) float64) *rule {
	return &rule{rates: rates, cost: cost, cells: map[string]*queue{}}
}

func roundRobin(_ *rule, q *queue, server int, _ float64) float64 {
	n := len(q.jobs)
	return float64((server - q.next%n + n) % n)
}

func leastConnections(_ *rule, q *queue, server int, _ float64) float64 {
	return float64(q.jobs[server])
}

// leastFinish is LEFT: what is unfinished, less what the job in service has had.
func leastFinish(r *rule, q *queue, server int, size float64) float64 {
	work := q.work[server] / r.rates[server]
	if q.jobs[server] > 0 {
		work = max(work-float64(time.Since(q.started[server]))/float64(unit), 0)
	}
	return work + size/r.rates[server]
}

func (r *rule) choose(_ context.Context, cell string, size int64, _ bool) (int, string, dispatch.Decision, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.cells[cell]
	if q == nil {
		n := len(r.rates)
		q = &queue{jobs: make([]int, n), work: make([]float64, n), started: make([]time.Time, n)}
		r.cells[cell] = q
	}
	best := 0
	for i := range r.rates {
		if r.cost(r, q, i, float64(size)) < r.cost(r, q, best, float64(size)) {
			best = i
		}
	}
	if q.jobs[best] == 0 {
		q.started[best] = time.Now()
	}
	q.next++
	q.jobs[best]++
	q.work[best] += float64(size)
	return best, "", dispatch.Decision{Decider: "rule"}, nil
}

func (r *rule) done(_ context.Context, cell, _ string, server int, size int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.cells[cell]
	q.jobs[server]--
	q.work[server] -= float64(size)
	q.started[server] = time.Now()
	return nil
}

// remote is a dispatcher.
type remote struct {
	url    string
	client *http.Client
}

func (r *remote) ask(ctx context.Context, call string, body, answer any) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/v1/"+call, bytes.NewReader(content))
	if err != nil {
		return err
	}
	response, err := r.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		var text bytes.Buffer
		_, _ = text.ReadFrom(http.MaxBytesReader(nil, response.Body, 4096)) // what there is of a reason
		return fmt.Errorf("%s: %s %s", call, response.Status, strings.TrimSpace(text.String()))
	}
	return json.NewDecoder(response.Body).Decode(answer)
}

func (r *remote) choose(ctx context.Context, cell string, size int64, start bool) (int, string, dispatch.Decision, error) {
	var d dispatch.Decision
	err := r.ask(ctx, "decide", dispatch.Request{Stream: cell, Size: size, Start: start}, &d)
	return d.Server, d.Job, d, err
}

func (r *remote) done(ctx context.Context, cell, job string, _ int, _ int64) error {
	return r.ask(ctx, "complete", dispatch.Completion{Stream: cell, Jobs: []string{job}}, &struct{}{})
}
