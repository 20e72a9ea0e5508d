package protocol

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// ServerStats is a snapshot of a server and of the streams and buckets of all runs on it. Of a stream
// with replicas only its leader counts, so that the servers of a cluster add up.
type ServerStats struct {
	Connections, Subscriptions        int
	ReceivedMessages, ReceivedBytes   int64 // from clients
	SentMessages, SentBytes           int64 // to clients
	SlowConsumers                     int64 // clients cut off since they did not keep up
	StorageBytes, StorageLimit        int64 // on disk, of all streams; the limit is the server's
	Streams                           []StreamStats
	TrajectoryLag, TrajectoryInFlight uint64 // chunks that the replays have yet to be given, and to acknowledge
}

// StreamStats is one stream's.
type StreamStats struct {
	Name            string
	Messages, Bytes uint64
	Limit           int64 // bytes; -1: none
}

// TrajectoryStream is the name of the stream that TrajectoryLag is of.
const TrajectoryStream = streamTraj

// Stats returns a snapshot.
func (s *Server) Stats() (ServerStats, error) {
	v, err := s.server.Varz(nil)
	if err != nil {
		return ServerStats{}, fmt.Errorf("server's numbers: %w", err)
	}
	js, err := s.server.Jsz(&server.JSzOptions{Accounts: true, Streams: true, Consumer: true, Config: true, StreamLeaderOnly: true})
	if err != nil {
		return ServerStats{}, fmt.Errorf("server's streams: %w", err)
	}
	st := ServerStats{
		Connections: v.Connections, Subscriptions: int(v.Subscriptions),
		ReceivedMessages: v.InMsgs, ReceivedBytes: v.InBytes, SentMessages: v.OutMsgs, SentBytes: v.OutBytes,
		SlowConsumers: v.SlowConsumers, StorageBytes: int64(js.Store), StorageLimit: js.Config.MaxStore,
	}
	own := map[string]int{}
	for _, account := range js.AccountDetails {
		for _, stream := range account.Streams {
			if !ownStream(stream.Name) {
				continue
			}
			i, ok := own[stream.Name] // of another account
			if !ok {
				i = len(st.Streams)
				own[stream.Name] = i
				st.Streams = append(st.Streams, StreamStats{Name: stream.Name})
			}
			of := &st.Streams[i]
			of.Messages += stream.State.Msgs
			of.Bytes += stream.State.Bytes
			of.Limit += stream.Config.MaxBytes
			for _, c := range stream.Consumer {
				if stream.Name == streamTraj && strings.HasPrefix(c.Name, "replay") {
					st.TrajectoryLag += c.NumPending
					st.TrajectoryInFlight += uint64(c.NumAckPending)
				}
			}
		}
	}
	return st, nil
}

func ownStream(name string) bool {
	switch name {
	case streamTraj, streamDead, "KV_" + bucketCfg, "KV_" + bucketHB, "OBJ_" + storeCkpt:
		return true
	}
	return false
}

// Healthy returns nil when the server takes connections and keeps streams, or else what is wrong.
func (s *Server) Healthy() error {
	select {
	case <-s.broken.done:
		return s.broken.err
	default:
	}
	if h := s.server.Healthz(&server.HealthzOptions{JSServerOnly: true}); h.Error != "" {
		return fmt.Errorf("NATS server: %s", h.Error)
	}
	return nil
}
