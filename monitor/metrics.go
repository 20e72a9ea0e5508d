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
	err = scanMetrics(f, path, func(_ []byte, m Metrics) {
		lines = append(lines, m)
	}, func(err error) error { return err })
	return lines, err
}

// scanMetrics calls fn with each whole line, its newline included, and bad with why a line is none:
// its error ends the scan.
func scanMetrics(r io.Reader, path string, fn func(line []byte, m Metrics), bad func(error) error) error {
	in := bufio.NewReaderSize(r, maxLine)
	for number := 1; ; number++ {
		line, err := in.ReadSlice('\n')
		if err == io.EOF {
			return nil // with or without a torn line
		}
		var m Metrics
		switch {
		case err == nil:
			m, err = parseMetrics(line)
		case errors.Is(err, bufio.ErrBufferFull):
			err = fmt.Errorf("no line of metrics: more than %d bytes", maxLine)
			for rest := error(bufio.ErrBufferFull); errors.Is(rest, bufio.ErrBufferFull); {
				_, rest = in.ReadSlice('\n')
			}
		default:
			return fmt.Errorf("%s:%d: %w", path, number, err)
		}
		if err == nil {
			fn(line, m)
		} else if err := bad(fmt.Errorf("%s:%d: %w", path, number, err)); err != nil {
			return err
		}
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
// line, by writing the others aside and renaming. Of the lines at step it drops those with the value
// ending. A line that is none is dropped with a warning, so that it does not keep a run from going on.
func cutMetrics(path string, step int64, ending string, warn func(error)) error {
	whole, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("resume metrics: %w", err)
	}
	defer whole.Close()
	var kept bytes.Buffer
	err = scanMetrics(whole, path, func(line []byte, m Metrics) {
		_, ended := m.Values[ending]
		if step > 0 && (m.Step < step || m.Step == step && !ended) {
			kept.Write(line)
		}
	}, func(err error) error {
		if warn != nil {
			warn(err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("resume metrics: %w", err)
	}
	return WriteAside(path, kept.Bytes())
}

// WriteAside replaces a file at once: a crash leaves the old one or the new one.
func WriteAside(path string, content []byte) error {
	aside, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = aside.Write(content)
	err = errors.Join(err, aside.Chmod(0o644), aside.Sync(), aside.Close())
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
