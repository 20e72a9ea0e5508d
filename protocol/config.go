package protocol

import "time"

// The comments of this file's fields are the configuration reference: docs/configuration.md and
// `dreamfleet config --help` are made from them. A key whose tag says resume:"free" may differ
// when a run is resumed; every other key belongs to the run for life.

// Config is the configuration of a run: everything that decides what is trained, how and for how
// long. It is built by DefaultConfig, PresetConfig, Merge, MergeEnvironment and Set, in that
// order, checked by Validate, saved in the run folder and put on the bus for every role to read.
type Config struct {
	// Name of the run on the bus, part of every subject and message id: up to 31 letters, digits,
	// - and _. Empty takes the name of the run folder.
	Run string `yaml:"run"`
	// Seed of every random stream of the run. Free; three seeds are the least from which to
	// conclude anything.
	Seed uint64 `yaml:"seed"`
	// Run acting, replay and learning in a fixed order, so that two runs of one seed give the
	// same bytes. Costs the overlap of acting and learning, up to half of the speed on two cores.
	Lockstep bool `yaml:"lockstep"`

	Budget   BudgetSection   `yaml:"budget"`
	Env      EnvSection      `yaml:"env"`
	Model    ModelSection    `yaml:"model"`
	Learner  LearnerSection  `yaml:"learner"`
	Actor    ActorSection    `yaml:"actor"`
	Replay   ReplaySection   `yaml:"replay"`
	Evaluate EvaluateSection `yaml:"evaluate"`
	Bus      BusSection      `yaml:"bus"`
	Log      LogSection      `yaml:"log"`

	Dashboard DashboardSection `yaml:"dashboard"`
}

// BudgetSection says when training ends: at whichever limit is reached first.
type BudgetSection struct {
	// Environment steps, all actors together, counted over resumed parts of the run; 0 sets no
	// limit. Also set by --steps.
	Steps int64 `yaml:"steps" resume:"free"`
	// Wall-clock time, such as 20m or 1h30m, counted from the start of the process; 0 sets no
	// limit. Also set by --duration.
	Duration time.Duration `yaml:"duration" resume:"free"`
}

