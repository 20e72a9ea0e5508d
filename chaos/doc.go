// Package chaos breaks a fleet on purpose and checks what must hold all the same.
//
// Its test makes hosts out of network namespaces that a bridge joins, and runs on
// them what a user would: the three servers that dreamfleet nats init describes,
// actors, a replay, a learner and its standby, each a process of the built binary.
// While they train it kills processes, restarts them and cuts links, one after
// another in random order, and after each fault asks
//
//   - that everything that an actor was told is stored is in the replay, unchanged:
//     the digests in the actors' ledgers are those of the replay's files;
//
//   - that nothing is in there twice;
//
//   - that every client of a server that is gone has found another one;
//
//   - that training goes on, and counters say what happened.
//
//     make chaos                        # 20 faults; FAULTS=100 SEED=7 for others
//     make chaos FAULTS=5               # as CI does
//     make soak DURATION=2h             # a fault each minute, and what memory and files do
//
// It needs root and the ip command. Where namespaces cannot be made it fails if CI
// is set in the environment, unless CHAOS=optional is too, and is skipped
// otherwise.
package chaos
