package experiment

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Folder is what an experiment has left on disk so far.
type Folder struct {
	Dir      string
	Manifest Manifest
	Rules    []Result // of heuristics
	Runs     []FolderRun
}

// FolderRun is a training run in an experiment's folder.
type FolderRun struct {
	Dir string
	Job
	Results []Result
	Curve   LearningCurve
}

// ReadFolder reads an experiment's folder, whether it is finished or not.
func ReadFolder(dir string) (*Folder, error) {
	f := &Folder{Dir: dir}
	var err error
	if f.Manifest, err = ReadManifest(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no folder of an experiment: it has no %s", dir, ManifestFile)
	} else if err != nil {
		return nil, err
	}
	if f.Rules, err = ReadResultsFile(filepath.Join(dir, RulesFile)); err != nil {
		return nil, err
	}
	jobs, err := filepath.Glob(filepath.Join(dir, "*", "seed-*", JobFile))
	if err != nil {
		return nil, err
	}
	for _, path := range jobs {
		run := FolderRun{Dir: filepath.Dir(path)}
		if run.Job, err = ReadJob(run.Dir); err != nil {
			return nil, err
		}
		if run.Results, err = ReadResultsFile(filepath.Join(run.Dir, ScoresFile)); err != nil {
			return nil, err
		}
		for i, r := range run.Results {
			if r.Method != run.Method || r.Seed != run.Seed {
				return nil, fmt.Errorf("%s: %w: line %d is of %s with seed %d, the run of %s with seed %d",
					filepath.Join(run.Dir, ScoresFile), ErrResult, i+1, r.Method, r.Seed, run.Method, run.Seed)
			}
		}
		if run.Curve, err = readLearningCurve(filepath.Join(run.Dir, CurveFile)); err != nil {
			return nil, err
		}
		f.Runs = append(f.Runs, run)
	}
	slices.SortStableFunc(f.Runs, func(a, b FolderRun) int {
		if a.Method != b.Method {
			return f.rank(a.Method) - f.rank(b.Method)
		}
		return int(min(max(int64(a.Seed)-int64(b.Seed), -1), 1))
	})
	return f, nil
}

// rank orders methods as the manifest does; others follow.
func (f *Folder) rank(method string) int {
	if i := slices.Index(f.Manifest.Methods, method); i >= 0 {
		return i
	}
	return len(f.Manifest.Methods)
}

// LearningCurve has the evaluations of a run while it trained: by environment steps and minutes of wall-clock time, the
// IQM of the ratios to LEFT of the greedy and of the sampled policy, NaN where it was not measured.
type LearningCurve struct {
	Steps, Minutes, Greedy, Sampled []float64
}

// maxCurveRows bounds a curve: an evaluation a second for a day.
const maxCurveRows = 100_000

// ReadLearningCurve reads the columns environment_steps, minutes, greedy and sampled of a table with a header line, in
// any order and among others.
func ReadLearningCurve(in io.Reader) (LearningCurve, error) {
	var c LearningCurve
	r := csv.NewReader(in)
	header, err := r.Read()
	if err != nil {
		return c, fmt.Errorf("%w: learning curve: %w", ErrResult, err)
	}
	columns := []struct {
		name string
		into *[]float64
	}{{"environment_steps", &c.Steps}, {"minutes", &c.Minutes}, {Greedy, &c.Greedy}, {Sampled, &c.Sampled}}
	for _, column := range columns {
		if !slices.Contains(header, column.name) {
			return c, fmt.Errorf("%w: learning curve has the columns %s, but no %s", ErrResult, strings.Join(header, ","), column.name)
		}
	}
	for line := 2; ; line++ {
		row, err := r.Read()
		if err == io.EOF {
			return c, nil
		}
		if err != nil {
			return c, fmt.Errorf("%w: learning curve: %w", ErrResult, err)
		}
		if line > maxCurveRows {
			return c, fmt.Errorf("%w: learning curve has more than %d rows", ErrResult, maxCurveRows)
		}
		for _, column := range columns {
			text, v := row[slices.Index(header, column.name)], math.NaN()
			if text != "" {
				if v, err = strconv.ParseFloat(text, 64); err != nil {
					return c, fmt.Errorf("%w: learning curve: line %d: %s is %.40q, no number", ErrResult, line, column.name, text)
				}
			}
			*column.into = append(*column.into, v)
		}
		for _, x := range [][]float64{c.Steps, c.Minutes} {
			n := len(x)
			if v := x[n-1]; !(v >= 0) || math.IsInf(v, 1) || n > 1 && v < x[n-2] {
				return c, fmt.Errorf("%w: learning curve: line %d: steps and minutes do not ascend from 0", ErrResult, line)
			}
		}
	}
}

// readLearningCurve reads a file; one that does not exist has no point.
func readLearningCurve(path string) (LearningCurve, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return LearningCurve{}, nil
	}
	if err != nil {
		return LearningCurve{}, err
	}
	defer f.Close()
	c, err := ReadLearningCurve(f)
	if err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// of returns the ratios of a mode.
func (c LearningCurve) of(mode string) []float64 {
	if mode == Greedy {
		return c.Greedy
	}
	return c.Sampled
}
