package protocol

import "sync/atomic"

// Stats is a snapshot of a bus's counters since Connect.
type Stats struct {
	Published      uint64            // chunks stored by the stream, repetitions included
	Duplicates     uint64            // of those, dropped by the stream as repetitions
	PublishFailed  uint64            // publish attempts that failed; the caller may retry
	Consumed       uint64            // chunks handed to the consumer's handler
	Redelivered    uint64            // of those, not for the first time
	DeadLettered   map[string]uint64 // messages kept in DEAD, by Reason
	Refused        map[string]uint64 // messages of no stream that could not be decoded, by Reason; some are kept in DEAD
	DeadLetterLost uint64            // attempts at dead-lettering that failed; the message comes again

	ParamsSent      uint64 // versions broadcast
	ParamsResent    uint64 // versions broadcast once more since many subscribers lacked them
	ParamSendFailed uint64 // versions whose broadcast broke off; subscribers fetch them
	ParamsReceived  uint64 // versions assembled and verified
	ParamsStale     uint64 // frames of versions already finished or overtaken
	ParamsFetched   uint64 // frames asked for singly, after a loss or a late start

	Samples       uint64 // batches served or received
	SampleWaits   uint64 // sample requests answered or met with "not yet"
	HeartbeatLost uint64 // heartbeats that could not be sent

	Denied        uint64 // permission denials, told by the server asynchronously
	SlowConsumers uint64 // times the client dropped messages for a full subscription
	AsyncErrors   uint64 // other errors of the connection
	Disconnects   uint64
	Reconnects    uint64
}

type counters struct {
	published, duplicates, publishFailed       atomic.Uint64
	consumed, redelivered, deadLetterLost      atomic.Uint64
	deadLettered, refused                      [len(reasons)]atomic.Uint64
	paramsSent, paramsResent, paramSendFailed  atomic.Uint64
	paramsReceived, paramsStale, paramsFetched atomic.Uint64
	samples, sampleWaits, heartbeatLost        atomic.Uint64
	denied, slowConsumers, asyncErrors         atomic.Uint64
	disconnects, reconnects                    atomic.Uint64
}

// Stats returns the counters' present values.
func (b *Bus) Stats() Stats {
	c := &b.counters
	s := Stats{
		Published: c.published.Load(), Duplicates: c.duplicates.Load(), PublishFailed: c.publishFailed.Load(),
		Consumed: c.consumed.Load(), Redelivered: c.redelivered.Load(),
		DeadLettered: map[string]uint64{}, Refused: map[string]uint64{}, DeadLetterLost: c.deadLetterLost.Load(),
		ParamsSent: c.paramsSent.Load(), ParamsResent: c.paramsResent.Load(), ParamSendFailed: c.paramSendFailed.Load(),
		ParamsReceived: c.paramsReceived.Load(),
		ParamsStale:    c.paramsStale.Load(), ParamsFetched: c.paramsFetched.Load(),
		Samples: c.samples.Load(), SampleWaits: c.sampleWaits.Load(),
		HeartbeatLost: c.heartbeatLost.Load(),
		Denied:        c.denied.Load(), SlowConsumers: c.slowConsumers.Load(), AsyncErrors: c.asyncErrors.Load(),
		Disconnects: c.disconnects.Load(), Reconnects: c.reconnects.Load(),
	}
	for i, reason := range reasons {
		if n := c.deadLettered[i].Load(); n > 0 {
			s.DeadLettered[reason] = n
		}
		if n := c.refused[i].Load(); n > 0 {
			s.Refused[reason] = n
		}
	}
	return s
}
