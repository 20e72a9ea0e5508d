package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

func openRecorder(t *testing.T, cfg RecorderConfig) *Recorder {
	t.Helper()
	r, err := OpenRecorder(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func readFile(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRecorderWritesSortedExactLines(t *testing.T) {
	dir := t.TempDir()
	now := time.UnixMilli(1700000000250)
	r := openRecorder(t, RecorderConfig{Dir: dir, Now: func() time.Time { return now }})
	values := map[string]float64{
		"z": 1.0 / 3, "a": math.NaN(), "loss/model": -0.5, "n": 1e6, "tiny": 5e-324, "huge": math.MaxFloat64, `q"`: 0, "inf": math.Inf(-1),
	}
	if err := r.Record(7, values); err != nil {
		t.Fatal(err)
	}
	line := readFile(t, dir, MetricsFile)
	want := `{"step":7,"time":1700000000.250,"a":null,"huge":1.7976931348623157e+308,"inf":null,"loss/model":-0.5,"n":1000000,"q\"":0,"tiny":5e-324,"z":0.3333333333333333}` + "\n"
	if line != want {
		t.Errorf("got  %swant %s", line, want)
	}
	if n := r.NonFinite(); n != 2 {
		t.Errorf("%d values counted as not finite, want 2", n)
	}
	back, err := ReadMetrics(dir)
	if err != nil || len(back) != 1 {
		t.Fatalf("%d lines, %v", len(back), err)
	}
	if back[0].Step != 7 || back[0].Time != 1700000000.25 {
		t.Errorf("read back step %d, time %v", back[0].Step, back[0].Time)
	}
	for name, v := range values {
		got := back[0].Values[name]
		if null := math.IsNaN(v) || math.IsInf(v, 0); null != math.IsNaN(got) || !null && got != v {
			t.Errorf("%s: wrote %v, read %v", name, v, got)
		}
	}
	if err := r.Record(8, map[string]float64{"time": 1}); err == nil {
		t.Error("a value named time was taken")
	}
}

func TestLockstepWritesTheSameBytes(t *testing.T) {
	var files [2]map[string]string
	for i := range files {
		dir := t.TempDir()
		r := openRecorder(t, RecorderConfig{Dir: dir})
		for step := range int64(20) {
			if err := r.Record(step, map[string]float64{"a": math.Sqrt(float64(step)), "b": 1, "c": 2, "d": 3}); err != nil {
				t.Fatal(err)
			}
		}
		files[i] = make(map[string]string)
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			files[i][e.Name()] = readFile(t, dir, e.Name())
		}
	}
	if len(files[0]) != 2 || !reflect.DeepEqual(files[0], files[1]) {
		t.Errorf("two runs wrote different files: %v", files)
	}
	if strings.Contains(files[0][MetricsFile], "time") {
		t.Error("a time was written")
	}
}

func TestResumeDropsLaterAndTornLines(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, MetricsFile)
	text := "{\"step\":10,\"time\":1.5,\"a\":1}\n{\"step\":20,\"a\":2}\n{\"step\":20,\"b\":2}\n{\"step\":30,\"a\":3}\n{\"step\":40,\"a"
	for _, test := range []struct {
		step int64
		want string
	}{
		{20, "{\"step\":10,\"time\":1.5,\"a\":1}\n{\"step\":20,\"a\":2}\n{\"step\":20,\"b\":2}\n"},
		{100, text[:strings.LastIndex(text, "{")]},
		{0, ""},
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		kept := 0
		r := openRecorder(t, RecorderConfig{Dir: dir, Step: test.step, Kept: func(Metrics) { kept++ }})
		if err := r.Record(test.step+1, nil); err != nil {
			t.Fatal(err)
		}
		if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
			t.Errorf("resumed at %d: the file was copied (%v)", test.step, err)
		}
		if want := strings.Count(test.want, "\n"); kept != want {
			t.Errorf("resumed at %d: told of %d lines, want %d", test.step, kept, want)
		}
		got := readFile(t, path)
		if kept := got[:strings.LastIndex(got, "{")]; kept != test.want {
			t.Errorf("resumed at %d:\ngot  %q\nwant %q", test.step, kept, test.want)
		}
	}
}

