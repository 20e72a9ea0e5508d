package protocol

import (
	"fmt"
	"math"
	"net"
	"reflect"
	"slices"
	"strings"
)

// Validate checks every value and reports all that are wrong, a sentence each.
func (c *Config) Validate() error {
	v := validator{}
	v.finite(c)
	v.run(c)
	v.env(&c.Env)
	v.model(&c.Model)
	v.learner(&c.Learner)
	v.collection(c)
	v.rest(c)
	if len(v.faults) > 0 {
		return fmt.Errorf("%w: %s", ErrConfig, strings.Join(v.faults, "\n"))
	}
	return nil
}

// maxWidth bounds the sizes that multiply into memory, far above any that trains: a configuration
// also comes from the bus.
const maxWidth = 1 << 16

type validator struct{ faults []string }

// check reports a key whose value is not ok; want completes "key is value: it must be ...".
func (v *validator) check(ok bool, key string, value any, want string, args ...any) {
	if !ok {
		v.faults = append(v.faults, fmt.Sprintf("%s is %s: it must be %s", key, formatValue(reflect.ValueOf(value)), fmt.Sprintf(want, args...)))
	}
}

func (v *validator) oneOf(key, value string, choices ...string) {
	v.check(slices.Contains(choices, value), key, value, "one of %s", strings.Join(choices, ", "))
}

func (v *validator) positive(key string, value float64) { v.check(value > 0, key, value, "above 0") }

func (v *validator) notNegative(key string, value float64) {
	v.check(value >= 0, key, value, "0 or above")
}

func (v *validator) atLeast(key string, value, least int64) {
	v.check(value >= least, key, value, "%d or more", least)
}

func (v *validator) between(key string, value, low, high int) {
	v.check(low <= value && value <= high, key, value, "between %d and %d", low, high)
}

func (v *validator) fraction(key string, value float64) {
	v.check(value >= 0 && value <= 1, key, value, "between 0 and 1")
}

// within checks a range of tasks; [0, 0] is the fixed value.
func (v *validator) within(key string, r [2]float64) {
	v.check(r == [2]float64{} || 0 < r[0] && r[0] <= r[1], key, r, "[low, high] with 0 < low <= high, or [0, 0]")
}

// count checks a range of numbers of servers; [0, 0] is the fixed number.
func (v *validator) count(key string, r [2]int, low, high int) {
	v.check(r == [2]int{} || low <= r[0] && r[0] <= r[1] && r[1] <= high, key, r,
		"[low, high] between %d and %d, or [0, 0]", low, high)
}

// finite refuses NaN and infinities wherever a number stands.
func (v *validator) finite(c *Config) {
	var bad func(x reflect.Value) bool
	bad = func(x reflect.Value) bool {
		switch x.Kind() {
		case reflect.Float64:
			return math.IsNaN(x.Float()) || math.IsInf(x.Float(), 0)
		case reflect.Slice, reflect.Array:
			for i := range x.Len() {
				if bad(x.Index(i)) {
					return true
				}
			}
		}
		return false
	}
	for _, f := range c.fields() {
		v.check(!bad(f.value), f.name, f.value.Interface(), "finite")
	}
}

func (v *validator) run(c *Config) {
	v.check(c.Run == "" || ValidName(c.Run), "run", c.Run, "at most %d letters, digits, - and _", MaxName)
	v.notNegative("budget.steps", float64(c.Budget.Steps))
	v.check(c.Budget.Duration >= 0, "budget.duration", c.Budget.Duration, "0 or above")
}