// EnvSection is the load-balancing environment and the tasks drawn from it.
type EnvSection struct {
	// Name of the task or distribution of tasks in trajectories; empty is the kind of workload. It
	// tells the tasks of a sequence apart.
	Name string `yaml:"name"`
	// Mean time between arriving jobs, in the simulator's time units. 55 loads the ten default
	// servers to about 0.9; smaller is harder, and below 50 no policy keeps the queues bounded.
	JobInterval float64 `yaml:"job_interval"`
	// Shape of the Pareto distribution of job sizes. At 2 and below the variance is infinite and
	// a mean over few episodes is noise; at 1 and below so is the mean.
	JobSizeShape float64 `yaml:"job_size_shape"`
	// Smallest job size, in size units; a server of rate 1 serves one unit a time unit.
	JobSizeScale float64 `yaml:"job_size_scale"`
	// Number of servers, and of actions; the largest number where env.tasks.servers varies it.
	// Observations grow with it.
	Servers int `yaml:"servers"`
	// Service rate of each server, size units a time unit, one value a server. Empty spaces them
	// evenly from 0.15 to 1.05, which for ten servers is Park's default.
	ServiceRates []float64 `yaml:"service_rates,flow"`
	// Jobs, and so steps, in a training episode. Shorter episodes keep a young policy's queues
	// short and give more resets; Park's own length is 1000. They must fit into the first four
	// fifths of a trace (evaluate.share).
	EpisodeJobs int `yaml:"episode_jobs"`
	// What a step pays: settled (minus the job's time in system, at once when it is assigned),
	// park (Park's own timing: minus the integral of the number of jobs), slowdown (minus time in
	// system over service time at unit rate) or tail (settled, plus the excess over
	// env.tail_start weighted twentyfold: the mean and the slowest twentieth of jobs). Settled
	// and park have the same return; settled is learnt in a fraction of the steps.
	Reward string `yaml:"reward"`
	// Time in system at which the tail begins, for the reward tail: best the 95th percentile
	// under a good policy, which on Park's default workload is 3400.
	TailStart float64 `yaml:"tail_start"`
	// Factor on rewards before they are trained on. Any value learns; it moves the rewards within
	// the two-hot bins, which are finest below 1.
	RewardScale float64 `yaml:"reward_scale"`
	// Divisors under which loads and job size are observed, one copy each. The model takes the
	// symmetric logarithm: a small divisor shows the logarithm of a load, a large one the load
	// itself. With the logarithm alone, adding to a loaded server looks cheap. One copy costs
	// servers+1 inputs.
	LoadScales []float64 `yaml:"load_scales,flow"`
	// Keep the service rates from the agent: the reward it is shown is then Park's realised one,
	// as the settled one would give the rates away.
	HideRates bool `yaml:"hide_rates"`
	// Assign the service rates to the servers in a new order in every trial.
	PermuteRates bool `yaml:"permute_rates"`
	// Put the service rates into the observation: one input more a server.
	ObserveRates bool `yaml:"observe_rates"`
	// Put into the observation at what rate each server worked on the job that it completed last
	// (its size over its time in service), as a dispatcher measures it; 0 before the first of an
	// episode. One input more a server.
	ObserveMeasured bool `yaml:"observe_measured"`
	// Put into the observation which servers take jobs: one input more a server. It is so without
	// this key where servers are missing, fail or join in some task; set it for a run that meets
	// such tasks later only.
	ObserveMask bool `yaml:"observe_mask"`
	// Show the agent the previous reward and where episodes begin (RL²). Without them both inputs
	// are 0: the ablation. The previous action is the world model's own and stays.
	RL2Inputs bool `yaml:"rl2_inputs"`
	// Episodes in a trial (RL²'s k): the recurrent state lives through all of them, and they
	// share one task. 1 with a fixed task is plain Park.
	EpisodesPerTrial int `yaml:"episodes_per_trial"`

	Tasks    TasksSection    `yaml:"tasks"`
	Workload WorkloadSection `yaml:"workload"`
}

// TasksSection is the distribution of tasks: each trial draws its parameters from these ranges.
// [0, 0] leaves a parameter at its fixed value. Intervals, scales and factors are drawn evenly in
// their logarithm, shape and counts evenly.
type TasksSection struct {
	// Range of env.job_interval.
	JobInterval [2]float64 `yaml:"job_interval,flow"`
	// Range of env.job_size_shape.
	JobSizeShape [2]float64 `yaml:"job_size_shape,flow"`
	// Range of env.job_size_scale.
	JobSizeScale [2]float64 `yaml:"job_size_scale,flow"`
	// Range of the number of servers, at most env.servers; actions that a task lacks are masked.
	// Costs one input a server.
	Servers [2]int `yaml:"servers,flow"`
	// Range of a factor on each server's rate, drawn for each server by itself.
	RateScale [2]float64 `yaml:"rate_scale,flow"`
	// Scale the arrival interval of a task so that its offered load is that of the full set of
	// servers. Without it a task that lacks a server is an overload.
	KeepLoad bool `yaml:"keep_load"`
	// Range of the offered load, from which the arrival interval follows: the mean job over the load
	// and the sum of the rates. In place of job_interval and keep_load.
	Load [2]float64 `yaml:"load,flow"`
	// Range of the factor that the arrival interval reaches by the end of an episode.
	IntervalDrift [2]float64 `yaml:"interval_drift,flow"`
	// Range of the factor that job sizes reach by the end of an episode.
	SizeDrift [2]float64 `yaml:"size_drift,flow"`
	// Range of the number of servers that change their rate once in an episode.
	Slow [2]int `yaml:"slow,flow"`
	// Range of the factor on the rate of such a server.
	SlowFactor [2]float64 `yaml:"slow_factor,flow"`
	// Range of the number of servers that fail once in an episode. Costs one input a server.
	Fail [2]int `yaml:"fail,flow"`
	// Range of the time that a failed server is away, as a share of the episode.
	Outage [2]float64 `yaml:"outage,flow"`
	// Range of the number of servers that join late, in an episode's first half. Costs one input
	// a server.
	Join [2]int `yaml:"join,flow"`
}

