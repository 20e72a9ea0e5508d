package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
)

// sample is one job, as it went.
type sample struct {
	Cell     int     `json:"cell"`
	At       float64 `json:"at"`       // arrival, seconds from the beginning
	Response float64 `json:"response"` // seconds
	Server   int     `json:"server"`
	Decider  string  `json:"decider"`
	Reason   string  `json:"reason,omitempty"`
	Stage    string  `json:"stage,omitempty"`
}

// drive sends each cell its jobs at their times and returns when all are done.
func drive(ctx context.Context, cells []*cell, jobs []loadbalance.JobList, c chooser) ([]sample, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 2 * time.Minute}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	var samples []sample
	var all sync.WaitGroup
	began := time.Now()
	send := func(i int, size int64, first bool) {
		arrived := time.Now()
		s := sample{Cell: i, At: tenths(arrived.Sub(began))}
		server, job, d, err := c.choose(ctx, cells[i].name, size, first)
		if err != nil {
			cancel(err)
			return
		}
		s.Server, s.Decider, s.Reason, s.Stage = server, d.Decider, string(d.Reason), string(d.Stage)
		all.Go(func() {
			err := post(ctx, client, fmt.Sprintf("%s/?size=%d", cells[i].backends[server].url, size))
			s.Response = tenths(time.Since(arrived))
			if err = errors.Join(err, c.done(ctx, cells[i].name, job, server, size)); err != nil {
				cancel(err)
				return
			}
			mu.Lock()
			samples = append(samples, s)
			mu.Unlock()
		})
	}
	for i := range cells {
		all.Go(func() {
			at := began
			for k, job := range jobs[i] {
				at = at.Add(time.Duration(job.Gap) * unit)
				select {
				case <-time.After(time.Until(at)):
				case <-ctx.Done():
					return
				}
				send(i, job.Size, k == 0)
			}
		})
	}
	all.Wait()
	return samples, context.Cause(ctx)
}

// tenths is a time in seconds, to a tenth of a millisecond: more is noise, and bytes.
func tenths(d time.Duration) float64 { return math.Round(d.Seconds()*1e4) / 1e4 }

func post(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return errors.Join(err, response.Body.Close())
}
