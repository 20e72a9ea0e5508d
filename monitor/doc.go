// Package monitor writes down what a run does and shows it to whoever watches.
//
// A Recorder appends named values to metrics.jsonl, one JSON object a line, and to a TensorBoard
// event file beside it; a run that is resumed at a step loses what was written beyond it, so that
// no step is there twice. AppendScore keeps scores.json, the evaluation scores in DreamerV3's
// format. A Progress draws the state of a run, given as a Snapshot, on a terminal or as plain
// lines. A Chart draws learning curves as PNG. A Process shows how a process does while it runs: /metrics
// for Prometheus, /healthz and /readyz, pprof, and notifications for systemd; Table lists its metrics and
// which names of metrics.jsonl they are.
//
//	recorder, err := monitor.OpenRecorder(monitor.RecorderConfig{Dir: dir, Step: resumed, Now: time.Now})
//	...
//	err = recorder.Record(step, map[string]float64{"loss/model": 12.5})
//
// Invariants: the package knows none of the others but watchdog; it reads no clock but the one that it is
// given; without a clock (lockstep) everything that it writes follows from what it was told, byte
// for byte.
package monitor