// WorkloadSection says where jobs come from.
type WorkloadSection struct {
	// Source of jobs: poisson (exponential gaps, Pareto sizes, as in Park), mmpp (bursts: the
	// arrival rate switches between two values), diurnal (the arrival rate follows a sine), csv
	// or swf (a trace file, plain or gzipped).
	Kind string `yaml:"kind"`
	// Path of the trace file, for csv and swf.
	File string `yaml:"file"`
	// Name of the CSV column of arrival times: numbers, or timestamps (RFC 3339).
	Arrival string `yaml:"arrival"`
	// Name of the CSV column of job sizes, in any unit.
	Size string `yaml:"size"`
	// Keep only rows of a CSV trace with a value in a column: column=value. Empty keeps all.
	Filter string `yaml:"filter"`
	// Time units in one unit of a trace's sizes and arrivals (seconds where arrivals are
	// timestamps). Sizes are rounded to whole units: raise it for a trace of fractions.
	Unit float64 `yaml:"unit"`
	// Offered load on the servers, mean size over mean gap and the sum of the service rates: it
	// replaces env.job_interval, or stretches a trace's gaps by one factor. 0 changes nothing.
	Load float64 `yaml:"load"`
	// Ratio of the arrival rate in bursts to that between them (mmpp), or of the peak's to the
	// trough's (diurnal). The mean rate stays.
	Burst float64 `yaml:"burst"`
	// Mean length of a burst (mmpp) or length of a day (diurnal), in time units; 0 is 1000 for
	// mmpp and 20000 for diurnal.
	Period float64 `yaml:"period"`
}

// ModelSection is the size of the networks. A train step's cost grows with the square of the
// widths.
type ModelSection struct {
	// Width of the deterministic recurrent state. The largest cost of the model.
	Deter int `yaml:"deter"`
	// Width of the hidden layers inside the dynamics.
	Hidden int `yaml:"hidden"`
	// Number of categorical latent variables.
	Stoch int `yaml:"stoch"`
	// Classes of each latent variable; stoch x classes values enter the dynamics and every head.
	Classes int `yaml:"classes"`
	// Latent variables: discrete (categoricals with straight-through gradients) or gaussian (the
	// ablation, of the same width).
	Latent string `yaml:"latent"`
	// How the prior draws discrete latents: independent (DreamerV3) or autoregressive (each given
	// those before it). What cannot be predicted, such as the size of the next job, is encoded in
	// many latents at once; drawn independently they make something in between, and large jobs are
	// never imagined. Gaussian latents are independent.
	Prior string `yaml:"prior"`
	// Width of the hidden layers of encoder, decoder, heads, policy and critic.
	Units int `yaml:"units"`
	// Hidden layers of encoder, decoder, policy and critic.
	Layers int `yaml:"layers"`
	// Blocks of the block-diagonal GRU; must divide model.deter. More blocks cost less and mix
	// less.
	Blocks int `yaml:"blocks"`
	// Bins of the two-hot heads of reward and critic; odd, so that zero has a bin of its own.
	Bins int `yaml:"bins"`
	// Policy core over the model's state, or with a2c over the observation: gru (RL²: it remembers
	// within a trial) or mlp (the feed-forward ablation).
	Policy string `yaml:"policy"`
	// Width of the policy's GRU. With a2c the critic has the same memory.
	PolicyUnits int `yaml:"policy_units"`
}

