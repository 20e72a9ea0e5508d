package model

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"
)

func encode(t testing.TB, f *File) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := f.WriteTo(&b)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(b.Len()) {
		t.Fatalf("WriteTo says %d bytes, wrote %d", n, b.Len())
	}
	return b.Bytes()
}

func sample() *File {
	return &File{
		Tensors: []Tensor{
			{Name: "b", Shape: []int{2, 3}, Data: []float32{1, -2, 3.5, 0, float32(math.Inf(1)), 1e-40}},
			{Name: "a", Shape: []int{1}, Data: []float32{7}},
			{Name: "scalar", Shape: []int{}, Data: []float32{8}},
			{Name: "none", Shape: []int{0, 4}, Data: []float32{}},
		},
		Metadata: map[string]string{"step": "17"},
	}
}

func TestFileRoundTrip(t *testing.T) {
	f := sample()
	b := encode(t, f)
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, encode(t, got)) {
		t.Error("decoding and encoding changes the file")
	}
	if got.Metadata["step"] != "17" || len(got.Tensors) != 4 {
		t.Errorf("decoded %+v", got)
	}
	for i, want := range f.Tensors {
		g := got.ByName()[want.Name]
		if !sameShape(g.Shape, want.Shape) || len(g.Data) != len(want.Data) {
			t.Errorf("tensor %d: %+v, want %+v", i, g, want)
			continue
		}
		for k := range want.Data {
			if math.Float32bits(g.Data[k]) != math.Float32bits(want.Data[k]) {
				t.Errorf("%s[%d] is %v, want %v", want.Name, k, g.Data[k], want.Data[k])
			}
		}
	}
	read, err := ReadFile(bytes.NewReader(b))
	if err != nil || !bytes.Equal(b, encode(t, read)) {
		t.Errorf("reading differs from decoding: %v", err)
	}
	twice := &File{Tensors: []Tensor{f.Tensors[1], f.Tensors[1]}}
	if _, err := twice.WriteTo(&bytes.Buffer{}); err == nil {
		t.Error("a file with one name twice was written")
	}
}

// withHeader is a file of the given header and eight bytes of data.
func withHeader(h string) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(h)))
	return append(append(b, h...), make([]byte, 8)...)
}

func TestDecodeRefusesDamage(t *testing.T) {
	good := encode(t, sample())
	for n := range good {
		if _, err := Decode(good[:n]); !errors.Is(err, ErrParams) {
			t.Fatalf("a file cut to %d of %d bytes: error %v", n, len(good), err)
		}
	}
	if _, err := Decode(append(bytes.Clone(good), 0)); !errors.Is(err, ErrParams) {
		t.Errorf("a byte too many: error %v", err)
	}
	if _, err := Decode(withHeader(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`)); err != nil {
		t.Fatalf("a good file: %v", err)
	}
	for _, h := range []string{
		`{"a":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}}`,
		`{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,8]}}`,
		`{"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`,
		`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`,
		`{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}`,
		`{"a":{"dtype":"F32","shape":[-1,-2],"data_offsets":[0,8]}}`,
		`{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}`,
		`{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}`,
		`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`,
		`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`,
		`{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}`,
		`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`,
		`{"a":[]}`, `[]`, `{`, ``, `{"__metadata__":{"x":1}}`,
	} {
		if f, err := Decode(withHeader(h)); !errors.Is(err, ErrParams) {
			t.Errorf("%s: %+v, error %v", h, f, err)
		}
	}
	huge := binary.LittleEndian.AppendUint64(nil, 1<<62)
	if _, err := Decode(append(huge, good...)); !errors.Is(err, ErrParams) {
		t.Errorf("a header of 2^62 bytes: error %v", err)
	}
}

// Whatever is decoded is well-formed and survives being written and read.
func FuzzDecode(f *testing.F) {
	f.Add(encode(f, sample()))
	f.Add(encode(f, &File{}))
	half := sample()
	half.DType = BF16
	f.Add(encode(f, half))
	f.Add(withHeader(`{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`))
	f.Add(withHeader(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`))
	f.Add(withHeader(`{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrParams) {
				t.Fatalf("error %v does not wrap ErrParams", err)
			}
			return
		}
		for _, x := range file.Tensors {
			n := 1
			for _, d := range x.Shape {
				n *= d
			}
			if n != len(x.Data) {
				t.Fatalf("%q has shape %v and %d values", x.Name, x.Shape, len(x.Data))
			}
		}
		again, err := Decode(encode(t, file))
		if err != nil {
			t.Fatalf("a decoded file cannot be read again: %v", err)
		}
		if len(again.Tensors) != len(file.Tensors) || len(again.Metadata) != len(file.Metadata) {
			t.Fatal("a decoded file changes when written")
		}
	})
}

// Assign takes all or nothing.
func TestAssign(t *testing.T) {
	a, err := NewParams(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	a.Init(newRand())
	blob, err := a.Blob([]byte("prefix"))
	if err != nil {
		t.Fatal(err)
	}
	if string(blob[:6]) != "prefix" {
		t.Error("Blob does not append")
	}
	file, err := Decode(blob[6:])
	if err != nil {
		t.Fatal(err)
	}
	b, _ := NewParams(testConfig())
	if err := Assign(b.Tensors(), file); !errors.Is(err, ErrParams) {
		t.Errorf("acting parameters taken for all: %v", err)
	}
	for _, v := range b.Data {
		if v != 0 {
			t.Fatal("a failed Assign changed parameters")
		}
	}
	if err := Assign(b.ActingTensors(), file); err != nil {
		t.Fatal(err)
	}
	for i, x := range b.ActingTensors() {
		for k, v := range a.ActingTensors()[i].Data {
			if x.Data[k] != v {
				t.Fatalf("%s[%d] is %v, want %v", x.Name, k, x.Data[k], v)
			}
		}
	}
	file.Tensors[3].Shape = []int{1, 1}
	if err := Assign(b.ActingTensors(), file); !errors.Is(err, ErrParams) {
		t.Errorf("another shape: error %v", err)
	}
}
