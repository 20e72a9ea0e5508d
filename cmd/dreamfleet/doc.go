// Command dreamfleet trains meta-reinforcement-learning agents to balance load.
//
// One binary holds a subcommand for each role: train runs all of them in one process, while nats,
// replay, learner and actor run them apart over TCP. The package wires the others together and
// turns the run's configuration into each one's own; it holds no logic of its own.
//
// It exits with 0 when it has done its work, or was asked to stop by a signal and has saved what
// it had; with 1 when something failed; with 2 when the command line or the configuration is
// wrong.
package main
