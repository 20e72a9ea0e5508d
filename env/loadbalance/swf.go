package loadbalance

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// swfFields is the number of fields of a job in Standard Workload Format 2.2 (Chapin et al., 1999; Parallel Workloads
// Archive). Field 2 is the submit time and field 4 the run time, in seconds.
const swfFields = 18

type swfReader struct {
	name string
	scan *bufio.Scanner
	line int
}

func newSWFReader(name string, r io.Reader) *swfReader {
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, maxRow)
	return &swfReader{name: name, scan: scan}
}

func (s *swfReader) next() (row, error) {
	for scanLine(s.scan, &s.line) {
		text := strings.TrimSpace(s.scan.Text())
		if text == "" || text[0] == ';' {
			continue
		}
		fields := strings.Fields(text)
		if len(fields) != swfFields {
			return row{}, fmt.Errorf("%s:%d: %d fields, want the %d of Standard Workload Format", s.name, s.line, len(fields), swfFields)
		}
		arrival, err := parseSeconds(fields[1])
		if err != nil {
			return row{}, fmt.Errorf("%s:%d: submit time (field 2): %w", s.name, s.line, err)
		}
		size, err := parseSeconds(fields[3])
		if err != nil {
			return row{}, fmt.Errorf("%s:%d: run time (field 4): %w", s.name, s.line, err)
		}
		return row{line: s.line, arrival: arrival, size: size, kept: true}, nil
	}
	if err := s.scan.Err(); err != nil {
		return row{}, fmt.Errorf("%s:%d: %w", s.name, s.line+1, cutShort(err))
	}
	return row{}, io.EOF
}

// parseSeconds reads a finite number of a size that time units can hold.
func parseSeconds(s string) (float64, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q is no number", s)
	}
	if !(math.Abs(v) <= maxSeconds) {
		return 0, fmt.Errorf("%.40s is out of range (at most %g)", s, float64(maxSeconds))
	}
	return v, nil
}
