package protocol

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// nats.go 1.55.0 leaves this goroutine behind when an object is stored so fast that the store's
	// Put has cleaned up before the goroutine that it began has read its channel: a nil one then.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
}
