// Package dreamer trains DreamerV3 (Hafner et al., arXiv 2301.04104; Nature
// 2025) with an RL² policy (Duan et al., arXiv 1611.02779) on vector
// observations.
//
// One update, [Agent.Train], runs one Gorgonia graph of some forty nodes, each
// a whole network, a scan over time or a loss:
//
//	observations → encode → observe (RSSM along the batch) → features
//	features → prior, decoder, reward, continue, critic → their losses
//	features → imagine (policy through the prior) → reward, continue, critic
//	         → lambda-returns → actor and critic losses
//
// Gradients of the world model's losses and of the critic's loss on replayed
// states reach the RSSM and the encoder; imagination reads the world model and
// trains policy and critic alone. Sums of gradients, the order of execution
// and the chain rule between nodes are Gorgonia's, everything inside a node is
// package model's.
//
// Where the published algorithm leaves a choice, or vectors and RL² ask for
// one, it is: a hidden layer sees its inputs side by side, one kernel for all;
// the policy's head sees the GRU's state and the projected model state that
// went into it, so that what matters at once need not pass the update gate;
// that state is rolled along the replayed sequence without a gradient and then
// through imagination with one; a rollout keeps the action mask of its start.
//
// Three settings are not DreamerV3's, for environments like job queues, whose
// costs have heavy tails and come from arrivals that no action changes:
// ScaleByAdvantage puts advantages through symlog, scaled by their own size, and
// ImagineGroup imagines several rollouts from a state, with the same chances and
// different actions, and makes them each other's baseline. Model.Autoregressive
// has the prior draw each latent given those before it, without which the large
// jobs of a heavy tail are never imagined (dreamfleet evaluate --imagination).
// Without them it is DreamerV3's loss.
//
// The preset small, which is the default, is made for small models at many
// updates a second. It departs from the published settings in all of these, and
// in these values (published ones in brackets):
//
//   - three learning rates, 1e-3 for the world model, 3e-4 for the policy and 5e-4
//     for the critic (one, 4e-5), which rise over 100 updates (1000) and then fall
//     with a half-life of 8000 (they stay)
//   - a policy that learns from update 400 on (from the first)
//   - reconstruction weighted by 30 (1), entropy by 0.15, which falls with a half-life
//     of 6000 (3e-4, which stays), and a uniform share of 1e-3 in the
//     categoricals (0.01)
//   - a horizon of 50 (333), rollouts of 32 steps (15), two from each of the last
//     two steps of sequences of 32 (one from each of all 64)
//   - a GRU of one block (8), and layers smaller than those of any published size
//
// The presets 1m, 12m and 50m have the published values in all of them, and the
// loss without the three settings. debug, which learns nothing, is small made smaller.
package dreamer
