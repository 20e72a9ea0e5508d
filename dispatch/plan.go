package dispatch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
)

// ErrPlan is wrapped by every error about a plan.
var ErrPlan = errors.New("plan")

// maxPlan bounds a plan's text; one with every key has 2 KB.
const maxPlan = 64 << 10

// Names of the rules that may be the reference.
const (
	RefLEFT      = "left"       // least expected finish time, by the servers' rates
	RefLeastLoad = "least_load" // smallest load, without any rates
)

// Plan says what is dispatched to, what decides, how a policy is introduced and
// what takes its decisions away again.
type Plan struct {
	// Servers are the names of the servers, in the order of the policy's actions.
	// Empty: the numbers from 0 on.
	Servers []string `yaml:"servers"`
	// Rates are the servers' rates, size units a time unit. Empty: those that the
	// policy was trained with, if it was not to find them out by itself.
	Rates []float64 `yaml:"rates"`
	// Measure has the rates follow what completions tell, from Rates on.
	Measure bool `yaml:"measure"`
	// TimeUnit is the simulator's time unit in real time.
	TimeUnit time.Duration `yaml:"time_unit"`
	// Completions are "reported" by /v1/complete, or "assumed": a job is taken to
	// be done when its server must have finished it.
	Completions string `yaml:"completions"`
	// Reference is the rule that decides where the policy does not. Empty: left where
	// rates are known or measured, else least_load.
	Reference string `yaml:"reference"`
	// Greedy takes the policy's most probable server, else one is drawn.
	Greedy bool `yaml:"greedy"`

	// Stage is where a service that has no state yet begins.
	Stage Stage `yaml:"stage"`
	// Canary are the shares of streams that the policy decides for, step by step.
	Canary []float64 `yaml:"canary"`
	// Approval of a step up is a "human"'s, or the "plan"'s once Step is met.
	Approval string `yaml:"approval"`
	// Step is what a step up needs first.
	Step StepPlan `yaml:"step"`
	// Versions says which parameters act.
	Versions VersionPlan `yaml:"versions"`

	// Streams are kept at most, the longest unused being forgotten.
	Streams int `yaml:"streams"`
	// Unfinished jobs of a stream, beyond which requests are refused.
	Unfinished int `yaml:"unfinished"`
	// Batch is the largest number of requests that are answered at once.
	Batch int `yaml:"batch"`

	Guards     Guards     `yaml:"guards"`
	Audit      AuditPlan  `yaml:"audit"`
	Alarm      AlarmPlan  `yaml:"alarm"`
	Experience Experience `yaml:"experience"`
}

// StepPlan is what must have been seen since the last step for the next one up.
type StepPlan struct {
	After  time.Duration `yaml:"after"`
	Blocks int           `yaml:"blocks"` // replayed against the reference
}

// VersionPlan says which parameters act.
type VersionPlan struct {
	// Keep so many versions to roll back to.
	Keep int `yaml:"keep"`
	// Adopt is "approve": beyond the shadow stage a newer version waits for a
	// human; or "follow": it acts at once.
	Adopt string `yaml:"adopt"`
}

// Guards take decisions away from the policy. Where Hold is 0, only a human gives
// them back.
type Guards struct {
	Surprise   SurpriseGuard   `yaml:"surprise"`
	Queue      QueueGuard      `yaml:"queue"`
	Latency    LatencyGuard    `yaml:"latency"`
	Cost       CostGuard       `yaml:"cost"`
	Parameters ParametersGuard `yaml:"parameters"`
	State      StateGuard      `yaml:"state"`
	Deadline   DeadlineGuard   `yaml:"deadline"`
}

// SurpriseGuard holds a stream whose surprise exceeds its quantile on episodes that the
// policy was trained for.
type SurpriseGuard struct {
	Quantile float64 `yaml:"quantile"` // of the largest in an episode; 0: off
	// Threshold, where it is not 0, is the limit in place of the quantile: one that was
	// found on recorded decisions.
	Threshold float64       `yaml:"threshold"`
	Hold      time.Duration `yaml:"hold"`
}

// QueueGuard holds a stream one of whose servers would need longer than Backlog,
// in time units, for what it has.
type QueueGuard struct {
	Backlog float64       `yaml:"backlog"` // 0: off
	Hold    time.Duration `yaml:"hold"`
}

// LatencyGuard holds a stream whose jobs' reported response times, smoothed over
// some thirty jobs, exceed Limit.
type LatencyGuard struct {
	Limit time.Duration `yaml:"limit"` // 0: off
	Hold  time.Duration `yaml:"hold"`
}

// CostGuard holds all streams when the policy is worse than the reference by more
// than Margin, of the sum of both costs, on replayed blocks of Block jobs. ErrorRate
// bounds the chance of a hold within Window blocks of a policy that is not.
type CostGuard struct {
	ErrorRate float64       `yaml:"error_rate"` // 0: off
	Margin    float64       `yaml:"margin"`
	Window    int           `yaml:"window"`
	Block     int           `yaml:"block"`
	Hold      time.Duration `yaml:"hold"`
}

