package model

import "fmt"

// Config is the shape of every network. The zero value is not valid.
type Config struct {
	Obs     int // width of the agent's observation, reward and episode-start inputs included
	Actions int // number of discrete actions

	Deter   int // units of the deterministic state
	Hidden  int // units of the hidden layers inside the RSSM
	Stoch   int // number of categorical latents
	Classes int // classes of each latent
	Blocks  int // blocks of the block-diagonal GRU; divides Deter

	Autoregressive bool // categorical latents of the prior depend on those before them

	Gaussian bool // one diagonal Gaussian of Stoch*Classes dimensions in place of the categoricals

	Units  int // units of the hidden layers of encoder, decoder and heads
	Layers int // hidden layers of encoder, decoder, actor and critic
	Bins   int // bins of the two-hot reward and critic heads; odd

	Recurrent   bool // the policy has a GRU of its own (RL²); false is the feed-forward ablation
	PolicyUnits int  // units of that GRU

	Unimix float32 // share of the uniform distribution mixed into every categorical
}

// Validate names the first field that cannot work and says what would.
func (c Config) Validate() error {
	positive := []struct {
		name  string
		value int
	}{
		{"obs", c.Obs}, {"actions", c.Actions}, {"deter", c.Deter}, {"hidden", c.Hidden},
		{"stoch", c.Stoch}, {"classes", c.Classes}, {"blocks", c.Blocks},
		{"units", c.Units}, {"layers", c.Layers}, {"policy_units", c.PolicyUnits},
	}
	for _, p := range positive {
		if p.value < 1 || p.value > 1<<16 {
			return fmt.Errorf("model: %s is %d; it must be between 1 and %d", p.name, p.value, 1<<16)
		}
	}
	switch {
	case c.Deter%c.Blocks != 0:
		return fmt.Errorf("model: deter %d is not divisible by blocks %d", c.Deter, c.Blocks)
	case c.Classes < 2 && !c.Gaussian:
		return fmt.Errorf("model: classes is %d; a categorical latent needs at least 2", c.Classes)
	case c.Actions < 2:
		return fmt.Errorf("model: actions is %d; a policy needs at least 2", c.Actions)
	case c.Bins < 3 || c.Bins%2 == 0 || c.Bins > 1<<12:
		return fmt.Errorf("model: bins is %d; it must be odd, so that one bin is zero, and between 3 and 4095", c.Bins)
	case c.Unimix < 0 || c.Unimix >= 1:
		return fmt.Errorf("model: unimix is %v; it must be in [0, 1)", c.Unimix)
	}
	return nil
}

// StochLen is the width of the stochastic state as the layers see it: the
// one-hot vectors side by side, or the Gaussian sample.
func (c Config) StochLen() int { return c.Stoch * c.Classes }

// LogitsLen is the width of the parameters of a stochastic state: logits, or
// means followed by raw scales.
func (c Config) LogitsLen() int {
	if c.Gaussian {
		return 2 * c.StochLen()
	}
	return c.StochLen()
}

// DrawLen is the number of random numbers that sampling one stochastic state
// takes: a uniform one for each categorical, or a normal one for each
// Gaussian dimension.
func (c Config) DrawLen() int {
	if c.Gaussian {
		return c.StochLen()
	}
	return c.Stoch
}

// FeatLen is the width of a model state laid out densely, [deter | stoch].
func (c Config) FeatLen() int { return c.Deter + c.StochLen() }

// ContextLen is the width of a recurrent context row: the carry before a
// step's observation is processed, as [deter | stoch | policy | action].
// A categorical is stored as its class plus one, the previous action likewise,
// so that a row of zeros is the initial state.
func (c Config) ContextLen() int { return c.Deter + c.DrawLen() + c.PolicyState() + 1 }

// PolicyState is the width of the policy's recurrent state: zero where it is
// feed-forward.
func (c Config) PolicyState() int {
	if c.Recurrent {
		return c.PolicyUnits
	}
	return 0
}