func (v *validator) env(e *EnvSection) {
	v.check(e.Name == "" || ValidName(e.Name), "env.name", e.Name, "at most %d letters, digits, - and _", MaxName)
	v.check(e.JobInterval >= 1, "env.job_interval", e.JobInterval, "1 or more: times are whole units")
	v.positive("env.job_size_shape", e.JobSizeShape)
	v.check(e.JobSizeScale >= 1, "env.job_size_scale", e.JobSizeScale, "1 or more: sizes are whole units")
	v.between("env.servers", e.Servers, 2, 1024)
	if len(e.ServiceRates) > 0 {
		v.check(len(e.ServiceRates) == e.Servers, "env.service_rates", e.ServiceRates,
			"one rate for each of the %d servers, or []", e.Servers)
		v.check(slices.Min(e.ServiceRates) > 0, "env.service_rates", e.ServiceRates, "above 0 throughout")
	}
	v.between("env.episode_jobs", e.EpisodeJobs, 2, 1<<20)
	v.oneOf("env.reward", e.Reward, "settled", "park", "slowdown", "tail")
	v.positive("env.reward_scale", e.RewardScale)
	v.notNegative("env.tail_start", e.TailStart)
	v.check(len(e.LoadScales) > 0 && slices.Min(e.LoadScales) > 0, "env.load_scales", e.LoadScales, "one or more numbers above 0")
	v.check(!e.HideRates || !e.ObserveRates, "env.observe_rates", e.ObserveRates, "false where env.hide_rates is true")
	v.between("env.episodes_per_trial", e.EpisodesPerTrial, 1, 1<<10)

	t := &e.Tasks
	v.within("env.tasks.job_interval", t.JobInterval)
	v.within("env.tasks.job_size_shape", t.JobSizeShape)
	v.within("env.tasks.job_size_scale", t.JobSizeScale)
	v.count("env.tasks.servers", t.Servers, 1, e.Servers)
	v.within("env.tasks.rate_scale", t.RateScale)
	v.within("env.tasks.load", t.Load)
	v.within("env.tasks.interval_drift", t.IntervalDrift)
	v.within("env.tasks.size_drift", t.SizeDrift)
	v.count("env.tasks.slow", t.Slow, 0, e.Servers)
	v.within("env.tasks.slow_factor", t.SlowFactor)
	v.count("env.tasks.fail", t.Fail, 0, e.Servers-1)
	v.within("env.tasks.outage", t.Outage)
	v.check(t.Outage[1] <= 1, "env.tasks.outage", t.Outage, "shares of an episode, at most 1")
	v.count("env.tasks.join", t.Join, 0, e.Servers-1)

	w := &e.Workload
	v.oneOf("env.workload.kind", w.Kind, "poisson", "mmpp", "diurnal", "csv", "swf")
	trace := w.Kind == "csv" || w.Kind == "swf"
	v.check(trace == (w.File != ""), "env.workload.file", w.File, "the path of a trace for kind csv or swf, and empty for the others")
	v.check(w.Kind != "csv" || w.Arrival != "", "env.workload.arrival", w.Arrival, "a column's name")
	v.check(w.Kind != "csv" || w.Size != "", "env.workload.size", w.Size, "a column's name")
	v.notNegative("env.workload.load", w.Load)
	v.check(w.Burst >= 1, "env.workload.burst", w.Burst, "1 or more")
	v.notNegative("env.workload.period", w.Period)
	v.positive("env.workload.unit", w.Unit)
	v.check(w.Filter == "" || w.Kind == "csv" && strings.Contains(w.Filter, "="), "env.workload.filter", w.Filter, "column=value, for kind csv")
}

