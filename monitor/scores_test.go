package monitor

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestScoresAreDreamersFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "scores.json")
	for _, s := range []struct {
		method string
		seed   uint64
		x, y   float64
	}{{"dreamer", 3, 0, 21.5}, {"dreamer", 3, 20000, math.Inf(1)}, {"dreamer", 4, 0, 20}, {"left", 3, 0, 1}, {"dreamer", 3, 40000, 1.25}} {
		if err := AppendScore(path, "loadbalance", s.method, s.seed, s.x, s.y); err != nil {
			t.Fatal(err)
		}
	}
	want := `[{"task":"loadbalance","method":"dreamer","seed":3,"xs":[0,20000,40000],"ys":[21.5,null,1.25]},` +
		`{"task":"loadbalance","method":"dreamer","seed":4,"xs":[0],"ys":[20]},` +
		`{"task":"loadbalance","method":"left","seed":3,"xs":[0],"ys":[1]}]` + "\n"
	if got := readFile(t, path); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	// A run resumed at 15000 evaluates at 20000 again, and what lay beyond is not its own.
	if err := AppendScore(path, "loadbalance", "dreamer", 3, 20000, 2); err != nil {
		t.Fatal(err)
	}
	list, err := ReadScores(path)
	if err != nil {
		t.Fatal(err)
	}
	if s := (Scores{"loadbalance", "dreamer", 3, []float64{0, 20000}, []float64{21.5, 2}}); !reflect.DeepEqual(list[0], s) {
		t.Errorf("got %v, want %v", list[0], s)
	}
}

func TestScoresThatAreNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "scores.json")
	if list, err := ReadScores(path); list != nil || err != nil {
		t.Errorf("no file: %v, %v", list, err)
	}
	for _, text := range []string{"", "{}", `[{"xs":[1],"ys":[]}]`, `[{"seed":-1}]`, `[{"xs":["a"]}]`} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadScores(path); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q was read", text)
		}
		if err := AppendScore(path, "t", "m", 0, 1, 1); err == nil || readFile(t, path) != text {
			t.Errorf("%q was written over: %v", text, err)
		}
	}
}

// FuzzScores gives any text to the reader: what it accepts reads the same once it is written.
func FuzzScores(f *testing.F) {
	f.Add([]byte(`[{"task":"t","method":"m","seed":1,"xs":[1,2.5],"ys":[null,3]}]`))
	f.Add([]byte(`[{"xs":[1],"ys":[]}]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "scores.json")
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		list, err := ReadScores(path)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Error(err)
			}
			return
		}
		first, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		var again []Scores
		if err := json.Unmarshal(first, &again); err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		if second, err := json.Marshal(again); err != nil || string(second) != string(first) {
			t.Errorf("%s became %s, %v", first, second, err)
		}
	})
}

// Published files are compressed, and their seeds are text.
func TestReadPublishedScores(t *testing.T) {
	dir := t.TempDir()
	pack := func(name, text string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write([]byte(text)); err != nil || z.Close() != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	list, err := ReadScores(pack("a.json.gz", `[{"task":"atari_pong","method":"dreamerv3","seed":"7","xs":[1],"ys":[2]},
		{"task":"t","method":"m","seed":3,"xs":[],"ys":[]},{"task":"t","method":"m","seed":"run_1","xs":[],"ys":[]},{"task":"t","method":"m","seed":"run_2","xs":[],"ys":[]}]`))
	if err != nil || len(list) != 4 || list[0].Seed != 7 || list[1].Seed != 3 || list[2].Seed == list[3].Seed {
		t.Errorf("%+v, %v", list, err)
	}
	for name, text := range map[string]string{"seed": `[{"seed":-1}]`, "seed of true": `[{"seed":true}]`, "bomb": strings.Repeat(" ", maxScores+1)} {
		if _, err := ReadScores(pack("b.json.gz", text)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: error %v, want ErrDamaged", name, err)
		}
	}
	plain := filepath.Join(dir, "c.json.gz")
	if err := os.WriteFile(plain, []byte("[]"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadScores(plain); !errors.Is(err, ErrDamaged) {
		t.Errorf("not compressed: error %v, want ErrDamaged", err)
	}
}
