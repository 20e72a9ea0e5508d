package dispatch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
)

const (
	// MaxRequest bounds a request in bytes: loads of a thousand servers fit.
	MaxRequest = 64 << 10
	maxName    = 64 // bytes of the name of a stream, a job or a server
	maxJobs    = 1000
)

// ErrRequest is wrapped by every error about a request's content.
var ErrRequest = errors.New("request")

// ErrUnknown: a job or a stream is not known, or not any more.
var ErrUnknown = errors.New("not known")

// ErrFull: a stream has too many jobs that have not been reported complete.
var ErrFull = errors.New("too many unfinished jobs")

// Request asks where a job shall go.
type Request struct {
	// Stream names a set of servers and the jobs that arrive for them.
	Stream string `json:"stream"`
	// Job names the job until it is complete; empty: the answer names it.
	Job string `json:"job,omitempty"`
	// Size of the job, in size units.
	Size int64 `json:"size"`
	// Start says that the stream begins: its servers are empty.
	Start bool `json:"start,omitempty"`
	// Loads, if there, are what the servers have, in place of what is tracked:
	// queued size and the remaining time of the job in service.
	Loads []float64 `json:"loads,omitempty"`
	// Down are the numbers of servers that take no jobs.
	Down []int `json:"down,omitempty"`
}

// Completion tells that jobs are done.
type Completion struct {
	Stream string   `json:"stream"`
	Jobs   []string `json:"jobs"`
}

// Decision is the answer to a Request.
type Decision struct {
	Job    string `json:"job"`
	Server int    `json:"server"`
	Name   string `json:"name"`
	// Decider is "policy" or "reference", and Reason why it was not the policy.
	Decider string `json:"decider"`
	Reason  Reason `json:"reason,omitempty"`
	Stage   Stage  `json:"stage"`
	Version uint64 `json:"version"` // of the parameters that advised
	// Advice is the policy's choice, -1 where it gave none in time; Reference the rule's.
	Advice    int `json:"advice"`
	Reference int `json:"reference"`
}

// DecodeRequest reads and checks a request for so many servers.
func DecodeRequest(b []byte, servers int) (Request, error) {
	var r Request
	if err := decode(b, &r); err != nil {
		return r, err
	}
	return r, r.check(servers)
}

// DecodeCompletion reads and checks a completion.
func DecodeCompletion(b []byte) (Completion, error) {
	var c Completion
	if err := decode(b, &c); err != nil {
		return c, err
	}
	if err := checkName("stream", c.Stream); err != nil {
		return c, err
	}
	if len(c.Jobs) < 1 || len(c.Jobs) > maxJobs {
		return c, fmt.Errorf("%w: %d jobs, want 1 to %d", ErrRequest, len(c.Jobs), maxJobs)
	}
	for _, job := range c.Jobs {
		if err := checkName("job", job); err != nil {
			return c, err
		}
	}
	return c, nil
}

func decode(b []byte, into any) error {
	if len(b) > MaxRequest {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrRequest, len(b), MaxRequest)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%w: more than one JSON value", ErrRequest)
	}
	return nil
}

func checkName(field, s string) error {
	if len(s) < 1 || len(s) > maxName {
		return fmt.Errorf("%w: %s has %d bytes, want 1 to %d", ErrRequest, field, len(s), maxName)
	}
	return nil
}

func (r *Request) check(servers int) error {
	if err := checkName("stream", r.Stream); err != nil {
		return err
	}
	if len(r.Job) > maxName {
		return fmt.Errorf("%w: job has %d bytes, want at most %d", ErrRequest, len(r.Job), maxName)
	}
	if r.Size < 0 || r.Size > loadbalance.MaxSize {
		return fmt.Errorf("%w: size is %d, want 0 to %d", ErrRequest, r.Size, int64(loadbalance.MaxSize))
	}
	if r.Loads != nil && len(r.Loads) != servers {
		return fmt.Errorf("%w: loads has %d values, want one for each of %d servers", ErrRequest, len(r.Loads), servers)
	}
	for i, load := range r.Loads {
		if !(load >= 0) || math.IsInf(load, 1) {
			return fmt.Errorf("%w: loads[%d] is %v, want 0 or above", ErrRequest, i, load)
		}
	}
	down := map[int]bool{}
	for i, server := range r.Down {
		if server < 0 || server >= servers {
			return fmt.Errorf("%w: down[%d] is %d, want 0 to %d", ErrRequest, i, server, servers-1)
		}
		down[server] = true
	}
	if len(down) == servers {
		return fmt.Errorf("%w: every server is down", ErrRequest)
	}
	return nil
}
