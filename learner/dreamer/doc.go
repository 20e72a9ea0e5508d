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
// Two settings depart from it, for environments like job queues, whose costs
// have heavy tails and come from arrivals that no action changes:
// ScaleByAdvantage puts advantages through symlog, and ImagineGroup makes
// rollouts that share their chances each other's baseline. Without them it is
// DreamerV3's loss.
package dreamer
