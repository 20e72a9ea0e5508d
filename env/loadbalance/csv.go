package loadbalance

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// timeLayouts are the timestamps that a CSV file's arrivals may be written in. Fractions of seconds may follow the
// seconds of each; where there is no zone it is UTC, which only shifts all arrivals alike.
var timeLayouts = []string{
	time.RFC3339,
	"2006-01-02T15:04:05",
	"2006-01-02 15:04:05",
	"2006-01-02 15:04:05Z07:00",
	"2006-01-02 15:04:05 -0700",
	"2006-01-02 15:04:05 MST",
	"2006/01/02 15:04:05",
	"02/Jan/2006:15:04:05 -0700", // web server logs
}

type csvReader struct {
	name   string
	in     *csv.Reader
	guard  *rowGuard
	layout string // of timestamps, "" for numbers; chosen by the first arrival
	began  bool
	line   int // of the last row read

	arrival, size, filter int // columns; filter is -1 where all rows are kept
	want                  string
	columns               [2]string
}

func newCSVReader(name string, r io.Reader, cfg WorkloadConfig) (*csvReader, error) {
	guard := &rowGuard{r: r}
	c := &csvReader{name: name, in: csv.NewReader(guard), guard: guard, filter: -1, columns: [2]string{cfg.Arrival, cfg.Size}}
	c.in.ReuseRecord = true
	header, err := c.record()
	if err == io.EOF {
		return nil, fmt.Errorf("%s:1: empty, want a header of column names", name)
	}
	if err != nil {
		return nil, err
	}
	header[0] = strings.TrimPrefix(header[0], "\ufeff")
	find := func(column string) int {
		i := slices.IndexFunc(header, func(h string) bool { return strings.TrimSpace(h) == column })
		if i < 0 && err == nil {
			err = fmt.Errorf("%s:1: no column %q among %.200q", name, column, header)
		}
		return i
	}
	c.arrival, c.size = find(cfg.Arrival), find(cfg.Size)
	if cfg.Filter != "" {
		column, value, _ := strings.Cut(cfg.Filter, "=")
		c.filter, c.want = find(column), value
	}
	return c, err
}

// record reads the next row; errors name the file and the line.
func (c *csvReader) record() ([]string, error) {
	c.guard.left = maxRow
	fields, err := c.in.Read()
	var bad *csv.ParseError
	switch {
	case err == io.EOF:
		return nil, err
	case err == nil:
		c.line, _ = c.in.FieldPos(0)
		return fields, nil
	case errors.As(err, &bad):
		return nil, fmt.Errorf("%s:%d: %w", c.name, bad.Line, bad.Err)
	}
	return nil, fmt.Errorf("%s:%d: %w", c.name, c.line+1, cutShort(err))
}

func (c *csvReader) next() (row, error) {
	fields, err := c.record()
	if err != nil {
		return row{}, err
	}
	if c.filter >= 0 && fields[c.filter] != c.want {
		return row{line: c.line}, nil
	}
	arrival, err := c.parseArrival(strings.TrimSpace(fields[c.arrival]))
	if err != nil {
		return row{}, fmt.Errorf("%s:%d: column %q: %w", c.name, c.line, c.columns[0], err)
	}
	size, err := parseSeconds(strings.TrimSpace(fields[c.size]))
	if err != nil {
		return row{}, fmt.Errorf("%s:%d: column %q: %w", c.name, c.line, c.columns[1], err)
	}
	return row{line: c.line, arrival: arrival, size: size, kept: true}, nil
}

// parseArrival returns seconds. The first arrival decides how all are written: one file has one way.
func (c *csvReader) parseArrival(s string) (float64, error) {
	if !c.began {
		c.began = true
		for _, layout := range timeLayouts {
			if _, err := time.Parse(layout, s); err == nil {
				c.layout = layout
				break
			}
		}
	}
	if c.layout == "" {
		v, err := parseSeconds(s)
		if err != nil {
			err = fmt.Errorf("%w, nor a timestamp as %s", err, time.DateTime)
		}
		return v, err
	}
	t, err := time.Parse(c.layout, s)
	if err != nil {
		return 0, fmt.Errorf("%.40q is no timestamp like the first row's (%s)", s, c.layout)
	}
	return float64(t.Unix()) + float64(t.Nanosecond())/1e9, nil
}

// rowGuard fails a read once a row has taken more than left bytes beyond what the CSV reader buffers: an unclosed
// quote would otherwise pull the rest of a file into one field.
type rowGuard struct {
	r    io.Reader
	left int
}

func (g *rowGuard) Read(p []byte) (int, error) {
	if g.left <= 0 {
		return 0, fmt.Errorf("a row of more than %d bytes; is a quote left open?", maxRow)
	}
	n, err := g.r.Read(p)
	g.left -= n
	return n, err
}
