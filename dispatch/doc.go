// Package dispatch puts a trained policy to work: a service that says to which server
// an arriving job shall go, behind a rule that decides wherever the policy may not, or
// should not.
//
//	s, err := dispatch.New(ctx, dispatch.Config{Policy: policy, Plan: dispatch.DefaultPlan(), ...})
//	go s.Run(ctx)
//	err = s.Offer(ctx, 12000, file)          // parameters of a checkpoint
//	d, err := s.Decide(ctx, dispatch.Request{Stream: "eu-1", Size: 420})
//	err = s.Complete(dispatch.Completion{Stream: "eu-1", Jobs: []string{d.Job}})
//
// # Streams
//
// A stream is one set of servers and the jobs that arrive for it: what an environment
// is to an actor. Each has queues, tracked from what is assigned and reported complete
// (queues), and the policy's memory (a context row of package model). Both are shown to
// the policy as the environment would show them (loadbalance.View), so that it sees
// what it was trained on. Streams are bounded: the one that was used least recently is
// forgotten.
//
// # The loop
//
// Requests that come while one step of the policy is computed are answered together by
// the next (Service.decideUntil): gather looks at the streams, step runs the networks
// without any lock, answer judges and assigns. Of one stream there is one request in a
// batch, since each changes what the next one sees. Whoever has waited for longer than
// the plan's deadline takes the reference's choice instead.
//
// # Stages and guards
//
// In the stage shadow the reference decides; in canary the policy does, for a share of
// the streams by a stable hash; in active for all. A step up needs a human, or a plan
// that says otherwise; a step down is immediate. In each stage both choices are
// recorded (audit), and the arrivals are replayed through the simulator under both
// (replayer), which estimates what the policy costs, or would.
//
// Guards look at each decision (judge), at each replayed block (costTest), at each
// version of the parameters (Offer) and at the clock (tend). What one finds is a Hold:
// of a stream, or of all. While it lasts, from that very request on, the reference
// decides; it is counted, logged and escalated (alarm), and ends by its cool-down or
// by a human.
//
// # What always holds
//
//   - A request that is well-formed is answered within the deadline, whatever the policy
//     does; swapping parameters drops none.
//   - The policy decides nothing that is not in the audit log.
//   - Every decision has one reason, and each counter of Status is the number of
//     decisions with it.
//   - Nothing that comes from outside is unbounded: requests, streams, unfinished jobs,
//     waiting events, blocks and records.
package dispatch