func (v *validator) model(m *ModelSection) {
	v.between("model.deter", m.Deter, 1, maxWidth)
	v.between("model.hidden", m.Hidden, 1, maxWidth)
	v.between("model.stoch", m.Stoch, 1, maxWidth)
	v.between("model.classes", m.Classes, 1, maxWidth)
	v.check(m.Latent != "discrete" || m.Classes >= 2, "model.classes", m.Classes, "2 or more for discrete latents")
	v.oneOf("model.latent", m.Latent, "discrete", "gaussian")
	v.oneOf("model.prior", m.Prior, "independent", "autoregressive")
	v.between("model.units", m.Units, 1, maxWidth)
	v.between("model.layers", m.Layers, 1, 64)
	v.check(m.Blocks >= 1 && m.Deter%m.Blocks == 0, "model.blocks", m.Blocks, "a divisor of model.deter (%d)", m.Deter)
	v.check(m.Bins >= 3 && m.Bins < 4096 && m.Bins%2 == 1, "model.bins", m.Bins, "odd and between 3 and 4095")
	v.oneOf("model.policy", m.Policy, "gru", "mlp")
	v.between("model.policy_units", m.PolicyUnits, 1, maxWidth)
}

func (v *validator) learner(l *LearnerSection) {
	v.oneOf("learner.algorithm", l.Algorithm, Dreamer, A2C)
	v.between("learner.batch_size", l.BatchSize, 1, maxWidth)
	v.between("learner.batch_length", l.BatchLength, 2, maxWidth)
	v.positive("learner.train_ratio", l.TrainRatio)
	v.notNegative("learner.actor_start", float64(l.ActorStart))
	v.notNegative("learner.prior_start", float64(l.PriorStart))
	v.check(l.Horizon >= 1, "learner.horizon", l.Horizon, "1 or more")
	v.between("learner.imagine_length", l.ImagineLength, 1, maxWidth)
	v.check(l.ImagineLast == 0 || l.ImagineLast >= 2 && l.ImagineLast <= l.BatchLength, "learner.imagine_last", l.ImagineLast,
		"between 2 and learner.batch_length (%d), or 0", l.BatchLength)
	v.between("learner.imagine_group", l.ImagineGroup, 1, 1024)
	v.fraction("learner.lambda", l.Lambda)
	v.notNegative("learner.entropy", l.Entropy)
	v.notNegative("learner.entropy_half_life", float64(l.EntropyHalfLife))
	v.positive("learner.model_lr", l.ModelLR)
	v.positive("learner.actor_lr", l.ActorLR)
	v.positive("learner.critic_lr", l.CriticLR)
	v.notNegative("learner.warmup", float64(l.Warmup))
	v.notNegative("learner.lr_half_life", float64(l.LRHalfLife))
	v.notNegative("learner.agc", l.AGC)
	v.notNegative("learner.free_nats", l.FreeNats)
	v.check(l.Unimix >= 0 && l.Unimix < 1, "learner.unimix", l.Unimix, "0 or more and below 1")
	v.fraction("learner.slow_rate", l.SlowRate)
	v.notNegative("learner.replay_value", l.ReplayValue)
	v.notNegative("learner.reconstruction", l.Reconstruction)
	v.fraction("learner.return_rate", l.ReturnRate)
	v.atLeast("learner.publish_every", l.PublishEvery, 1)
	v.oneOf("learner.params_encoding", l.ParamsEncoding, "float32", "bfloat16")
	v.atLeast("learner.checkpoint_every", l.CheckpointEvery, 1)
	v.atLeast("learner.keep_checkpoints", int64(l.KeepCheckpoints), 1)
	v.atLeast("learner.max_skipped", int64(l.MaxSkipped), 1)
	v.between("learner.threads", l.Threads, 0, 1024)
}

