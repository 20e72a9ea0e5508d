package dreamer

import (
	"bytes"
	"math"
	"reflect"
	"slices"
	"testing"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// Measuring learns nothing, gives the same twice, and falls as the model learns what it is measured on.
func TestLossesLearnNothing(t *testing.T) {
	for name, c := range variants() {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, c)
			train(t, a, 0, 2)
			before := saved(t, a)
			batch := newBatchOf(c, 77)
			batch.Refs = []protocol.Ref{{Sequence: 1, Step: uint32(c.BatchLength - 1)}}
			first, rows, err := a.Losses(t.Context(), batch)
			if err != nil {
				t.Fatal(err)
			}
			rows = slices.Clone(rows)
			again, _, err := a.Losses(t.Context(), batch)
			if err != nil || !reflect.DeepEqual(first, again) {
				t.Errorf("losses %v, then %v, %v", first, again, err)
			}
			if !bytes.Equal(before, saved(t, a)) {
				t.Error("measuring changed the agent")
			}
			if len(rows) != c.Model.ContextLen() || !slices.ContainsFunc(rows, func(x float32) bool { return x != 0 }) {
				t.Errorf("%d values of context, want %d that are not all 0", len(rows), c.Model.ContextLen())
			}
			for _, loss := range []string{"kl", "reconstruction", "reward", "continue"} {
				if v, ok := first[loss]; !ok || math.IsNaN(v) || v < 0 {
					t.Errorf("%s is %v", loss, v)
				}
			}
			if len(first) != 4 {
				t.Errorf("losses %v", first)
			}
			for range 60 {
				if _, err := a.Train(t.Context(), newBatchOf(c, 77)); err != nil {
					t.Fatal(err)
				}
			}
			learnt, _, err := a.Losses(t.Context(), batch)
			if err != nil || !(learnt["reconstruction"] < first["reconstruction"]) {
				t.Errorf("reconstruction %v before and %v after learning the batch, %v", first["reconstruction"], learnt["reconstruction"], err)
			}
		})
	}
}