// LearnerSection is the training algorithm and its schedule.
type LearnerSection struct {
	// What learns: dreamer (DreamerV3's world model, the policy trained in its imagination) or a2c
	// (the model-free baseline, on rollouts that are collected synchronously; no replay). With
	// a2c the keys of world model, imagination, replay and actor.context_stride have no effect.
	Algorithm string `yaml:"algorithm"`
	// Sequences in a batch. A train step's cost grows with it in proportion. With a2c they are the
	// rollouts of an update, one from each environment: all actors together need as many
	// environments, and what more of them collect is of no use.
	BatchSize int `yaml:"batch_size"`
	// Steps in a sequence: how far back gradients of the world model reach. Cost in proportion.
	// With a2c the length of a rollout, the same as actor.chunk_length, whose last step is there
	// for its value alone.
	BatchLength int `yaml:"batch_length"`
	// Replayed steps trained on for each environment step. Higher learns from fewer environment
	// steps and takes longer for each: with the same schedule of learning rates 64 was at 1.006 of
	// LEFT after 60k steps and 6800 train steps, and 32 at 1.024 after 60k and 3300, and at 0.968
	// after 120k and 7000 (a run each).
	TrainRatio float64 `yaml:"train_ratio"`
	// Environment steps collected before the first train step.
	Prefill int64 `yaml:"prefill"`
	// Train steps of the world model before the actor's first. A young world model collapses the
	// policy onto few servers.
	ActorStart int64 `yaml:"actor_start"`
	// Train steps before the latents of an autoregressive prior depend on one another. Until then
	// large jobs are not imagined, and the policy learns the rest with a fifth of the noise.
	PriorStart int64 `yaml:"prior_start"`
	// Steps over which rewards are discounted by 1/e: the discount is 1 - 1/horizon. Settled
	// rewards need 50 to 100; Park's timing 200 and more.
	Horizon float64 `yaml:"horizon"`
	// Steps of an imagined rollout. Cost of the actor-critic part in proportion. What a step of a
	// long rollout is worth is told by rewards more than by the critic: at equal cost, two rollouts
	// of 32 steps from each start were at 1.00 of LEFT on Park after 60k environment steps and at
	// 0.96 after 100k, where four of 8 steps from twice the starts were at 1.12 to 1.16 and 1.00 to
	// 1.01 (one run, and two).
	ImagineLength int `yaml:"imagine_length"`
	// Last steps of each replayed sequence from which rollouts start; 0 is all. Cost of the
	// actor-critic part in proportion.
	ImagineLast int `yaml:"imagine_last"`
	// Imagined rollouts from each of these steps, which draw their latents from the same random
	// numbers and are each other's baseline; 1 is DreamerV3. What they have in common, the state
	// and the jobs to come, is four fifths of the variance of the advantages on Park, and noise to
	// the policy's gradient. Cost of the actor-critic part in proportion.
	ImagineGroup int `yaml:"imagine_group"`
	// Mix of the lambda-return: 0 trusts the critic alone, 1 the rewards, imagined or with a2c
	// collected (where it is GAE's lambda).
	Lambda float64 `yaml:"lambda"`
	// How advantages are scaled: returns (divided by the range of the returns' percentiles,
	// DreamerV3) or advantages (divided by their own mean absolute value, then put through the
	// symmetric logarithm). Early disasters stay in the replay for long and widen the range by a
	// hundred times what tells good actions apart; and where costs have heavy tails, a few huge
	// advantages that are mostly chance would make up the policy's gradient.
	AdvantageScale string `yaml:"advantage_scale"`
	// Weight of the policy's entropy. Where it is small at first, servers are lost, for long or for
	// good: after 60k steps policies with 0.03 were at 0.98, 1.23 and 1.25 of LEFT, 0.08 at 1.05 and
	// 0.15 at 0.945 (a run each); A2C with 0.01 ended at 0.996, with 0.1 at 0.951.
	Entropy float64 `yaml:"entropy"`
	// Train steps in which the entropy's weight falls by half once the policy learns, down to a
	// tenth; 0 keeps it. Without it the sampled policy stays at 1.0 of LEFT where the greedy one is
	// at 0.95.
	EntropyHalfLife int64 `yaml:"entropy_half_life"`
	// Learning rate of the world model.
	ModelLR float64 `yaml:"model_lr"`
	// Learning rate of the policy, and with a2c of the memory that the critic shares.
	ActorLR float64 `yaml:"actor_lr"`
	// Learning rate of the critic.
	CriticLR float64 `yaml:"critic_lr"`
	// Train steps over which learning rates rise from zero.
	Warmup int64 `yaml:"warmup"`
	// Train steps in which the learning rates then fall by half, down to a tenth; 0 keeps them, as
	// DreamerV3 does. Falling too early holds the policy back: at 2500 it was at 1.22 of LEFT after
	// 4900 updates, where constant rates were at 1.14.
	LRHalfLife int64 `yaml:"lr_half_life"`
	// Adaptive gradient clipping: largest ratio of a tensor's gradient norm to its own norm; 0
	// clips nothing.
	AGC float64 `yaml:"agc"`
	// Nats of KL, for dynamics and for representation, below which there is no gradient.
	FreeNats float64 `yaml:"free_nats"`
	// Share of a uniform distribution mixed into latents and policy, so that no probability is
	// zero. DreamerV3's 0.01 makes one of 32 latents random in every fourth state, which blurs
	// loads: after 23k steps on Park 0.001 was at 1.24 of LEFT and 0.01 at 1.83 (one seed each).
	Unimix float64 `yaml:"unimix"`
	// Rate at which the slow critic follows the critic, each train step.
	SlowRate float64 `yaml:"slow_rate"`
	// Weight of the critic's loss on replayed (not imagined) steps.
	ReplayValue float64 `yaml:"replay_value"`
	// Weight of the reconstruction loss.
	Reconstruction float64 `yaml:"reconstruction"`
	// Rate at which the averages that scale returns and advantages follow the data, each train
	// step.
	ReturnRate float64 `yaml:"return_rate"`
	// Train steps between parameter broadcasts. Fewer cost less traffic and make acting staler. 1
	// with a2c.
	PublishEvery int64 `yaml:"publish_every" resume:"free"`
	// Numbers of broadcast parameters: float32, or bfloat16 for half the bytes. Actors and
	// evaluations then use parameters rounded to 8 bits of precision; what is trained and what
	// checkpoints hold is float32 either way.
	ParamsEncoding string `yaml:"params_encoding" resume:"free"`
	// Train steps between checkpoints. A checkpoint holds up training for as long as the disk
	// takes to write four times the parameters.
	CheckpointEvery int64 `yaml:"checkpoint_every" resume:"free"`
	// Newest checkpoints to keep.
	KeepCheckpoints int `yaml:"keep_checkpoints" resume:"free"`
	// Non-finite train steps in a row after which the last checkpoint is restored.
	MaxSkipped int `yaml:"max_skipped" resume:"free"`
	// Threads of a train step; 0 is one for each core.
	Threads int `yaml:"threads" resume:"free"`
}