// collection checks the actor and the replay, and that what they hold can feed the learner.
func (v *validator) collection(c *Config) {
	a, r, l := &c.Actor, &c.Replay, &c.Learner
	v.between("actor.count", a.Count, 1, 1024)
	v.between("actor.envs", a.Envs, 1, 4096)
	v.between("actor.chunk_length", a.ChunkLength, 2, 4096)
	v.check(a.ContextStride >= 1 && a.ContextStride <= a.ChunkLength, "actor.context_stride", a.ContextStride,
		"between 1 and actor.chunk_length (%d)", a.ChunkLength)
	v.atLeast("actor.spool", int64(a.Spool), 1)

	trial := c.Env.EpisodesPerTrial*c.Env.EpisodeJobs + 1
	v.check(l.BatchLength <= trial, "learner.batch_length", l.BatchLength, "at most the %d steps of a trial", trial)
	if l.Algorithm == A2C {
		v.onPolicy(a, l)
		return
	}
	v.atLeast("learner.prefill", l.Prefill, int64(l.BatchSize*l.BatchLength))
	v.check(r.Capacity >= 2*l.Prefill, "replay.capacity", r.Capacity, "at least twice learner.prefill (%d)", l.Prefill)
	v.between("replay.shards", r.Shards, 1, MaxShards)
	v.check(r.Shards <= 1 || !c.Lockstep && l.Algorithm == Dreamer, "replay.shards", r.Shards, "1 in lockstep and for learner.algorithm %s", A2C)
	v.check(r.Shards <= 1 || r.Capacity/int64(max(1, r.Shards)) >= 2*int64(l.BatchSize*l.BatchLength), "replay.shards", r.Shards,
		"so few that each holds two batches of replay.capacity (%d)", r.Capacity)
	v.check(r.Slack >= 1, "replay.slack", r.Slack, "1 or more")
	v.positive("replay.half_life", r.HalfLife)
	s := r.Sampler
	v.fraction("replay.sampler.uniform", s.Uniform)
	v.fraction("replay.sampler.recency", s.Recency)
	v.fraction("replay.sampler.reservoir", s.Reservoir)
	v.check(s.Reservoir == 0 || c.Actor.ChunkLength >= c.Learner.BatchLength, "actor.chunk_length", c.Actor.ChunkLength,
		"at least learner.batch_length (%d) where replay.sampler.reservoir is used, which keeps single chunks", c.Learner.BatchLength)
	sum := s.Uniform + s.Recency + s.Reservoir
	v.check(math.Abs(sum-1) < 1e-6, "the sum of replay.sampler", sum, "1")
}

// onPolicy checks what keeps the data of an on-policy algorithm its policy's own.
func (v *validator) onPolicy(a *ActorSection, l *LearnerSection) {
	v.check(a.ChunkLength == l.BatchLength, "actor.chunk_length", a.ChunkLength, "learner.batch_length (%d) for a2c: a chunk is a rollout", l.BatchLength)
	v.check(l.PublishEvery == 1, "learner.publish_every", l.PublishEvery, "1 for a2c, which trains on what the newest parameters collect")
	v.check(l.ParamsEncoding == "float32", "learner.params_encoding", l.ParamsEncoding, "float32 for a2c: the parameters that act are those that are trained")
}

func (v *validator) rest(c *Config) {
	e, b, l := &c.Evaluate, &c.Bus, &c.Log
	v.notNegative("evaluate.every", float64(e.Every))
	if _, err := ParseSeeds(e.Seeds); err != nil {
		v.check(false, "evaluate.seeds", e.Seeds, "such as 2000-2029 or 1,5,7-9: %s", err)
	}
	v.atLeast("evaluate.jobs", int64(e.Jobs), 2)
	v.check(e.Share > 0 && e.Share <= 1, "evaluate.share", e.Share, "above 0 and at most 1")
	v.atLeast("bus.store_bytes", b.StoreBytes, 1<<20)
	v.check(b.MaxAge > 0, "bus.max_age", b.MaxAge, "above 0: an unbounded stream fills the disk")
	v.oneOf("learner.advantage_scale", c.Learner.AdvantageScale, "returns", "advantages")
	if listen := c.Dashboard.Listen; listen != "" {
		_, _, err := net.SplitHostPort(listen)
		v.check(err == nil, "dashboard.listen", listen, "host:port, such as 127.0.0.1:8080, or empty")
	}
	v.oneOf("log.level", l.Level, "trace", "debug", "info", "warn", "error")
	v.atLeast("log.every", l.Every, 1)
}
