// Package view is what the environment view shows: servers as queues with the
// jobs that arrive, what the policy thinks of each beside what two rules would
// do, and what the world model had predicted beside what then happened.
//
// A Clip is a stretch of steps in a row of one environment. A Camera takes clips
// in a running actor while somebody asks; a whole episode that was played for
// the purpose is a clip, too, kept as a file. A Forecaster adds the world model's
// open-loop predictions, from the observations that a clip carries, so that
// actors need not have what only the world model does.
//
//	camera := view.NewCamera(view.CameraConfig{...})
//	camera.Ask()                       // for the next few seconds
//	...
//	err = forecaster.Add(clip)         // where the parameters are
//	err = view.WriteFile("episode.view.json.gz", clip)
//
// Invariants: a camera that nobody asks costs an atomic load a step and sends
// nothing; one that is asked sends at most a clip in ClipInterval. What is
// decoded is untrusted: bounded in size and checked before it is used.
package view