// ActorSection is the rollout.
type ActorSection struct {
	// Actors in a process, each with a batched policy of its own. One is enough for one machine.
	Count int `yaml:"count"`
	// Environments of an actor, stepped together with one batched forward pass. More are faster a
	// step and make each stream shorter.
	Envs int `yaml:"envs"`
	// Steps in a trajectory chunk. Longer chunks travel more cheaply and arrive later.
	ChunkLength int `yaml:"chunk_length"`
	// Steps between the recurrent contexts stored in a chunk: sequences are sampled to start at
	// one. Smaller costs memory: a context is about deter + stoch x classes + policy_units floats.
	ContextStride int `yaml:"context_stride"`
	// Chunks kept while the bus is away; beyond it the oldest are dropped and counted.
	Spool int `yaml:"spool" resume:"free"`
}

// ReplaySection is the replay buffer.
type ReplaySection struct {
	// Environment steps kept. Memory and disk in proportion; the start of a run says how many
	// bytes a step costs.
	Capacity int64 `yaml:"capacity"`
	// Batches by which acting or learning may run ahead of learner.train_ratio before it is held.
	// Larger rides out pauses and lets chunks arrive many at a time; smaller keeps the ratio
	// tight.
	Slack float64 `yaml:"slack"`
	// Replays among which the run is divided, by the hash of each actor's name: processes of
	// their own, started with --shard, each with its part of the capacity. More than one for
	// more than some thousand chunks a second (docs/sizing.md); without lockstep only.
	Shards int `yaml:"shards"`
	// Steps over which the recency sampler's weight halves.
	HalfLife float64 `yaml:"half_life"`

	Sampler SamplerSection `yaml:"sampler"`
}

