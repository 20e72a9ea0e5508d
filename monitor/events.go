package monitor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of TensorFlow's event.proto and summary.proto.
const (
	eventWallTime    = 1 // double
	eventStep        = 2 // int64
	eventFileVersion = 3 // string
	eventSummary     = 5 // Summary
	eventSessionLog  = 7 // SessionLog

	summaryValue     = 1 // repeated Value
	valueTag         = 1 // string
	valueSimpleValue = 2 // float

	sessionStatus = 1 // enum
	sessionStart  = 1
)

// eventWriter appends scalars to a TensorBoard event file: TFRecord frames, each a length, its
// checksum, an Event and its checksum.
type eventWriter struct {
	file                  *os.File
	frame, event, summary []byte
	value                 []byte
}

// openEvents begins an event file of its own, as every start of a run does: TensorBoard reads all
// files of a folder in the order of their names. The step at which the run goes on is written first,
// and TensorBoard forgets what older files have beyond it.
func openEvents(dir string, step int64, now float64) (*eventWriter, error) {
	for n := 0; ; n++ {
		name := fmt.Sprintf("events.out.tfevents.%010d.dreamfleet.%04d", int64(now), n)
		file, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open TensorBoard events: %w", err)
		}
		w := &eventWriter{file: file}
		if err := w.begin(step, now); err != nil {
			return nil, errors.Join(fmt.Errorf("write TensorBoard events: %w", err), file.Close())
		}
		return w, nil
	}
}

func (w *eventWriter) begin(step int64, now float64) error {
	w.head(now, 0)
	w.event = protowire.AppendTag(w.event, eventFileVersion, protowire.BytesType)
	w.event = protowire.AppendString(w.event, "brain.Event:2")
	if err := w.write(); err != nil {
		return err
	}
	if step > 0 {
		step++ // what is older than the step itself stays
	}
	w.value = protowire.AppendTag(w.value[:0], sessionStatus, protowire.VarintType)
	w.value = protowire.AppendVarint(w.value, sessionStart)
	w.head(now, step) // events of this step and later ones are forgotten
	w.event = protowire.AppendTag(w.event, eventSessionLog, protowire.BytesType)
	w.event = protowire.AppendBytes(w.event, w.value)
	return w.write()
}

// scalars writes one event with the values in the order of names.
func (w *eventWriter) scalars(step int64, now float64, names []string, values map[string]float64) error {
	w.summary = w.summary[:0]
	for _, name := range names {
		w.value = protowire.AppendTag(w.value[:0], valueTag, protowire.BytesType)
		w.value = protowire.AppendString(w.value, name)
		w.value = protowire.AppendTag(w.value, valueSimpleValue, protowire.Fixed32Type)
		w.value = protowire.AppendFixed32(w.value, math.Float32bits(float32(values[name])))
		w.summary = protowire.AppendTag(w.summary, summaryValue, protowire.BytesType)
		w.summary = protowire.AppendBytes(w.summary, w.value)
	}
	w.head(now, step)
	w.event = protowire.AppendTag(w.event, eventSummary, protowire.BytesType)
	w.event = protowire.AppendBytes(w.event, w.summary)
	return w.write()
}

func (w *eventWriter) head(now float64, step int64) {
	w.event = protowire.AppendTag(w.event[:0], eventWallTime, protowire.Fixed64Type)
	w.event = protowire.AppendFixed64(w.event, math.Float64bits(now))
	w.event = protowire.AppendTag(w.event, eventStep, protowire.VarintType)
	w.event = protowire.AppendVarint(w.event, uint64(step))
}

// write frames the event. One write a frame: a crash tears at most the last one, where readers
// stop.
func (w *eventWriter) write() error {
	w.frame = binary.LittleEndian.AppendUint64(w.frame[:0], uint64(len(w.event)))
	w.frame = binary.LittleEndian.AppendUint32(w.frame, maskedCRC(w.frame))
	w.frame = append(w.frame, w.event...)
	w.frame = binary.LittleEndian.AppendUint32(w.frame, maskedCRC(w.event))
	_, err := w.file.Write(w.frame)
	return err
}

func (w *eventWriter) close() error { return errors.Join(w.file.Sync(), w.file.Close()) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maskedCRC is TFRecord's checksum: CRC-32C, rotated and offset so that the checksum of data which
// holds checksums is not weak.
func maskedCRC(data []byte) uint32 {
	c := crc32.Checksum(data, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}