// ParametersGuard holds all streams while the newest parameters are older than
// MaxAge, or when the policy's numbers are not finite.
type ParametersGuard struct {
	MaxAge time.Duration `yaml:"max_age"` // 0: any age
	Hold   time.Duration `yaml:"hold"`
}

// StateGuard has the reference decide the first Settle jobs of a stream whose
// queues and memory are not known.
type StateGuard struct {
	Settle int `yaml:"settle"`
}

// DeadlineGuard has the reference decide where the policy has not within Limit,
// and holds all streams for Hold when that was so in more than one decision of ten
// of the last few hundred.
type DeadlineGuard struct {
	Limit time.Duration `yaml:"limit"`
	Hold  time.Duration `yaml:"hold"`
}

// AuditPlan bounds the audit log. Files of Bytes bytes are kept, Files of them.
type AuditPlan struct {
	Bytes int64         `yaml:"bytes"`
	Files int           `yaml:"files"`
	Sync  time.Duration `yaml:"sync"` // at most so much is lost when the machine goes down
}

// AlarmPlan says who hears of a hold, besides the log and the bus.
type AlarmPlan struct {
	Webhook string        `yaml:"webhook"` // URL that is posted to; empty: none
	Timeout time.Duration `yaml:"timeout"` // of an attempt
	Retries int           `yaml:"retries"`
}

// Experience says whether decisions are published for the learner, and how long a
// trial and a chunk of it are.
type Experience struct {
	Publish bool `yaml:"publish"`
	Trial   int  `yaml:"trial"` // jobs
	Chunk   int  `yaml:"chunk"` // steps
}

// DefaultPlan is a service in the shadow stage that needs a human for every step
// up.
func DefaultPlan() Plan {
	return Plan{
		TimeUnit: time.Millisecond, Completions: "reported", Greedy: true,
		Stage: Shadow, Canary: []float64{0.05, 0.25, 0.5}, Approval: "human",
		Step:     StepPlan{After: 10 * time.Minute, Blocks: 20},
		Versions: VersionPlan{Keep: 5, Adopt: "approve"},
		Streams:  4096, Unfinished: 4096, Batch: 64,
		Guards: Guards{
			Surprise:   SurpriseGuard{Quantile: 0.9, Hold: time.Minute},
			Queue:      QueueGuard{Hold: time.Minute},
			Latency:    LatencyGuard{Hold: time.Minute},
			Cost:       CostGuard{ErrorRate: 0.001, Margin: 0.02, Window: 200, Block: 250},
			Parameters: ParametersGuard{},
			State:      StateGuard{Settle: 32},
			Deadline:   DeadlineGuard{Limit: 5 * time.Millisecond, Hold: 10 * time.Second},
		},
		Audit:      AuditPlan{Bytes: 64 << 20, Files: 16, Sync: time.Second},
		Alarm:      AlarmPlan{Timeout: 2 * time.Second, Retries: 3},
		Experience: Experience{Trial: 1000, Chunk: 64},
	}
}

