package learner

import (
	"fmt"
	"math"
	"testing"
)

func TestAges(t *testing.T) {
	var a ages
	for _, age := range []uint64{0, 0, 1, 2, 3, 4, 7, 8} {
		a.add(age)
	}
	if got := fmt.Sprint(a.counts()); got != "[2 1 2 2 1]" {
		t.Errorf("counts are %s", got)
	}
	a.turn()
	a.add(1)
	if got := fmt.Sprint(a.counts()); got != "[2 2 2 2 1]" {
		t.Errorf("counts with the interval before are %s", got)
	}
	a.turn()
	if got := fmt.Sprint(a.counts()); got != "[0 1]" {
		t.Errorf("counts after two turns are %s", got)
	}
	a.turn()
	if got := a.counts(); len(got) != 0 {
		t.Errorf("counts are %v of nothing", got)
	}
	if got, sum := a.total(); fmt.Sprint(got[:5]) != "[2 2 2 2 1]" || sum != 26 {
		t.Errorf("all are %v, their sum is %d", got, sum)
	}
	a.add(math.MaxUint64)
	if got := a.counts(); len(got) != ageBuckets || got[ageBuckets-1] != 1 {
		t.Errorf("counts of the oldest are %v", got)
	}
}
