// Package env says what an environment is to the rest of dreamfleet, and
// assembles its episodes into the trials that an RL² agent learns from.
//
// An Env plays episodes of a Task, one at a time, and draws nothing by itself:
// the same task and seed give the same episode. A Distribution draws tasks. A
// Trial is k episodes of one task in a row (Duan et al., RL²: Fast Reinforcement
// Learning via Slow Reinforcement Learning, arXiv 1611.02779; Wang et al.,
// Learning to Reinforcement Learn, arXiv 1611.05763): the agent's memory lives
// through it and is what adapts.
//
//	trial, err := env.NewTrial(e, tasks, 2, seed)
//	step, err := trial.Next(0) // the first observation
//	for {
//		action := policy.Act(step.Obs, step.Mask, step.Flags)
//		step, err = trial.Next(action)
//	}
//
// # Time steps
//
// A Timestep holds an observation, the reward received on arriving at it, and
// the mask of actions allowed at it; the action chosen at it is the argument of
// the following Next. The end of an episode inside a trial is no step of its
// own: the step with the next episode's first observation carries the last
// reward of the previous one and the flag EpisodeStart. So k episodes of n
// actions make k*n+1 steps:
//
//	       step    0      1  ...  n-1     n     n+1  ...  2n
//	observation  o(1,0) o(1,1)  o(1,n-1) o(2,0) o(2,1)  o(2,n)
//	     reward    0    r(1,0)           r(1,n-1)       r(2,n-1)
//	      flags  First                   Episode        Last
//	             EpisodeStart            Start          Terminal
//
// The return is cut at the end of a trial only. Steps go on for ever: the Next
// after a Last ignores its action and begins another trial.
//
// The observation is the environment's, followed by two inputs of RL²: the
// reward signal (what the agent is shown, which may differ from what it is
// trained on) and 1 where an episode starts. The third, the previous action, is
// known to whoever chose it.
package env
