package replay

import (
	"reflect"
	"testing"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// What is listed is what was inserted, in that order, after a restart too.
func TestEachChunk(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := openStore(t, cfg)
	var want []*protocol.Chunk
	for seq := range uint64(4) {
		for env := range uint32(2) { // with and without a mask
			c := testChunk("a", env, seq, 16)
			insert(t, s, c)
			want = append(want, c)
		}
	}
	for range 2 {
		var got []*protocol.Chunk
		for c := range s.Each {
			got = append(got, c)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("listed are %d chunks, inserted were %d, or they differ", len(got), len(want))
		}
		sent, err := want[3].Digest()
		if err != nil {
			t.Fatal(err)
		}
		got[3].Context[0]++ // as refreshed
		if kept, err := got[3].Digest(); err != nil || kept != sent {
			t.Errorf("digest %x, %v, that of what was inserted is %x", kept, err, sent)
		}
		got[3].Obs[0]++
		if kept, err := got[3].Digest(); err != nil || kept == sent {
			t.Errorf("another observation has the digest %x, %v, too", kept, err)
		}
		closeStore(t, s)
		s = openStore(t, cfg)
	}
	for range s.Each {
		break
	}
}
