package bench

import (
	"testing"
	"time"
)

// All connections are answered by the policy, as fast as they can ask and at a rate.
func TestDispatchLoad(t *testing.T) {
	s, err := startDispatch(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, rate := range []float64{0, 500} {
		perSecond, took, err := s.load(t.Context(), 200*time.Millisecond, rate)
		if err != nil || perSecond <= 0 || len(took) < dispatchStreams {
			t.Errorf("at a rate of %v: %v decisions a second, %d of them, %v", rate, perSecond, len(took), err)
		}
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}
