package model

import (
	"encoding/binary"
	"math"
)

// DType is the type that values have in a safetensors file.
type DType string

// BF16 is the upper half of a float32: its range with 8 bits of precision, in
// half the bytes.
const (
	F32  DType = "F32"
	BF16 DType = "BF16"
)

// size is the bytes of a value, 0 for a type that is not known.
func (t DType) size() int64 {
	switch t {
	case F32:
		return 4
	case BF16:
		return 2
	}
	return 0
}

// decode reads as many values as dst has.
func (t DType) decode(dst []float32, b []byte) {
	if t == BF16 {
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[2*i:])) << 16)
		}
		return
	}
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
}

// bfloat16 rounds to the nearest, of two equally near to the even one. What is
// beyond the largest becomes infinite.
func bfloat16(v float32) uint16 {
	b := math.Float32bits(v)
	if v != v {
		return uint16(b>>16) | 0x40 // rounding could carry the number's only bits away and leave an infinity
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}
