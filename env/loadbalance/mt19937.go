package loadbalance

import "math"

const (
	mtSize  = 624
	mtShift = 397
)

// mt19937 is numpy's legacy RandomState: the Mersenne Twister of Matsumoto and
// Nishimura (1998) seeded by init_genrand, with the conversions to doubles and
// bounded integers that RandomState has kept frozen since numpy 1.17.
type mt19937 struct {
	state [mtSize]uint32
	next  int
}

// seed does what RandomState.seed(seed) does for an integer.
func (m *mt19937) seed(seed uint32) {
	m.state[0] = seed
	for i := uint32(1); i < mtSize; i++ {
		prev := m.state[i-1]
		m.state[i] = 1812433253*(prev^prev>>30) + i
	}
	m.next = mtSize
}

func twist(high, low, shifted uint32) uint32 {
	y := high&0x80000000 | low&0x7fffffff
	return shifted ^ y>>1 ^ -(y&1)&0x9908b0df
}

func (m *mt19937) refill() {
	s := &m.state
	for i := range mtSize - mtShift {
		s[i] = twist(s[i], s[i+1], s[i+mtShift])
	}
	for i := mtSize - mtShift; i < mtSize-1; i++ {
		s[i] = twist(s[i], s[i+1], s[i+mtShift-mtSize])
	}
	s[mtSize-1] = twist(s[mtSize-1], s[0], s[mtShift-1])
	m.next = 0
}

func (m *mt19937) uint32() uint32 {
	if m.next == mtSize {
		m.refill()
	}
	y := m.state[m.next]
	m.next++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

// float64 is random_sample: a double in [0, 1) with 53 random bits.
func (m *mt19937) float64() float64 {
	high, low := m.uint32()>>5, m.uint32()>>6
	return (float64(high)*(1<<26) + float64(low)) / (1 << 53)
}

// exponential is standard_exponential, by inversion.
func (m *mt19937) exponential() float64 {
	return -math.Log(1 - m.float64())
}

// intn is randint(n): masked rejection on single words. It needs 1 <= n <= 2^32.
func (m *mt19937) intn(n int) int {
	last := uint32(n - 1)
	if last == 0 {
		return 0
	}
	mask := last
	for shift := 1; shift < 32; shift *= 2 {
		mask |= mask >> shift
	}
	for {
		if v := m.uint32() & mask; v <= last {
			return int(v)
		}
	}
}
