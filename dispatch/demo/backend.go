package main

import (
	"fmt"
	"math"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// unit is a time unit of the simulator in real time.
const unit = 500 * time.Microsecond

// backend is an HTTP server that works on one job after the other: POST /?size=N
// returns when the job is done. Its work is to let time pass, a slice after the other.
type backend struct {
	rate   float64
	slowed atomic.Uint64 // bits of the factor on its rate
	turn   chan struct{} // held by the job in service; those who wait take it in order
	url    string
	server *http.Server
}

func startBackend(rate float64) (*backend, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &backend{rate: rate, turn: make(chan struct{}, 1), url: "http://" + listener.Addr().String()}
	b.slow(1)
	b.server = &http.Server{Handler: b, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = b.server.Serve(listener) }() // until Close
	return b, nil
}

// slice bounds how long a change of the rate takes to show in the job in service.
const slice = 20 * time.Millisecond

// slow sets a factor on the rate.
func (b *backend) slow(factor float64) { b.slowed.Store(math.Float64bits(factor)) }

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	size, err := strconv.ParseFloat(r.URL.Query().Get("size"), 64)
	if err != nil || !(size >= 0) {
		http.Error(w, "size is no number", http.StatusBadRequest)
		return
	}
	b.turn <- struct{}{}
	for began := time.Now(); size > 0; {
		rate := b.rate * math.Float64frombits(b.slowed.Load())
		time.Sleep(min(time.Duration(size/rate*float64(unit)), slice))
		now := time.Now()
		size -= rate * float64(now.Sub(began)) / float64(unit)
		began = now
	}
	<-b.turn
	fmt.Fprintln(w, "done")
}

// cell is a set of servers and the jobs that arrive for it: a stream of the dispatcher.
type cell struct {
	name     string
	backends []*backend
}

func startCell(name string, rates []float64) (*cell, error) {
	c := &cell{name: name}
	for _, rate := range rates {
		b, err := startBackend(rate)
		if err != nil {
			c.close()
			return nil, err
		}
		c.backends = append(c.backends, b)
	}
	return c, nil
}

func (c *cell) close() {
	for _, b := range c.backends {
		_ = b.server.Close() // no job is on its way
	}
}
