// Package fleet is the health of runs as their heartbeats tell it: which processes
// live where, how fast the run goes, what it waits for, and what somebody should
// look at.
//
//	beats, err := bus.AllHeartbeats(ctx)
//	state := fleet.Of(beats, time.Now())
//	err = fleet.WriteText(os.Stdout, state, fleet.Screen{Width: 100, Rows: 24})
//
// A State is also the JSON of `dreamfleet status --json` and of the dashboard.
//
// Invariants: the package reads no clock and no bus, and what it returns follows
// from what it was given. A heartbeat is untrusted: whatever it says, a text has
// no control characters of its, and is cut to the screen.
package fleet
