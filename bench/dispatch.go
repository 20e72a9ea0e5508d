package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/dispatch"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/model"
)

const (
	// dispatchTarget is what a dispatcher is to decide in a second on two cores, the
	// client's work included; at half of it 99 % of the answers are to come within
	// dispatchLatency milliseconds.
	dispatchTarget  = 10_000
	dispatchLatency = 2

	dispatchStreams = 64 // each a connection
	dispatchRound   = time.Second
)

// runDispatch measures decisions over HTTP on loopback, client and server in this
// process: as fast as 64 streams can ask, and at half of the target.
func runDispatch(ctx context.Context, o *Options, report func(Result)) error {
	return o.inFolder("dispatch", func(dir string) (err error) {
		s, err := startDispatch(ctx, dir)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		const config = "policy of the preset small, 64 streams, HTTP on loopback, client in the same process, audit log written"
		r, err := o.rounds(ctx, func() (float64, error) { n, _, err := s.load(ctx, dispatchRound, 0); return n, err },
			func() (float64, error) { return dispatchTarget, nil })
		if err != nil {
			return err
		}
		r.Name, r.Config, r.Unit, r.LimitKind = "dispatch/http", config, "decisions/s", "target"
		report(r)
		var half, tail []float64
		for range o.Rounds + 1 {
			_, took, err := s.load(ctx, dispatchRound, dispatchTarget/2)
			if err != nil {
				return err
			}
			slices.Sort(took)
			half, tail = append(half, took[len(took)/2]*1e3), append(tail, took[len(took)*99/100]*1e3)
		}
		for _, q := range []struct {
			name   string
			values []float64
		}{{"p50", half[1:]}, {"p99", tail[1:]}} {
			r := Result{Name: "dispatch/http/" + q.name, Config: fmt.Sprintf("%s, %d/s", config, dispatchTarget/2), Value: median(q.values), Unit: "ms", LimitKind: "none"}
			if q.name == "p99" {
				r.Limit, r.LimitKind, r.Ratio = dispatchLatency, "target", r.Value/dispatchLatency
			}
			report(r)
		}
		return nil
	})
}

// dispatchServer is a dispatcher in the active stage, and connections to it.
type dispatchServer struct {
	clients []*dispatchClient
	stop    func() error
}

func startDispatch(ctx context.Context, dir string) (*dispatchServer, error) {
	c, cfg, err := presetConfig("small", 1)
	if err != nil {
		return nil, err
	}
	e := loadbalance.DefaultConfig()
	e.LoadScales, e.RewardScale = cfg.Env.LoadScales, cfg.Env.RewardScale
	plan := dispatch.DefaultPlan()
	plan.Stage, plan.Completions = dispatch.Active, "assumed"
	// What is measured is the policy's decisions, which no guard is to take away: it is not trained.
	plan.Guards.Surprise.Quantile, plan.Guards.Cost.ErrorRate, plan.Guards.Deadline.Limit = 0, 0, time.Second
	service, err := dispatch.New(ctx, dispatch.Config{
		Run: "bench", Plan: plan, Dir: dir, Now: time.Now, Log: hclog.NewNullLogger(),
		Policy: dispatch.Policy{Model: c.Model, Env: e, Tasks: &loadbalance.Tasks{Base: *loadbalance.ParkTask()}},
	})
	if err != nil {
		return nil, err
	}
	params, err := model.NewParams(c.Model)
	if err != nil {
		return nil, err
	}
	params.Init(rand.New(rand.NewPCG(1, 2)))
	if err := service.Offer(ctx, 1, &model.File{Tensors: params.Tensors()}); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	deciding, cancel := context.WithCancel(context.WithoutCancel(ctx))
	server := &http.Server{Handler: service.Handler(), ReadHeaderTimeout: time.Minute}
	var serveErr, decideErr error
	var under sync.WaitGroup
	under.Go(func() { serveErr = server.Serve(listener) })
	under.Go(func() { decideErr = service.Run(deciding) })
	s := &dispatchServer{}
	s.stop = func() error {
		for _, c := range s.clients {
			_ = c.conn.Close() // nothing is on its way
		}
		closeErr := server.Close()
		cancel()
		under.Wait()
		if errors.Is(serveErr, http.ErrServerClosed) {
			serveErr = nil
		}
		return errors.Join(closeErr, serveErr, decideErr)
	}
	for i := range dispatchStreams {
		c, err := newDispatchClient(listener.Addr().String(), i)
		if err != nil {
			return nil, errors.Join(err, s.stop())
		}
		s.clients = append(s.clients, c)
	}
	return s, nil
}

// load asks for a round, on all connections at once: as fast as answers come, or so
// many times a second together, at even intervals. It returns decisions a second and
// how long each took, in seconds. A request whose turn comes while the one before is
// not answered counts from its turn on.
func (s *dispatchServer) load(ctx context.Context, round time.Duration, rate float64) (perSecond float64, took []float64, err error) {
	began := time.Now()
	times, errs := make([][]float64, len(s.clients)), make([]error, len(s.clients))
	var all sync.WaitGroup
	for i, c := range s.clients {
		all.Go(func() {
			interval := time.Duration(0)
			if rate > 0 {
				interval = time.Duration(float64(len(s.clients)) / rate * float64(time.Second))
			}
			turn := began.Add(interval * time.Duration(i) / time.Duration(len(s.clients)))
			for ctx.Err() == nil && time.Since(began) < round {
				from := time.Now()
				if wait := turn.Sub(from); wait > 0 {
					time.Sleep(wait)
					from = time.Now()
				} else if rate > 0 {
					from = turn
				}
				if errs[i] = c.ask(); errs[i] != nil {
					return
				}
				times[i] = append(times[i], time.Since(from).Seconds())
				turn = turn.Add(interval)
			}
		})
	}
	all.Wait()
	took = slices.Concat(times...)
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return 0, nil, err
	}
	return float64(len(took)) / time.Since(began).Seconds(), took, nil
}

// dispatchClient is a connection with as little of a client as HTTP allows, so that
// the figures are the server's.
type dispatchClient struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
}

func newDispatchClient(address string, stream int) (*dispatchClient, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	body := fmt.Sprintf(`{"stream":"bench-%d","size":100,"start":true}`, stream)
	post := func(body string) []byte {
		return fmt.Appendf(nil, "POST /v1/decide HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", address, len(body), body)
	}
	c := &dispatchClient{conn: conn, in: bufio.NewReader(conn), request: post(body)}
	if err := c.ask(); err != nil {
		return nil, err
	}
	c.request = post(fmt.Sprintf(`{"stream":"bench-%d","size":1}`, stream))
	return c, nil
}

var (
	lengthHeader = []byte("Content-Length: ")
	byPolicy     = []byte(`"decider":"policy"`)
)

// ask sends the request and reads an answer, which must be the policy's.
func (c *dispatchClient) ask() error {
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	length := -1
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if value, ok := bytes.CutPrefix(line, lengthHeader); ok {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return err
			}
		}
	}
	if length < 0 || length > 4096 {
		return fmt.Errorf("an answer of %d bytes", length)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(c.in, body); err != nil {
		return err
	}
	if !bytes.Contains(body, byPolicy) {
		return fmt.Errorf("the answer is %s", body)
	}
	return nil
}
