// Package model is the agent's networks as plain numerics: DreamerV3's world
// model (Hafner et al., arXiv 2301.04104) and an RL² policy (Duan et al.,
// arXiv 1611.02779), forward and backward, on float32 slices. It knows no
// graph and no optimisation problem; acting uses it directly, and package
// learner/graph makes its runners nodes of a training graph.
//
//	params, err := model.NewParams(cfg)       // all tensors in one allocation
//	params.Init(rng)
//	policy, err := model.NewPolicy(cfg, environments, seed)
//	err = policy.Load(blob)                   // as Params.Blob wrote it
//	policy.Act(obs, flags, mask, action, logProb)
//
// # Modules
//
// [Params] has eight modules, each a contiguous slice: encoder, rssm, prior and
// actor, then decoder, reward, continue and critic. A hidden layer is
//
//	y = silu(rmsnorm(x·W + b)·scale)
//
// where x may be several inputs side by side, one kernel for all. With o the
// symlog of the observation, h the deterministic state, z the stochastic one, a
// the previous action and g the policy's own state, a step computes
//
//	e  = encoder(o)
//	h' = core(h, z, a)           block-diagonal GRU, update bias -1
//	z' ~ posterior(h', e)        or, imagined, z' ~ prior(h')
//	x  = hidden(h', z')
//	g' = GRU(x, g)               left out in the feed-forward ablation
//	π  = head(x, g')
//
// and decoder, reward, continue and critic read (h', z'). The stochastic state
// is Stoch categoricals of Classes classes with Unimix of the uniform
// distribution in each, or a diagonal Gaussian of the same width. docs/formats.md
// has every formula and tensor.
//
// # States
//
// [States] holds h and z of some rows. A categorical is kept as the index of
// its class and never written out: its product with a kernel is a sum of kernel
// rows. Index -1 is the empty latent and action -1 no action, both a vector of
// zeros; with h = 0 they are the state before a trial. [Config.PackContext] lays
// a row out as [h | z | g | a], indices plus one, so that a row of zeros is that
// state, too: this is the recurrent context that the replay stores.
//
// # Without a world model
//
// An [ActorCriticConfig] is the shape of a model-free policy and critic, which may
// share a memory; [Direct] acts by it, and [Remember] and [NewActorCriticMLP] run
// it in training.
//
// # Runners
//
// [MLP], [Observer] and [Imaginer] run a head, the RSSM along replayed
// sequences, and the policy through the prior. Each owns the activations that
// its backward step needs and allocates nothing once made. A scan computes only
// the chain of states step by step; what depends on the embeddings alone, and
// the gradient of each kernel, are products over all time steps at once. Rows
// are time-major: step t of sequence b is row t·B + b.
//
// [TwoHot], [KL] and [Optimizer] are the numerics of the losses and of LaProp
// with adaptive gradient clipping.
//
// # Invariants
//
//   - Rows are independent: what a row computes does not depend on the others,
//     on its place or on their number.
//   - The number of threads changes no bit of a result: partial sums belong to
//     fixed blocks of rows.
//   - All randomness is passed in as numbers, or comes from a stream that the
//     caller seeds and can save.
//   - Acting and training compute the same numbers from the same inputs, draws
//     and parameters, within the rounding of differently ordered sums.
//   - Whatever is decoded is untrusted: sizes, shapes, offsets and class
//     indices are checked before they are used.
package model
