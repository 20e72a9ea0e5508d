package loadbalance

import "testing"

func BenchmarkSimStep(b *testing.B) {
	var s Sim
	rates := DefaultRates()
	src := NewFastSource(1, DefaultInterval, DefaultShape, DefaultScale)
	obs := make([]float64, len(rates)+1)
	b.ReportAllocs()
	s.done = true
	for b.Loop() {
		if s.done {
			if err := s.Reset(rates, 1000, src); err != nil {
				b.Fatal(err)
			}
		}
		// In proportion to the rates, roughly.
		if _, _, _, err := s.Step([16]int{0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8, 8, 9, 9}[s.assigned%16]); err != nil {
			b.Fatal(err)
		}
		s.Observe(obs)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Msteps/s")
}
