// Package loadbalance is the load balancing environment: a dispatcher assigns
// each arriving job to one of several unequal servers, and pays for the time
// that jobs spend in the system. Around the simulator stand its workloads, the
// dispatch heuristics that a learned policy is compared with, and the
// environment that shows it to an agent.
//
// # The simulator
//
// Sim is an event-exact port of Park's load_balance (Mao et al., Park: An Open
// Platform for Learning-Augmented Computer Systems, NeurIPS 2019). All times
// and sizes are integers.
//
//	var sim loadbalance.Sim
//	src := loadbalance.NewParkSource(1, 55, 1.5, 100) // Park's own jobs of seed 1
//	err := sim.Reset(loadbalance.DefaultRates(), 1000, src)
//	for !sim.Done() {
//		park, settled, done, err := sim.Step(policy.Choose(&sim))
//	}
//	sim.MeanJCT()
//
// Its invariants: every job is finished, in the order of assignment on each
// server; an episode's return is minus the total time in system; and where the
// servers do not change, both rewards of Step have that sum to the last digit.
// Beyond Park, servers may join, slow down and fail (Sim.Schedule).
//
// # The environment
//
// Env shows a Sim to an agent as an env.Env: observation scales, masks, rewards
// by name, hidden rates. A Task fixes what an episode is about, and Tasks draws
// such tasks from ranges.
//
//	e, err := loadbalance.New(loadbalance.DefaultConfig())
//	tasks := &loadbalance.Tasks{Base: *loadbalance.ParkTask(), Interval: loadbalance.Range{Lo: 45, Hi: 110}}
//	err = tasks.Check()
//	trial, err := env.NewTrial(e, tasks, 2, seed)
//
// # Jobs
//
// A Source is a stream of jobs, a Workload a family of them by seed. ParkSource
// draws Park's jobs bit for bit, for evaluation and verification; FastSource
// draws from the same distribution, for training; bursts, daily cycles and
// trace files are in NewWorkload.
//
// # Recorded episodes
//
// Verify replays a recorded episode and names the first difference; Recording
// writes one. The format is one JSON object a line:
//
//	{"type":"header","env":"park load_balance","seed":1,"num_servers":10,"service_rates":[...],...}
//	{"type":"jobs","dt":[...],"size":[...]}           job k arrives dt[k] after job k-1
//	{"type":"step","a":9,"o":[...],"r":-19,"d":false,"t":89}   action, then what it led to
//	...
//	{"type":"summary","steps":1000,"total_reward":-511239,...}
//
// The files in testdata/park were recorded by Park itself.
package loadbalance
