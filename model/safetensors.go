package model

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"
)

// ErrParams marks bytes that are not the parameters that were asked for.
var ErrParams = errors.New("model: bad parameters")

// Bounds on what a safetensors file may claim before anything is allocated.
const (
	maxHeader  = 16 << 20
	maxTensors = 1 << 16
	maxData    = 4 << 30
)

// File is the content of a safetensors file: tensors by name and free text
// metadata. In memory values are float32, whatever type they have in the file.
type File struct {
	Tensors  []Tensor
	Metadata map[string]string
	DType    DType // of all values in what WriteTo writes; empty: F32. Decode leaves it empty
}

// ByName returns the tensors by name.
func (f *File) ByName() map[string]Tensor {
	m := make(map[string]Tensor, len(f.Tensors))
	for _, t := range f.Tensors {
		m[t.Name] = t
	}
	return m
}

type entry struct {
	DType   DType    `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// WriteTo writes the file. Tensors keep their order; the header is sorted, so
// that the same content gives the same bytes.
func (f *File) WriteTo(w io.Writer) (int64, error) {
	dtype := cmp.Or(f.DType, F32)
	width := dtype.size()
	if width == 0 {
		return 0, fmt.Errorf("model: values cannot be written as %q, only as %s or %s", f.DType, F32, BF16)
	}
	header := make(map[string]any, len(f.Tensors)+1)
	var at int64
	for _, t := range f.Tensors {
		if _, twice := header[t.Name]; twice {
			return 0, fmt.Errorf("model: tensor %s appears twice", t.Name)
		}
		end := at + width*int64(len(t.Data))
		shape := t.Shape
		if shape == nil {
			shape = []int{}
		}
		header[t.Name] = entry{dtype, shape, [2]int64{at, end}}
		at = end
	}
	if len(f.Metadata) > 0 {
		header["__metadata__"] = f.Metadata
	}
	h, err := json.Marshal(header)
	if err != nil {
		return 0, fmt.Errorf("model: encoding the header: %w", err)
	}
	for len(h)%8 != 0 {
		h = append(h, ' ')
	}
	var size [8]byte
	binary.LittleEndian.PutUint64(size[:], uint64(len(h)))
	var n int64
	for _, b := range [][]byte{size[:], h} {
		k, err := w.Write(b)
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
	buf := make([]byte, 0, 1<<16)
	for _, t := range f.Tensors {
		for i, v := range t.Data {
			if dtype == BF16 {
				buf = binary.LittleEndian.AppendUint16(buf, bfloat16(v))
			} else {
				buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
			}
			if len(buf) == cap(buf) || i == len(t.Data)-1 {
				k, err := w.Write(buf)
				n += int64(k)
				if err != nil {
					return n, err
				}
				buf = buf[:0]
			}
		}
	}
	return n, nil
}

// ReadFile reads a safetensors file of at most 4 GiB to its end.
func ReadFile(r io.Reader) (*File, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxData+maxHeader))
	if err != nil {
		return nil, err
	}
	return Decode(b)
}

// Decode decodes a safetensors file from memory. The result does not alias b.
func Decode(b []byte) (*File, error) {
	if len(b) < 8 {
		return nil, fmt.Errorf("%w: %d bytes are too few for a safetensors file", ErrParams, len(b))
	}
	n := binary.LittleEndian.Uint64(b)
	if n > maxHeader || n > uint64(len(b)-8) {
		return nil, fmt.Errorf("%w: header of %d bytes in a file of %d", ErrParams, n, len(b))
	}
	data := b[8+n:]
	if int64(len(data)) > maxData {
		return nil, fmt.Errorf("%w: %d bytes of data, more than %d", ErrParams, len(data), int64(maxData))
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b[8:8+n], &raw); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrParams, err)
	}
	if len(raw) > maxTensors {
		return nil, fmt.Errorf("%w: %d tensors, more than %d", ErrParams, len(raw), maxTensors)
	}
	f := &File{}
	spans := map[string][2]int64{}
	var claimed int64
	for name, r := range raw {
		if name == "__metadata__" {
			if err := json.Unmarshal(r, &f.Metadata); err != nil {
				return nil, fmt.Errorf("%w: metadata: %w", ErrParams, err)
			}
			continue
		}
		var e entry
		if err := json.Unmarshal(r, &e); err != nil {
			return nil, fmt.Errorf("%w: tensor %q: %w", ErrParams, name, err)
		}
		width := e.DType.size()
		if width == 0 {
			return nil, fmt.Errorf("%w: tensor %q has type %q, want %s or %s", ErrParams, name, e.DType, F32, BF16)
		}
		count := int64(1)
		for _, d := range e.Shape {
			if d < 0 || (d > 0 && count > maxData/int64(d)) {
				return nil, fmt.Errorf("%w: tensor %q has shape %v", ErrParams, name, e.Shape)
			}
			count *= int64(d)
		}
		lo, hi := e.Offsets[0], e.Offsets[1]
		if lo < 0 || hi < lo || hi > int64(len(data)) || hi-lo != width*count {
			return nil, fmt.Errorf("%w: tensor %q of shape %v at bytes [%d, %d) of %d", ErrParams, name, e.Shape, lo, hi, len(data))
		}
		if claimed += hi - lo; claimed > int64(len(data)) {
			return nil, fmt.Errorf("%w: tensors claim more than the %d bytes of data", ErrParams, len(data))
		}
		t := Tensor{Name: name, Shape: e.Shape, Data: make([]float32, count)}
		e.DType.decode(t.Data, data[lo:hi])
		spans[name] = e.Offsets
		f.Tensors = append(f.Tensors, t)
	}
	sort.Slice(f.Tensors, func(i, j int) bool {
		a, b := f.Tensors[i], f.Tensors[j]
		if x, y := spans[a.Name][0], spans[b.Name][0]; x != y {
			return x < y
		}
		return a.Name < b.Name
	})
	var at int64
	for _, t := range f.Tensors {
		span := spans[t.Name]
		if span[0] != at {
			return nil, fmt.Errorf("%w: tensor %q starts at byte %d, want %d: tensors must tile the data", ErrParams, t.Name, span[0], at)
		}
		at = span[1]
	}
	if at != int64(len(data)) {
		return nil, fmt.Errorf("%w: %d bytes of data, tensors take %d", ErrParams, len(data), at)
	}
	return f, nil
}
