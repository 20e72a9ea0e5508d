package monitor

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// event is what the tests read of an Event.
type event struct {
	time    float64
	step    int64
	version string
	start   bool
	values  map[string]float32
}

// readEvents reads an event file by the published layout, independently of the writer.
func readEvents(t *testing.T, path string) []event {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	checksum := func(b []byte) uint32 {
		c := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
		return ((c >> 15) | (c << 17)) + 0xa282ead8
	}
	var events []event
	for len(data) > 0 {
		n := binary.LittleEndian.Uint64(data)
		if got := binary.LittleEndian.Uint32(data[8:]); got != checksum(data[:8]) {
			t.Fatalf("event %d: length checksum %x", len(events), got)
		}
		body := data[12 : 12+n]
		if got := binary.LittleEndian.Uint32(data[12+n:]); got != checksum(body) {
			t.Fatalf("event %d: checksum %x", len(events), got)
		}
		data = data[16+n:]
		var e event
		eachField(t, body, func(number protowire.Number, bits uint64, bytes []byte) {
			switch number {
			case 1:
				e.time = math.Float64frombits(bits)
			case 2:
				e.step = int64(bits)
			case 3:
				e.version = string(bytes)
			case 5:
				e.values = make(map[string]float32)
				eachField(t, bytes, func(_ protowire.Number, _ uint64, value []byte) {
					var tag string
					var x float32
					eachField(t, value, func(number protowire.Number, bits uint64, bytes []byte) {
						if number == 1 {
							tag = string(bytes)
						} else {
							x = math.Float32frombits(uint32(bits))
						}
					})
					e.values[tag] = x
				})
			case 7:
				eachField(t, bytes, func(number protowire.Number, bits uint64, _ []byte) { e.start = number == 1 && bits == 1 })
			}
		})
		events = append(events, e)
	}
	return events
}

func eachField(t *testing.T, b []byte, fn func(number protowire.Number, bits uint64, bytes []byte)) {
	t.Helper()
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		b = b[n:]
		var bits uint64
		var bytes []byte
		switch kind {
		case protowire.VarintType:
			bits, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			bits, n = protowire.ConsumeFixed64(b)
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(b)
			bits = uint64(v)
		default:
			bytes, n = protowire.ConsumeBytes(b)
		}
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		fn(number, bits, bytes)
		b = b[n:]
	}
}

func TestMaskedCRC(t *testing.T) {
	// RFC 3720's check value of CRC-32C over 32 zero bytes is 8a9136aa.
	crc := uint32(0x8a9136aa)
	if got, want := maskedCRC(make([]byte, 32)), crc>>15|crc<<17; got-0xa282ead8 != want {
		t.Errorf("masked checksum %x is not made from %x", got, crc)
	}
}

func TestEventFilesOfARunAndItsResumption(t *testing.T) {
	dir := t.TempDir()
	now := time.UnixMilli(1700000000500)
	for _, start := range []int64{0, 300} {
		r := openRecorder(t, RecorderConfig{Dir: dir, Step: start, Now: func() time.Time { return now }})
		if err := r.Record(start+150, map[string]float64{"loss/model": 2.5, "reward": -1}); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "events.out.tfevents.*"))
	if err != nil || len(files) != 2 || !slices.IsSorted(files) {
		t.Fatalf("event files %v, %v", files, err)
	}
	for i, want := range [][]event{
		{{time: 1700000000.5, version: "brain.Event:2"}, {time: 1700000000.5, start: true},
			{time: 1700000000.5, step: 150, values: map[string]float32{"loss/model": 2.5, "reward": -1}}},
		{{time: 1700000000.5, version: "brain.Event:2"}, {time: 1700000000.5, step: 301, start: true},
			{time: 1700000000.5, step: 450, values: map[string]float32{"loss/model": 2.5, "reward": -1}}},
	} {
		if got := readEvents(t, files[i]); !reflect.DeepEqual(got, want) {
			t.Errorf("file %d\ngot  %+v\nwant %+v", i, got, want)
		}
	}
}