// SamplerSection is the mix of samplers: fractions of the sequences of a batch, which sum to 1.
type SamplerSection struct {
	// Fraction drawn evenly from all that replay holds.
	Uniform float64 `yaml:"uniform"`
	// Fraction drawn with weights that halve every replay.half_life steps of age. What a young policy
	// collected, queues without end, would otherwise be half of all batches for long.
	Recency float64 `yaml:"recency"`
	// Fraction drawn from a reservoir: an even sample of everything ever collected, kept against
	// forgetting (distribution matching). Costs half of the capacity where it is not 0.
	Reservoir float64 `yaml:"reservoir"`
}

// EvaluateSection is the evaluation of the policy against the heuristics.
type EvaluateSection struct {
	// Environment steps between evaluations while training; 0 evaluates at the end only. One
	// costs jobs x env.episodes_per_trial x seeds steps of acting, greedy and sampled.
	Every int64 `yaml:"every" resume:"free"`
	// Seeds of the evaluation, such as 2000-2029 or 1,5,7-9. Each is a trial of a task drawn from
	// the run's own distribution, of which the last episode counts. Jobs are Park's own streams,
	// which are never trained on, or those of the last fifth of a trace, of which training has the
	// first four fifths.
	Seeds string `yaml:"seeds" resume:"free"`
	// Jobs in an evaluation episode; 1000 is Park's. They must fit into the last fifth of a trace.
	Jobs int `yaml:"jobs" resume:"free"`
	// Share of a trace's jobs, the last by date, that evaluation draws episodes from. Training has
	// the others; 1 is for the evaluation of a run that trained on something else.
	Share float64 `yaml:"share"`
	// Cut that part of a trace into episodes by date, one after another: seed 0 is the first. Otherwise
	// each seed draws a window, and windows overlap.
	Cut bool `yaml:"cut" resume:"free"`
}

// BusSection is the NATS bus.
type BusSection struct {
	// Addresses of the NATS servers, separated by commas; empty embeds a server in the process.
	// DREAMFLEET_NATS_URL sets it for a process and is not saved; nor is a password in it.
	URL string `yaml:"url" resume:"free"`
	// Path of this process's credentials: an NKey seed or a JWT. DREAMFLEET_NATS_CREDS sets it for
	// a process and is not saved.
	Creds string `yaml:"creds" resume:"free"`
	// Path of the certificate, PEM, of the authority that signed the server's; for tls:// addresses.
	CA string `yaml:"ca" resume:"free"`
	// Address on which the embedded server also listens, such as 127.0.0.1:4222, so that roles in
	// other processes can join; empty listens nowhere. Beyond this machine it needs bus.keys.
	Listen string `yaml:"listen" resume:"free"`
	// Folder of the NKey seeds <role>.nk that the embedded server lets in, made where missing;
	// empty lets in everybody who reaches it.
	Keys string `yaml:"keys" resume:"free"`
	// Largest size of the stream of trajectories on the server's disk, in bytes.
	StoreBytes int64 `yaml:"store_bytes" resume:"free"`
	// Age beyond which unconsumed trajectories are dropped.
	MaxAge time.Duration `yaml:"max_age" resume:"free"`
}