func TestMetricsThatAreNone(t *testing.T) {
	for _, line := range []string{"x\n", "{}\n", `{"step":1.5}` + "\n", `{"step":null}` + "\n", `{"step":1,"a":"b"}` + "\n", "[1]\n", strings.Repeat(" ", maxLine+1) + "\n"} {
		dir := t.TempDir()
		path := filepath.Join(dir, MetricsFile)
		if err := os.WriteFile(path, []byte("{\"step\":1}\n"+line), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadMetrics(dir); err == nil || !strings.Contains(err.Error(), path+":2: ") {
			t.Errorf("%.40q: read with %v", line, err)
		}
		// A run goes on without the line, and says so.
		if err := os.WriteFile(path, []byte("{\"step\":1}\n"+line+"{\"step\":2}\n"+line), 0o644); err != nil {
			t.Fatal(err)
		}
		var warned []error
		openRecorder(t, RecorderConfig{Dir: dir, Step: 5, Warn: func(err error) { warned = append(warned, err) }})
		if len(warned) != 2 || !strings.Contains(warned[0].Error(), path+":2: ") || !strings.Contains(warned[1].Error(), path+":4: ") {
			t.Errorf("%.40q: warned of %v", line, warned)
		}
		if got := readFile(t, path); got != "{\"step\":1}\n{\"step\":2}\n" {
			t.Errorf("%.40q: left %.80q", line, got)
		}
	}
}

// fullDisk takes half of what is written to it once.
type fullDisk struct {
	metricsFile
	full bool
}

func (f *fullDisk) Write(b []byte) (int, error) {
	if !f.full {
		return f.metricsFile.Write(b)
	}
	f.full = false
	n, err := f.metricsFile.Write(b[:len(b)/2])
	return n, errors.Join(err, errors.New("no space"))
}

// Half a line must not become part of the next one.
func TestFailedWriteLeavesNoPartOfALine(t *testing.T) {
	dir := t.TempDir()
	r := openRecorder(t, RecorderConfig{Dir: dir})
	disk := &fullDisk{metricsFile: r.metrics}
	r.metrics = disk
	for step := range int64(3) {
		disk.full = step == 1
		if err := r.Record(step, map[string]float64{"a": 1}); (err != nil) != (step == 1) {
			t.Errorf("step %d: %v", step, err)
		}
	}
	if got, want := readFile(t, dir, MetricsFile), "{\"step\":0,\"a\":1}\n{\"step\":2,\"a\":1}\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What a run wrote when it ended is no part of it once it goes on.
func TestResumeDropsTheEnding(t *testing.T) {
	dir := t.TempDir()
	text := "{\"step\":10,\"e\":1}\n{\"step\":20,\"a\":2}\n{\"step\":20,\"e\":3}\n"
	if err := os.WriteFile(filepath.Join(dir, MetricsFile), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	openRecorder(t, RecorderConfig{Dir: dir, Step: 20, Ending: "e"})
	if got, want := readFile(t, dir, MetricsFile), "{\"step\":10,\"e\":1}\n{\"step\":20,\"a\":2}\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRecorderServesSeveralGoroutines(t *testing.T) {
	dir := t.TempDir()
	r := openRecorder(t, RecorderConfig{Dir: dir})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 50 {
				if err := r.Record(int64(i), map[string]float64{"g": float64(g), "nan": math.NaN()}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	lines, err := ReadMetrics(dir)
	if err != nil || len(lines) != 200 || r.NonFinite() != 200 {
		t.Errorf("%d lines, %d not finite, %v", len(lines), r.NonFinite(), err)
	}
}

// FuzzMetrics gives any line to the reader, which must answer with values or an error.
func FuzzMetrics(f *testing.F) {
	f.Add([]byte(`{"step":1,"time":2.5,"a":null,"b":-1e300}`))
	f.Add([]byte(`{"step":1e15}`))
	f.Add([]byte(`[{"step":{}}]`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := parseMetrics(line)
		if err == nil && !json.Valid(line) {
			t.Errorf("%q was read as %v", line, m)
		}
	})
}

// BenchmarkResume opens the metrics of a long run, of which the last hundred lines are beyond its
// checkpoint.
func BenchmarkResume(b *testing.B) {
	dir := b.TempDir()
	path := filepath.Join(dir, MetricsFile)
	values := map[string]float64{}
	for i := range 60 {
		values[fmt.Sprintf("loss/value%d", i)] = math.Sqrt(float64(i))
	}
	const lines = 10_000
	write := func(from, to int64) {
		r, err := OpenRecorder(RecorderConfig{Dir: dir, Step: from})
		if err != nil {
			b.Fatal(err)
		}
		for step := from; step < to; step++ {
			if err := r.Record(step+1, values); err != nil {
				b.Fatal(err)
			}
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
	write(0, lines)
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	b.ReportAllocs()
	for b.Loop() {
		history := NewHistory()
		r, err := OpenRecorder(RecorderConfig{Dir: dir, Step: lines - 100, Kept: func(m Metrics) { history.Add(m.Time, m.Values) }})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
		write(lines-100, lines)
		b.StartTimer()
	}
}
