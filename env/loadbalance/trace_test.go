package loadbalance

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func memory(b []byte) opener {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

func zipped(t testing.TB, text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func readTrace(cfg WorkloadConfig, content []byte) (*Trace, error) {
	cfg.File = "jobs"
	cfg.setDefaults()
	return openTrace(cfg, memory(content))
}

// allJobs returns every job of a trace.
func allJobs(t *testing.T, tr *Trace) JobList {
	t.Helper()
	src, err := tr.Episode(0, tr.Stats().Jobs)
	if err != nil {
		t.Fatal(err)
	}
	return draw(t, src, tr.Stats().Jobs)
}

func mustRead(t *testing.T, cfg WorkloadConfig, content []byte) *Trace {
	t.Helper()
	tr, err := readTrace(cfg, content)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

const requests = `id,start time,status,seconds
a,2024-11-15 16:57:50,SUCCEED,32.0
b,2024-11-15 16:57:55,FAILED,
c,2024-11-15 16:58:10,SUCCEED,0
"d, quoted",2024-11-15 16:58:20,SUCCEED,5.4
e,2024-11-15 16:58:20,SUCCEED,0.2
`

var requestColumns = WorkloadConfig{Kind: CSV, Arrival: "start time", Size: "seconds", Filter: "status=SUCCEED"}

func TestCSVTrace(t *testing.T) {
	for _, content := range [][]byte{[]byte(requests), zipped(t, requests), []byte("\ufeff" + strings.ReplaceAll(requests, "\n", "\r\n"))} {
		tr := mustRead(t, requestColumns, content)
		want := TraceStats{Rows: 5, Filtered: 1, Skipped: 1, Jobs: 3, MeanSize: 38. / 3, MeanGap: 15, Stretch: 1}
		if got := tr.Stats(); got != want {
			t.Errorf("stats %+v, want %+v", got, want)
		}
		if got, want := allJobs(t, tr), (JobList{{0, 32}, {30, 5}, {0, 1}}); !slices.Equal(got, want) {
			t.Errorf("jobs %v, want %v", got, want)
		}
	}
}

func TestTimeUnit(t *testing.T) {
	cfg := requestColumns
	cfg.Unit = 10
	if got, want := allJobs(t, mustRead(t, cfg, []byte(requests))), (JobList{{0, 320}, {300, 54}, {0, 2}}); !slices.Equal(got, want) {
		t.Errorf("jobs in tenths of a second %v, want %v", got, want)
	}
}

func TestArrivalLayouts(t *testing.T) {
	for _, c := range [][2]string{
		{"1700000000.25", "1700000002.75"},
		{"-5", "-2.5"},
		{"2024-02-29T23:59:59.5Z", "2024-03-01T00:00:02Z"},
		{"2024-02-29T23:59:59.5+01:00", "2024-02-29T23:00:02Z"},
		{"2024-02-29T23:59:59.5", "2024-03-01T00:00:02"},
		{"2024-02-29 23:59:59.5", "2024-03-01 00:00:02"},
		{"2024-02-29 23:59:59.5+02:00", "2024-03-01 00:00:02+02:00"},
		{"2024-02-29 23:59:59.5 -0800", "2024-03-01 00:00:02 -0800"},
		{"2024-02-29 23:59:59.5 UTC", "2024-03-01 00:00:02 UTC"},
		{"2024/02/29 23:59:59.5", "2024/03/01 00:00:02"},
		{"29/Feb/2024:23:59:59.5 +0000", "01/Mar/2024:00:00:02 +0000"},
	} {
		text := fmt.Sprintf("arrival,size\n %s ,1\n%s,1\n", c[0], c[1])
		tr, err := readTrace(WorkloadConfig{Kind: CSV, Unit: 2}, []byte(text))
		if err != nil {
			t.Errorf("%s: %v", c[0], err)
			continue
		}
		if got := allJobs(t, tr)[1].Gap; got != 5 {
			t.Errorf("%s to %s: %d half seconds, want 5", c[0], c[1], got)
		}
	}
}

func swfLine(submit, run any) string {
	return fmt.Sprintf("  1 %v -1 %v 128 -1 -1 -1 -1 -1 -1 1 1 -1 -1 -1 -1 -1\n", submit, run)
}

func TestSWFTrace(t *testing.T) {
	text := "; Version: 2.2\n;\n" + swfLine(10, 100) + swfLine(20, -1) + "\n" + swfLine(25, 0) + swfLine(30, 7) + "   ; a note\n" + swfLine(30, 8)
	for _, content := range [][]byte{[]byte(text), zipped(t, text)} {
		tr := mustRead(t, WorkloadConfig{Kind: SWF}, content)
		if s := tr.Stats(); s.Rows != 5 || s.Skipped != 2 || s.Jobs != 3 || s.Filtered != 0 {
			t.Errorf("stats %+v", s)
		}
		if got, want := allJobs(t, tr), (JobList{{0, 100}, {20, 7}, {0, 8}}); !slices.Equal(got, want) {
			t.Errorf("jobs %v, want %v", got, want)
		}
	}
}

func TestRowsOutOfOrder(t *testing.T) {
	tr := mustRead(t, WorkloadConfig{Kind: CSV}, []byte("arrival,size\n5,1\n9,2\n5,3\n2,4\n9,5\n"))
	if got, want := allJobs(t, tr), (JobList{{0, 4}, {3, 1}, {0, 3}, {4, 2}, {0, 5}}); !slices.Equal(got, want) {
		t.Errorf("jobs %v, want %v: by arrival, ties as in the file", got, want)
	}
	if n := tr.Stats().Unordered; n != 2 {
		t.Errorf("%d rows counted as out of order, want 2", n)
	}

	late := func(above int) string {
		var b strings.Builder
		b.WriteString("arrival,size\n")
		for i := range above {
			fmt.Fprintf(&b, "%d,1\n", i+10)
		}
		b.WriteString("3,1\n")
		return b.String()
	}
	if tr := mustRead(t, WorkloadConfig{Kind: CSV}, []byte(late(reorderWindow-1))); allJobs(t, tr)[1].Gap != 7 {
		t.Error("a row at the window's end was not put first")
	}
	_, err := readTrace(WorkloadConfig{Kind: CSV}, []byte(late(reorderWindow)))
	if want := fmt.Sprintf("jobs:%d: arrives before line 2", reorderWindow+2); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestRescalingToALoad(t *testing.T) {
	var b strings.Builder
	b.WriteString("arrival,size\n")
	at := 0.0
	for i := range 3000 {
		at += 0.1 + float64(i%7)*float64(i%5)
		fmt.Fprintf(&b, "%v,%d\n", at, 20+i%10)
	}
	tr := mustRead(t, WorkloadConfig{Kind: CSV}, []byte(b.String()))
	plain := allJobs(t, tr)
	if err := tr.Rescale(0.8, 6); err != nil {
		t.Fatal(err)
	}
	jobs := allJobs(t, tr)
	var size, span, before float64
	for i, j := range jobs {
		size += float64(j.Size)
		span += float64(j.Gap)
		before += float64(plain[i].Gap)
		// Every arrival is within a unit of its place on the stretched axis: rounding never adds up.
		if got, want := span, before*tr.Stats().Stretch; got > want+tr.Stats().Stretch+1 || got < want-1 {
			t.Fatalf("job %d arrives at %v, want %v", i, got, want)
		}
		if j.Size != plain[i].Size {
			t.Fatalf("size of job %d changed", i)
		}
	}
	mean := span / float64(len(jobs)-1)
	if load := size / float64(len(jobs)) / (mean * 6); math.Abs(load-0.8) > 1e-3 {
		t.Errorf("offered load %v, want 0.8", load)
	}
	once := mustRead(t, WorkloadConfig{Kind: CSV}, []byte("arrival,size\n3,1\n3,1\n"))
	if err := once.Rescale(0.5, 1); err == nil {
		t.Error("no error for jobs that all arrive at once")
	}
}

func TestEpisodesAreWindows(t *testing.T) {
	var b strings.Builder
	for i := range 500 {
		b.WriteString(swfLine(10*i*i, i+1)) // sizes tell the place
	}
	tr := mustRead(t, WorkloadConfig{Kind: SWF}, []byte(b.String()))
	starts := map[int64]bool{}
	for seed := range uint64(40) {
		src, err := tr.Episode(seed, 100)
		if err != nil {
			t.Fatal(err)
		}
		jobs := draw(t, src, 100)
		if _, err := src.Next(); err != io.EOF {
			t.Fatalf("after the window: %v, want io.EOF", err)
		}
		for i, j := range jobs {
			place := jobs[0].Size - 1 + int64(i)
			if j.Size != place+1 || j.Gap != max(0, 10*(2*place-1)) {
				t.Fatalf("seed %d, job %d: %v, want the one at place %d", seed, i, j, place)
			}
		}
		starts[jobs[0].Size] = true
		again, err := tr.Episode(seed, 100)
		if err != nil || !slices.Equal(draw(t, again, 100), jobs) {
			t.Fatalf("seed %d: another window the second time (%v)", seed, err)
		}
	}
	if len(starts) < 30 {
		t.Errorf("40 seeds have %d different windows", len(starts))
	}
	if _, err := tr.Episode(1, 501); err == nil || !strings.Contains(err.Error(), "there are 500") {
		t.Errorf("an episode longer than the trace: %v", err)
	}
	before, after := tr.Split(0.7)
	for part, first := range map[*Trace]int64{before: 1, after: 351} {
		for seed := range uint64(2) { // episodes by date: the first begins where the part does, the next where it ends
			src, err := Dated{part}.Episode(seed, 75)
			if err != nil {
				t.Fatal(err)
			}
			if jobs := draw(t, src, 75); jobs[0].Size != first+75*int64(seed) || jobs[74].Size != first+75*int64(seed)+74 {
				t.Errorf("episode %d by date has jobs %d to %d", seed, jobs[0].Size, jobs[74].Size)
			}
		}
	}
	if _, err := (Dated{after}).Episode(2, 75); err == nil || !strings.Contains(err.Error(), "150 jobs make 2 episodes of 75") {
		t.Errorf("an episode beyond the last: %v", err)
	}
	for seed := range uint64(40) {
		for _, c := range []struct {
			part        *Trace
			first, last int64
		}{{before, 1, 350}, {after, 351, 500}} {
			src, err := c.part.Episode(seed, 100)
			if err != nil {
				t.Fatal(err)
			}
			for _, j := range draw(t, src, 100) {
				if j.Size < c.first || j.Size > c.last {
					t.Fatalf("seed %d: job %d is not one of %d to %d", seed, j.Size, c.first, c.last)
				}
			}
		}
	}
}

func TestTraceErrorsNameFileAndLine(t *testing.T) {
	csvFile := func(rows string) string { return "arrival,size\n1,1\n" + rows }
	long := strings.Repeat("x", 3*maxRow)
	for _, c := range []struct{ kind, content, says string }{
		{CSV, "", "jobs:1: empty"},
		{CSV, "when,size\n", `jobs:1: no column "arrival"`},
		{CSV, csvFile("2,abc\n"), `jobs:3: column "size": "abc" is no number`},
		{CSV, csvFile("2,\n"), `jobs:3: column "size": "" is no number`},
		{CSV, csvFile("soon,1\n"), `jobs:3: column "arrival": "soon" is no number, nor a timestamp`},
		{CSV, csvFile("2,NaN\n"), `jobs:3: column "size": NaN is out of range`},
		{CSV, csvFile("1e300,1\n"), `jobs:3: column "arrival": 1e300 is out of range`},
		{CSV, csvFile("2\n"), "jobs:3: wrong number of fields"},
		{CSV, csvFile("\"2,1\n3,1\n"), "jobs:4: extraneous"},
		{CSV, csvFile("\"" + long), "jobs:3: a row of more than 65536 bytes"},
		{CSV, csvFile("2,1e12\n"), "jobs:3: a job of 1e+12 time units"},
		{CSV, "arrival,size\n1,0\n", "no jobs among 1 rows"},
		{CSV, "arrival,size\n2024-01-01 00:00:00,1\n5,1\n", `jobs:3: column "arrival": "5" is no timestamp like the first row's`},
		{CSV, csvFile("1e12,1\n"), "time units apart"},
		{SWF, "; nothing\n", "no jobs among 0 rows"},
		{SWF, swfLine(1, 1) + "1 2 3\n", "jobs:2: 3 fields, want the 18"},
		{SWF, swfLine("x", 1), `jobs:1: submit time (field 2): "x" is no number`},
		{SWF, ";\n\n" + swfLine(1, "+Inf"), "jobs:3: run time (field 4): +Inf is out of range"},
		{SWF, swfLine(1, 1) + long, "jobs:2: bufio.Scanner: token too long"},
		{SWF, string(zipped(t, strings.Repeat(swfLine(1, 1), 100))[:60]), "jobs:"},
		{CSV, "\x1f\x8bnot gzip", "jobs: "},
		{Poisson, "", "is no trace"},
	} {
		_, err := readTrace(WorkloadConfig{Kind: c.kind}, []byte(c.content))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %.40q: error %v, want one that says %q", c.kind, c.content, err, c.says)
		}
	}
	filter := WorkloadConfig{Kind: CSV, Filter: "status=ok"}
	if _, err := readTrace(filter, []byte(csvFile(""))); err == nil || !strings.Contains(err.Error(), `jobs:1: no column "status"`) {
		t.Errorf("a filter on a column that is not there: %v", err)
	}
	if _, err := OpenTrace(WorkloadConfig{Kind: SWF, File: filepath.Join(t.TempDir(), "none.swf")}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none.swf") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestTraceThatShrinks(t *testing.T) {
	contents := [][]byte{[]byte(swfLine(1, 1) + swfLine(2, 1)), []byte(swfLine(1, 1))}
	cfg := WorkloadConfig{Kind: SWF, File: "jobs"}
	cfg.setDefaults()
	tr, err := openTrace(cfg, func() (io.ReadCloser, error) {
		b := contents[0]
		contents = contents[1:]
		return io.NopCloser(bytes.NewReader(b)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Episode(1, 2); err == nil || !strings.Contains(err.Error(), "fewer jobs than when it was opened") {
		t.Errorf("error %v", err)
	}
}

// The traces belong to their owners and are not part of the project; where they lie beside it they must read.
func TestPublishedTraces(t *testing.T) {
	for _, c := range []struct {
		cfg  WorkloadConfig
		want TraceStats
	}{
		{WorkloadConfig{Kind: SWF, File: "NASA-iPSC-1993-3.1-cln.swf.gz"}, TraceStats{Rows: 18239, Skipped: 173, Jobs: 18066}},
		{WorkloadConfig{Kind: CSV, File: "alibaba-gentd26-lora-requests.csv.gz", Arrival: "gmt_create", Size: "exec_time_seconds",
			Filter: "predict_status=SUCCEED"}, TraceStats{Rows: 26823, Filtered: 431, Jobs: 26392}},
	} {
		c.cfg.File = filepath.Join("../../../shared/traces", c.cfg.File)
		if _, err := os.Stat(c.cfg.File); err != nil {
			t.Logf("%s is not here", c.cfg.File)
			continue
		}
		tr, err := OpenTrace(c.cfg)
		if err != nil {
			t.Error(err)
			continue
		}
		if s := tr.Stats(); s.Rows != c.want.Rows || s.Filtered != c.want.Filtered || s.Skipped != c.want.Skipped || s.Jobs != c.want.Jobs {
			t.Errorf("%s: %+v, want %+v", c.cfg.File, s, c.want)
		}
	}
}

// fuzzTrace checks that whatever is accepted makes episodes of valid jobs.
func fuzzTrace(t *testing.T, cfg WorkloadConfig, content []byte) {
	tr, err := readTrace(cfg, content)
	if err != nil {
		if !strings.Contains(err.Error(), "jobs") {
			t.Fatalf("error without the file's name: %v", err)
		}
		return
	}
	s := tr.Stats()
	if s.Rows != s.Jobs+s.Skipped+s.Filtered || s.Jobs < 1 || !(s.MeanSize >= 1) || !(s.MeanGap >= 0) {
		t.Fatalf("stats %+v", s)
	}
	if s.MeanGap > 0 && tr.Rescale(0.9, 6) != nil {
		return
	}
	n := min(s.Jobs, 50)
	src, err := tr.Episode(1, n)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if j, err := src.Next(); err != nil || j.Gap < 0 || j.Gap > MaxGap || j.Size < 1 || j.Size > MaxSize {
			t.Fatalf("job %v, %v", j, err)
		}
	}
}

func FuzzCSVTrace(f *testing.F) {
	f.Add([]byte(requests))
	f.Add([]byte("start time,seconds,status\n5,1,SUCCEED\n3,2,SUCCEED\n1e15,1e10,SUCCEED\n"))
	f.Add(zipped(f, requests)[:40])
	f.Add([]byte("start time,seconds,status\n\"5\n,1,SUCCEED\n"))
	f.Fuzz(func(t *testing.T, content []byte) { fuzzTrace(t, requestColumns, content) })
}

func FuzzSWFTrace(f *testing.F) {
	f.Add([]byte("; head\n" + swfLine(1, 2) + swfLine(0, 3)))
	f.Add([]byte(swfLine("-1e16", 2) + swfLine(1e16, 0.1)))
	f.Add(zipped(f, swfLine(1, 2)))
	f.Fuzz(func(t *testing.T, content []byte) { fuzzTrace(t, WorkloadConfig{Kind: SWF}, content) })
}

// A compressed file that is cut short says so, with its name and the line, wherever it is cut.
func TestCutGzipIsNamed(t *testing.T) {
	var swf, table strings.Builder
	table.WriteString("arrival,size\n")
	for i := range 3000 {
		swf.WriteString(swfLine(i, 1+i*i%977))
		fmt.Fprintf(&table, "%d,%d\n", i, 1+i*i%977)
	}
	for kind, content := range map[string][]byte{SWF: zipped(t, swf.String()), CSV: zipped(t, table.String())} {
		for _, n := range []int{5, 12, len(content) / 2, len(content) - 9, len(content) - 1} {
			_, err := readTrace(WorkloadConfig{Kind: kind}, content[:n])
			if err == nil || !strings.HasPrefix(err.Error(), "jobs:") || !strings.HasSuffix(err.Error(), ": the file is cut short") {
				t.Errorf("%s cut at byte %d of %d: %v", kind, n, len(content), err)
			}
		}
	}
}