// ReadPlan reads a plan from YAML over the default one. A key that does not exist
// is an error.
func ReadPlan(source string, r io.Reader) (Plan, error) {
	p := DefaultPlan()
	text, err := io.ReadAll(io.LimitReader(r, maxPlan+1))
	if err != nil {
		return p, fmt.Errorf("%s: %w", source, err)
	}
	if len(text) > maxPlan {
		return p, fmt.Errorf("%w: %s has more than %d bytes", ErrPlan, source, maxPlan)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&p); err != nil && !errors.Is(err, io.EOF) {
		return p, fmt.Errorf("%w: %s: %s", ErrPlan, source, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return p, nil
}

// settle fills in what the plan leaves to what is known of the servers.
func (p *Plan) settle(policy *Policy) {
	if t := policy.Tasks; len(p.Rates) == 0 && !policy.Env.HideRates && !t.Permute && t.RateScale == (loadbalance.Range{}) {
		p.Rates = t.Base.Rates
	}
	if p.Reference == "" {
		p.Reference = RefLEFT
		if len(p.Rates) == 0 && !p.Measure {
			p.Reference = RefLeastLoad
		}
	}
}

// check validates the plan for a policy of so many servers.
func (p *Plan) check(servers int) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrPlan}, args...)...)
	}
	oneOf := func(name, value string, want ...string) error {
		if slices.Contains(want, value) {
			return nil
		}
		return fail("%s is %q, want one of %s", name, value, strings.Join(want, ", "))
	}
	if err := errors.Join(
		oneOf("completions", p.Completions, "reported", "assumed"), oneOf("reference", p.Reference, RefLEFT, RefLeastLoad),
		oneOf("stage", string(p.Stage), string(Shadow), string(Canary), string(Active)), oneOf("approval", p.Approval, "human", "plan"),
		oneOf("versions.adopt", p.Versions.Adopt, "approve", "follow"),
	); err != nil {
		return err
	}
	switch {
	case len(p.Servers) != 0 && len(p.Servers) != servers:
		return fail("servers has %d names, the policy has %d servers", len(p.Servers), servers)
	case len(p.Rates) != 0 && len(p.Rates) != servers:
		return fail("rates has %d values, the policy has %d servers", len(p.Rates), servers)
	case len(p.Rates) == 0 && !p.Measure && p.Completions == "assumed":
		return fail("completions cannot be assumed without rates: say rates")
	case len(p.Rates) == 0 && !p.Measure && p.Reference == RefLEFT:
		return fail("reference left needs rates: say rates, or measure: true, or reference: least_load")
	case p.TimeUnit <= 0:
		return fail("time_unit is %v, want above 0", p.TimeUnit)
	case len(p.Canary) == 0 || len(p.Canary) > 32:
		return fail("canary has %d shares, want 1 to 32", len(p.Canary))
	case p.Streams < 1 || p.Streams > 1<<20:
		return fail("streams is %d, want 1 to %d", p.Streams, 1<<20)
	case p.Unfinished < 1 || p.Unfinished > 1<<20:
		return fail("unfinished is %d, want 1 to %d", p.Unfinished, 1<<20)
	case p.Batch < 1 || p.Batch > 1024:
		return fail("batch is %d, want 1 to 1024", p.Batch)
	case p.Versions.Keep < 1 || p.Versions.Keep > 1000:
		return fail("versions.keep is %d, want 1 to 1000", p.Versions.Keep)
	case p.Step.After < 0 || p.Step.Blocks < 0:
		return fail("step is %+v, want nothing below 0", p.Step)
	case p.Audit.Bytes < 4096 || p.Audit.Files < 1 || p.Audit.Sync <= 0:
		return fail("audit is %+v, want bytes of at least 4096, files of at least 1 and sync above 0", p.Audit)
	case p.Alarm.Timeout <= 0 || p.Alarm.Retries < 0 || p.Alarm.Retries > 10:
		return fail("alarm is %+v, want a timeout above 0 and retries of 0 to 10", p.Alarm)
	case p.Experience.Trial < 2 || p.Experience.Chunk < 1 || p.Experience.Chunk > 4096:
		return fail("experience is %+v, want a trial of at least 2 and a chunk of 1 to 4096", p.Experience)
	}
	for i, r := range p.Rates {
		if !(r >= loadbalance.MinRate && r <= loadbalance.MaxRate) {
			return fail("rates[%d] is %v, want %g to %g", i, r, loadbalance.MinRate, loadbalance.MaxRate)
		}
	}
	last := 0.0
	for i, share := range p.Canary {
		if !(share > last && share < 1) {
			return fail("canary[%d] is %v, want shares that rise, between 0 and 1", i, share)
		}
		last = share
	}
	seen := map[string]bool{}
	for i, name := range p.Servers {
		if name == "" || len(name) > maxName || seen[name] {
			return fail("servers[%d] is %q, want different names of 1 to %d bytes", i, name, maxName)
		}
		seen[name] = true
	}
	if p.Alarm.Webhook != "" {
		if u, err := url.Parse(p.Alarm.Webhook); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fail("alarm.webhook is no http or https URL")
		}
	}
	return p.Guards.check(fail)
}

func (g *Guards) check(fail func(string, ...any) error) error {
	for _, h := range []struct {
		name string
		hold time.Duration
	}{
		{"surprise", g.Surprise.Hold}, {"queue", g.Queue.Hold}, {"latency", g.Latency.Hold}, {"cost", g.Cost.Hold},
		{"parameters", g.Parameters.Hold}, {"deadline", g.Deadline.Hold},
	} {
		if h.hold < 0 {
			return fail("guards.%s.hold is %v, want 0 for until a human releases it, or above", h.name, h.hold)
		}
	}
	switch c := g.Cost; {
	case !(g.Surprise.Quantile >= 0 && g.Surprise.Quantile < 1):
		return fail("guards.surprise.quantile is %v, want 0 for none, or below 1", g.Surprise.Quantile)
	case !(g.Surprise.Threshold >= 0):
		return fail("guards.surprise.threshold is %v, want 0 for the quantile, or above", g.Surprise.Threshold)
	case !(g.Queue.Backlog >= 0) || math.IsInf(g.Queue.Backlog, 1):
		return fail("guards.queue.backlog is %v, want 0 for none, or above", g.Queue.Backlog)
	case g.Latency.Limit < 0 || g.Parameters.MaxAge < 0:
		return fail("guards.latency.limit is %v and guards.parameters.max_age %v, want 0 for none, or above", g.Latency.Limit, g.Parameters.MaxAge)
	case !(c.ErrorRate >= 0 && c.ErrorRate < 1):
		return fail("guards.cost.error_rate is %v, want 0 for none, or below 1", c.ErrorRate)
	case !(c.Margin >= 0 && c.Margin < 1):
		return fail("guards.cost.margin is %v, want 0 to below 1", c.Margin)
	case c.Window < 2 || c.Block < 10 || c.Block > 100_000:
		return fail("guards.cost has a window of %d and blocks of %d, want at least 2 and 10 to 100000", c.Window, c.Block)
	case g.State.Settle < 0:
		return fail("guards.state.settle is %d, want 0 or above", g.State.Settle)
	case g.Deadline.Limit <= 0:
		return fail("guards.deadline.limit is %v, want above 0", g.Deadline.Limit)
	}
	return nil
}