// LogSection is what a run writes of itself.
type LogSection struct {
	// Least level logged: trace, debug, info, warn or error. Also set by --log-level.
	Level string `yaml:"level" resume:"free"`
	// Train steps between lines of metrics.jsonl; values are means over them.
	Every int64 `yaml:"every" resume:"free"`
}

// DashboardSection is the page that shows a run of `train` as it goes.
type DashboardSection struct {
	// Address of the page, such as 127.0.0.1:8080; port 0 takes a free one, which train shows and
	// writes to dashboard.url in the run folder. Empty serves none. Nobody looks, nothing is spent.
	Listen string `yaml:"listen" resume:"free"`
	// File with the token that who looks must know, made where missing; needed for an address
	// beyond this machine. Empty asks for none.
	TokenFile string `yaml:"token_file" resume:"free"`
}

// The learning algorithms, values of learner.algorithm.
const (
	Dreamer = "dreamer"
	A2C     = "a2c"
)

// DefaultConfig returns the documented defaults: the preset small, which trains on two cores.
func DefaultConfig() Config {
	return Config{
		Budget: BudgetSection{Steps: 480_000, Duration: 18 * time.Minute},
		Env: EnvSection{
			JobInterval:  55,
			JobSizeShape: 1.5,
			JobSizeScale: 100,
			Servers:      10,
			// Written out, as 0.15 + 0.1 i differs from Park's literals in the last digit.
			ServiceRates:     []float64{0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.05},
			EpisodeJobs:      1000,
			Reward:           "settled",
			TailStart:        3400,
			RewardScale:      0.01,
			LoadScales:       []float64{100, 1000},
			RL2Inputs:        true,
			EpisodesPerTrial: 1,
			Tasks:            TasksSection{SlowFactor: [2]float64{0.25, 0.5}, Outage: [2]float64{0.1, 0.3}},
			Workload:         WorkloadSection{Kind: "poisson", Arrival: "arrival", Size: "size", Unit: 1, Burst: 3},
		},
		Model: ModelSection{
			Deter: 128, Hidden: 96, Stoch: 32, Classes: 16, Latent: "discrete", Prior: "autoregressive",
			Units: 96, Layers: 2, Blocks: 1, Bins: 255, Policy: "gru", PolicyUnits: 64,
		},
		Learner: LearnerSection{
			Algorithm:      Dreamer,
			BatchSize:      16,
			BatchLength:    32,
			TrainRatio:     32,
			Prefill:        4_000,
			ActorStart:     400,
			PriorStart:     8000,
			Horizon:        50,
			ImagineLength:  32,
			ImagineLast:    2,
			ImagineGroup:   2,
			Lambda:         0.95,
			AdvantageScale: "advantages",
			Entropy:        0.15, EntropyHalfLife: 6_000,
			ModelLR:        1e-3,
			ActorLR:        3e-4,
			CriticLR:       5e-4,
			Warmup:         100,
			LRHalfLife:     8_000,
			AGC:            0.3,
			FreeNats:       1,
			Unimix:         1e-3,
			SlowRate:       0.02,
			ReplayValue:    0.3,
			Reconstruction: 30,
			ReturnRate:     0.01,

			PublishEvery:    10,
			ParamsEncoding:  "float32",
			CheckpointEvery: 2_000,
			KeepCheckpoints: 3,
			MaxSkipped:      10,
		},
		Actor: ActorSection{Count: 1, Envs: 16, ChunkLength: 32, ContextStride: 8, Spool: 256},
		Replay: ReplaySection{
			Capacity: 500_000,
			Slack:    128,
			Shards:   1,
			HalfLife: 8_000,
			Sampler:  SamplerSection{Uniform: 0.5, Recency: 0.5},
		},
		Evaluate: EvaluateSection{Every: 20_000, Seeds: "2000-2029", Jobs: 1000, Share: 0.2},
		Bus:      BusSection{StoreBytes: 1 << 30, MaxAge: time.Hour},
		Log:      LogSection{Level: "info", Every: 50},

		Dashboard: DashboardSection{Listen: "127.0.0.1:0"},
	}
}
