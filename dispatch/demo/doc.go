// Command demo shows a dispatcher at work on something real: HTTP servers of different
// speed on loopback, under jobs of heavy-tailed size.
//
// It compares round-robin, least connections, LEFT and the learned policy by measured
// response times over the same arrivals. Then the policy is introduced anew, from
// shadow over canary to active, and a server slows down: the guards give decisions
// back to the rule, and the policy gets them again once the server has recovered. A
// page with plots comes out. `make demo-dispatch` trains the policy first.
package main
