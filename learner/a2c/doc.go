// Package a2c trains the model-free baseline: advantage actor-critic (Mnih et
// al. 2016, arXiv 1602.01783) on rollouts that are collected synchronously, with
// generalised advantage estimates (Schulman et al. 2015, arXiv 1506.02438), in a
// feed-forward form and in one with a GRU, which is RL² (Duan et al., arXiv
// 1611.02779).
//
// One update, [Agent.Train], runs one Gorgonia graph of some ten nodes on a
// batch of B rollouts of T steps. With o_t the observation, a_t the action and
// r_{t+1} its reward,
//
//	observations → memory (GRU along the rollout) → actor, critic
//	critic → returns: R_t = r_{t+1} + γ_{t+1}·((1-λ)·v_{t+1} + λ·R_{t+1})
//	advantages A_t = R_t - v_t → actor's loss
//	returns → critic's loss
//
// γ is 1 - 1/Horizon, also over the end of an episode inside a trial, and 0
// where a trial ends. The last step of a rollout is there for its value alone,
// from which the return goes on. Losses are means over the steps that have an
// action and a return:
//
//	actor  = -(Â_t·log π(a_t) + η·H(π))
//	critic = ½·(ṽ_t - (R_t - μ)/σ)²,   v = μ + σ·ṽ
//
// Where costs have heavy tails, a few huge advantages that are mostly chance
// would make up the policy's gradient: Â is the advantage divided by the moving
// mean of its size, put through the symmetric logarithm, or with
// ScaleByAdvantage off divided by the range of the returns as in DreamerV3. The
// critic learns in units of the returns' moving mean μ and deviation σ, which
// fall by orders of magnitude while a policy learns to keep queues short; its
// loss is squared all the same, as it has to know the mean and not the median.
//
// # Collection
//
// The data is on-policy. The [Collector] is the learner's source: it takes the
// rollouts off the bus itself, gathers a batch of those that were acted with the
// parameters published last, and counts all others as stale. Actors play one
// rollout in each environment with a version and then wait for the next; where
// none comes they play another one, so that a rollout that got lost, or an actor
// that died, delays an update and no more.
package a2c
