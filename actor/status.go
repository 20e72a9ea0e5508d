package actor

import (
	"time"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// status returns what fills the heartbeat of a process: the sum of its actors.
// It belongs to one goroutine.
func status(actors []*Actor) func(*protocol.Status) {
	var rate protocol.Rate
	return func(status *protocol.Status) {
		all := &protocol.ActorStatus{Actors: len(actors)}
		for i, a := range actors {
			s := a.Stats()
			all.Names = append(all.Names, s.Actor)
			all.Environments += len(a.rollout.streams)
			all.Steps += s.Steps
			all.Episodes += s.Episodes
			if i == 0 || s.ParamVersion < all.ParamVersion {
				all.ParamVersion = s.ParamVersion
			}
			all.ParamsRejected += s.ParamsRejected
			all.Dropped += s.Dropped + s.Refused
			all.Failed += s.Failed
			all.SpoolChunks += s.SpoolChunks
			all.SpoolBytes += s.SpoolBytes
			if s.Held != "" {
				all.Waiting = s.Held
			}
		}
		all.StepsPerSecond = rate.Per(time.Now(), all.Steps)
		status.Actor = all
	}
}
