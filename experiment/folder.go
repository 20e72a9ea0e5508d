package experiment

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
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
