package monitor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
)

// maxLine bounds a line of metrics.jsonl: some ten thousand values.
const maxLine = 1 << 20

// Metrics is one line of metrics.jsonl. Time is in seconds since 1970 and 0 where it was left
// out; values that were no finite numbers are NaN.
type Metrics struct {
	Step   int64
	Time   float64
	Values map[string]float64
}

// ReadMetrics reads the metrics of a run folder. A last line torn by a crash is left out.
func ReadMetrics(dir string) ([]Metrics, error) {
	var lines []Metrics
	path := filepath.Join(dir, MetricsFile)
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	defer f.Close()
	err = scanMetrics(f, path, func(_ int64, _ []byte, m Metrics) error {
		lines = append(lines, m)
		return nil
	}, func(err error) error { return err })
	return lines, err
}

// scanMetrics calls fn with each whole line, its newline included, and where it begins, and bad with
// why a line is none. An error of theirs ends the scan.
func scanMetrics(r io.Reader, path string, fn func(at int64, line []byte, m Metrics) error, bad func(error) error) error {
	in := bufio.NewReaderSize(r, maxLine)
	var at int64
	for number := 1; ; number++ {
		line, err := in.ReadSlice('\n')
		if err == io.EOF {
			return nil // with or without a torn line
		}
		next := at + int64(len(line))
		var m Metrics
		switch {
		case err == nil:
			m, err = parseMetrics(line)
		case errors.Is(err, bufio.ErrBufferFull):
			err = fmt.Errorf("no line of metrics: more than %d bytes", maxLine)
			for rest := error(bufio.ErrBufferFull); errors.Is(rest, bufio.ErrBufferFull); {
				line, rest = in.ReadSlice('\n')
				next += int64(len(line))
			}
		default:
			return fmt.Errorf("%s:%d: %w", path, number, err)
		}
		if err == nil {
			err = fn(at, line, m)
		} else {
			err = bad(fmt.Errorf("%s:%d: %w", path, number, err))
		}
		if err != nil {
			return err
		}
		at = next
	}
}

func parseMetrics(line []byte) (Metrics, error) {
	var fields map[string]*float64
	if err := json.Unmarshal(line, &fields); err != nil {
		return Metrics{}, fmt.Errorf("no line of metrics: %w", err)
	}
	step := fields["step"]
	if step == nil || *step != math.Trunc(*step) || math.Abs(*step) > 1<<53 {
		return Metrics{}, errors.New("no line of metrics: step is no whole number")
	}
	m := Metrics{Step: int64(*step), Values: make(map[string]float64, len(fields))}
	if t := fields["time"]; t != nil {
		m.Time = *t
	}
	delete(fields, "step")
	delete(fields, "time")
	for name, v := range fields {
		m.Values[name] = math.NaN()
		if v != nil {
			m.Values[name] = *v
		}
	}
	return m, nil
}

// cutMetrics drops the lines beyond step, all of them where the run begins at 0, and a torn last
// line. Of the lines at step it drops those with the value ending. A line that is none is dropped with
// a warning, so that it does not keep a run from going on. What stays is given to kept, line by line.
//
// What is dropped is the end of the file, unless the file is damaged: then the file is cut where it
// lies, and a run of days needs neither memory nor disk for it.
func cutMetrics(path string, step int64, ending string, kept func(Metrics), warn func(error)) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("resume metrics: %w", err)
	}
	stays := func(m Metrics) bool {
		_, ended := m.Values[ending]
		return step > 0 && (m.Step < step || m.Step == step && !ended)
	}
	var end, size int64 // of the last line that stays; of the lines that stay
	err = scanMetrics(f, path, func(at int64, line []byte, m Metrics) error {
		if stays(m) {
			end, size = at+int64(len(line)), size+int64(len(line))
			if kept != nil {
				kept(m)
			}
		}
		return nil
	}, func(err error) error {
		if warn != nil {
			warn(err)
		}
		return nil
	})
	switch {
	case err != nil:
	case end == size:
		err = errors.Join(f.Truncate(end), f.Sync())
	default:
		_, err = f.Seek(0, io.SeekStart)
		if err == nil {
			err = writeAside(path, func(w io.Writer) error {
				return scanMetrics(f, path, func(_ int64, line []byte, m Metrics) error {
					if !stays(m) {
						return nil
					}
					_, err := w.Write(line)
					return err
				}, func(error) error { return nil })
			})
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("resume metrics: %w", err)
	}
	return nil
}

// WriteAside replaces a file at once: a crash leaves the old one or the new one.
func WriteAside(path string, content []byte) error {
	return writeAside(path, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

func writeAside(path string, write func(io.Writer) error) error {
	aside, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	out := bufio.NewWriter(aside)
	err = errors.Join(write(out), out.Flush(), aside.Chmod(0o644), aside.Sync(), aside.Close())
	if err == nil {
		err = os.Rename(aside.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(aside.Name()))
	}
	return nil
}

// appendJSONFloat writes the shortest decimal that reads back as v.
func appendJSONFloat(dst []byte, v float64) []byte {
	format := byte('f')
	if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, v, format, -1, 64)
}

func appendJSONString(dst []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string has an encoding
	}
	return append(dst, quoted...)
}

// LastMetrics reads the last whole line of a run folder's metrics, without those before it.
func LastMetrics(dir string) (Metrics, error) {
	path := filepath.Join(dir, MetricsFile)
	f, err := os.Open(path)
	if err != nil {
		return Metrics{}, fmt.Errorf("read metrics: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Metrics{}, fmt.Errorf("read metrics: %w", err)
	}
	tail := make([]byte, min(info.Size(), maxLine))
	n, err := f.ReadAt(tail, info.Size()-int64(len(tail)))
	if err != nil && err != io.EOF {
		return Metrics{}, fmt.Errorf("read metrics: %w", err)
	}
	tail = tail[:n]
	end := bytes.LastIndexByte(tail, '\n')
	if end < 0 {
		return Metrics{}, fmt.Errorf("%w: %s has no line", ErrDamaged, path)
	}
	return parseMetrics(tail[bytes.LastIndexByte(tail[:end], '\n')+1 : end])
}
