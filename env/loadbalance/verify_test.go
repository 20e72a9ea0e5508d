package loadbalance

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func goldenFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/park/*.jsonl.gz")
	if err != nil || len(files) != 22 {
		t.Fatalf("%d golden traces, want 22 (%v)", len(files), err)
	}
	return files
}

func unpacked(t testing.TB, file string) []byte {
	t.Helper()
	packed, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGoldenTracesReplayToTheLastDigit(t *testing.T) {
	for _, file := range goldenFiles(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := Verify(f); err != nil {
				t.Error(err)
			}
		})
	}
}

const shortGolden = "testdata/park/clip_obshigh3000_s14_random.jsonl.gz"

func TestVerifyNamesTheFirstDifference(t *testing.T) {
	text := string(unpacked(t, shortGolden))
	for _, c := range []struct {
		name, old, new string
		want           Mismatch
	}{
		{"reset", `"reset_obs":[0,`, `"reset_obs":[1,`, Mismatch{1, -1, "reset_obs[0]", "1", "0"}},
		{"reset time", `"reset_curr_time":81`, `"reset_curr_time":80`, Mismatch{1, -1, "reset_curr_time", "80", "81"}},
		{"seed", `"seed":14`, `"seed":15`, Mismatch{2, -1, "dt[0]", "81", "10"}},
		{"gap", `"dt":[81,0,`, `"dt":[81,1,`, Mismatch{2, -1, "dt[1]", "1", "0"}},
		{"load", `[3000,3000,3000,3000,3000,1099,0,0,0,1232,133]`, `[3000,3000,3000,3000,3000,1099,0,0,0,1238,133]`,
			Mismatch{294, 291, "o[9]", "1238", "1232"}},
		{"cap", `"load_balance_obs_high":3000.0`, `"load_balance_obs_high":4000.0`, Mismatch{29, 26, "o[10]", "3000", "3774"}},
		{"action", `{"type":"step","a":5,`, `{"type":"step","a":4,`, Mismatch{3, 0, "o[4]", "0", "292"}},
		{"reward", `"r":-346,`, `"r":-346.5,`, Mismatch{4, 1, "r", "-346.5", "-346"}},
		{"time", `"t":254}`, `"t":255}`, Mismatch{4, 1, "t", "255", "254"}},
		{"done", `"d":true`, `"d":false`, Mismatch{302, 299, "d", "false", "true"}},
		{"total", `"total_reward":-1520796`, `"total_reward":-1520795`, Mismatch{303, -1, "total_reward", "-1520795", "-1520796"}},
		{"clips", `"clip_warnings":866`, `"clip_warnings":0`, Mismatch{303, -1, "clip_warnings", "0", "866"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(text, c.old) {
				t.Fatalf("no %s in the trace", c.old)
			}
			err := Verify(strings.NewReader(strings.Replace(text, c.old, c.new, 1)))
			var got *Mismatch
			if !errors.As(err, &got) {
				t.Fatalf("got %v, want a mismatch", err)
			}
			if *got != c.want {
				t.Errorf("got %+v, want %+v", *got, c.want)
			}
		})
	}
	m := Mismatch{294, 291, "o[9]", "1238", "1232"}
	if got, want := m.Error(), "line 294, step 291: o[9] is 1238, simulated 1232"; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
}

func TestVerifyRefusesMalformedFiles(t *testing.T) {
	text := string(unpacked(t, shortGolden))
	lines := strings.SplitAfter(text, "\n")
	replace := func(old, new string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("no %s in the trace", old)
		}
		return strings.Replace(text, old, new, 1)
	}
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "line 1: the file ends where a line of type header belongs"},
		{"no JSON", "hello\n", "line 1: invalid character 'h' looking for beginning of value"},
		{"no header", lines[1], `line 1: type is "jobs", want "header"`},
		{"truncated", strings.Join(lines[:10], ""), "line 11: the file ends where a line of type step belongs"},
		{"no summary", strings.Join(lines[:302], ""), "line 303: the file ends where a line of type summary belongs"},
		{"cut inside a line", text[:len(text)-30], "line 303: unexpected end of JSON input"},
		{"early summary", strings.Join(lines[:9], "") + lines[302], `line 10: type is "summary", want "step"`},
		{"more", text + lines[302], "line 304: more after the summary"},
		{"other environment", replace("park load_balance", "park abr"), `line 1: env is "park abr", want "park load_balance"`},
		{"servers", replace(`"num_servers":10`, `"num_servers":9`), "line 1: 10 service_rates, want num_servers, which is 9"},
		{"rate", replace("0.15", "-0.15"), "service rate -0.15 of server 0"},
		{"seed", replace(`"seed":14`, `"seed":-1`), "line 1: json: cannot unmarshal number -1"},
		{"shape", replace(`"job_size_pareto_shape":1.5`, `"job_size_pareto_shape":0`), "55, 0 and 100, want above 0"},
		{"jobs", replace(`"num_stream_jobs":300`, `"num_stream_jobs":301`), "line 2: 300 dt and 300 size, want num_stream_jobs, which is 301"},
		{"huge jobs", replace(`"num_stream_jobs":300`, `"num_stream_jobs":1000000000`), "line 1: num_stream_jobs is 1000000000, want"},
		{"cap", replace(`"load_balance_obs_high":3000.0`, `"load_balance_obs_high":0`), "line 1: load_balance_obs_high is 0"},
		{"action", replace(`"a":5`, `"a":10`), "line 3: loadbalance: server 10: server takes no jobs"},
		{"no action", replace(`"a":5,`, ``), "line 3: a or d is missing"},
		{"no reward", replace(`"r":-346,`, ``), "line 4: r is missing"},
		{"short observation", replace(`"o":[0,0,`, `"o":[0,`), "line 3: o has 10 values, want 11"},
		{"no time", replace(`"final_time":96084,`, ``), "line 303: final_time is missing"},
		{"long line", strings.Repeat(" ", maxLine+1), "line 1: longer than 16777216 bytes"},
		{"gzip", "\x1f\x8bnonsense", "line 1: gzip: invalid header"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Verify(strings.NewReader(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			var mismatch *Mismatch
			if errors.As(err, &mismatch) {
				t.Errorf("%v is called a mismatch", err)
			}
		})
	}
}

// episodeRecording plays round robin.
func episodeRecording(jobs int) Recording {
	r := Recording{
		Policy: "round_robin", Rates: DefaultRates(), Seed: 3,
		Interval: DefaultInterval, Shape: DefaultShape, Scale: DefaultScale,
	}
	for k := range jobs {
		r.Actions = append(r.Actions, k%10)
	}
	return r
}

func TestRecordingReproducesPark(t *testing.T) {
	var got bytes.Buffer
	r := episodeRecording(1000)
	if err := r.Write(&got); err != nil {
		t.Fatal(err)
	}
	if err := Verify(bytes.NewReader(got.Bytes())); err != nil {
		t.Error(err)
	}
	// Park's own recording of this episode has the same lines up to the dtypes
	// and the notation of whole numbers, so equal jobs and steps byte for byte.
	want := strings.Split(string(unpacked(t, "testdata/park/default_s3_round_robin.jsonl.gz")), "\n")
	lines := strings.Split(got.String(), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d", len(lines), len(want))
	}
	for k := 1; k <= 1001; k++ {
		if lines[k] != want[k] {
			t.Fatalf("line %d is\n%.200s\nwant\n%.200s", k+1, lines[k], want[k])
		}
	}
}

func TestRecordingOfGivenJobs(t *testing.T) {
	r := Recording{
		Policy: "by hand", Rates: []float64{1, 0.5},
		Jobs: JobList{{3, 10}, {0, 7}, {4, 0}}, Actions: []int{1, 1, 0},
	}
	var got bytes.Buffer
	if err := r.Write(&got); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(got.String(), "seed") {
		t.Error("given jobs were recorded with a seed")
	}
	if err := Verify(bytes.NewReader(got.Bytes())); err != nil {
		t.Error(err)
	}
	r.Actions = r.Actions[:2]
	if err := r.Write(io.Discard); err == nil {
		t.Error("two actions for three jobs were accepted")
	}
	r.Actions = []int{0, 2, 0}
	if err := r.Write(io.Discard); !errors.Is(err, ErrMasked) {
		t.Errorf("action 2 of 2 servers: %v", err)
	}
}

func TestRecordingReportsFailedWrites(t *testing.T) {
	r := episodeRecording(1000)
	failure := errors.New("disk full")
	read, write := io.Pipe()
	read.CloseWithError(failure)
	if err := r.Write(write); !errors.Is(err, failure) {
		t.Errorf("got %v, want %v", err, failure)
	}
}

func FuzzVerify(f *testing.F) {
	var short bytes.Buffer
	r := episodeRecording(3)
	if err := r.Write(&short); err != nil {
		f.Fatal(err)
	}
	f.Add(short.Bytes())
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(short.Bytes()); err != nil {
		f.Fatal(err)
	}
	if err := z.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(packed.Bytes())
	given := Recording{Rates: []float64{1}, Jobs: JobList{{0, 0}, {0, 2}}, Actions: []int{0, 0}}
	var bare bytes.Buffer
	if err := given.Write(&bare); err != nil {
		f.Fatal(err)
	}
	f.Add(bare.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		// Whatever the file, Verify ends without a panic.
		if err := Verify(bytes.NewReader(b)); err != nil && err.Error() == "" {
			t.Error("an error without a message")
		}
	})
}

func TestVerifyNamesACutFile(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("testdata", "park", "default_s1_left.jsonl.gz"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{5, 100, len(content) / 2, len(content) - 1} {
		err := Verify(bytes.NewReader(content[:n]))
		var malformed *FormatError
		if !errors.As(err, &malformed) || malformed.Err.Error() != "the file is cut short" {
			t.Errorf("cut at byte %d of %d: %v", n, len(content), err)
		}
	}
}
