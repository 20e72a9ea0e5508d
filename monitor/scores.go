package monitor

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
)

// maxScores bounds a file of scores read into memory.
const maxScores = 1 << 26

// Scores is the learning curve of one method on one task with one seed, in the format of
// DreamerV3's published scores: xs are environment steps, ys scores. A score that is no finite
// number is null in the file and NaN here.
type Scores struct {
	Task   string
	Method string
	Seed   uint64
	Xs     []float64
	Ys     []float64
}

// scoresJSON is how Scores stand in a file.
type scoresJSON struct {
	Task   string     `json:"task"`
	Method string     `json:"method"`
	Seed   uint64     `json:"seed"`
	Xs     []float64  `json:"xs"`
	Ys     []*float64 `json:"ys"`
}

// MarshalJSON writes the published format.
func (s Scores) MarshalJSON() ([]byte, error) {
	out := scoresJSON{s.Task, s.Method, s.Seed, append([]float64{}, s.Xs...), make([]*float64, len(s.Ys))}
	for i, y := range s.Ys {
		if !math.IsNaN(y) && !math.IsInf(y, 0) {
			out.Ys[i] = &y
		}
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads the published format. Published seeds are numbers or text; text that is no number, such as a
// folder's name and a number, is a seed of its own.
func (s *Scores) UnmarshalJSON(text []byte) error {
	var in struct {
		scoresJSON
		Seed json.RawMessage `json:"seed"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	if word := ""; len(in.Seed) > 0 && in.Seed[0] == '"' {
		if err := json.Unmarshal(in.Seed, &word); err != nil {
			return err
		}
		var err error
		if in.scoresJSON.Seed, err = strconv.ParseUint(word, 10, 64); err != nil {
			h := fnv.New64a()
			h.Write([]byte(word))
			in.scoresJSON.Seed = h.Sum64()
		}
	} else if len(in.Seed) > 0 {
		if err := json.Unmarshal(in.Seed, &in.scoresJSON.Seed); err != nil {
			return err
		}
	}
	if len(in.Xs) != len(in.Ys) {
		return fmt.Errorf("scores of %s on %s have %d xs and %d ys", in.Method, in.Task, len(in.Xs), len(in.Ys))
	}
	*s = Scores{in.Task, in.Method, in.scoresJSON.Seed, in.Xs, make([]float64, len(in.Ys))}
	for i, y := range in.Ys {
		s.Ys[i] = math.NaN()
		if y != nil {
			s.Ys[i] = *y
		}
	}
	return nil
}

// ErrDamaged: a file does not hold what is written into such files.
var ErrDamaged = errors.New("file is damaged")

// ReadScores reads a file of scores, compressed where its name ends in .gz; one that does not exist
// holds none. The error wraps ErrDamaged where the content is wrong.
func ReadScores(path string) ([]Scores, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read scores: %w", err)
	}
	if info.Size() > maxScores {
		return nil, fmt.Errorf("read scores: %s has %d bytes, more than %d: %w", path, info.Size(), maxScores, ErrDamaged)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read scores: %w", err)
	}
	if strings.HasSuffix(path, ".gz") {
		if text, err = gunzip(text); err != nil {
			return nil, fmt.Errorf("read scores: %s: %w: %w", path, ErrDamaged, err)
		}
	}
	var list []Scores
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("read scores: %s: %w: %w", path, ErrDamaged, err)
	}
	return list, nil
}

func gunzip(text []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxScores+1))
	if err == nil && len(plain) > maxScores {
		err = fmt.Errorf("unpacked it has more than %d bytes", maxScores)
	}
	return plain, err
}

// AppendScore adds the score y at x to the curve of a task, method and seed. Points at x and
// beyond, left by a run that was resumed before them, are replaced.
func AppendScore(path, task, method string, seed uint64, x, y float64) error {
	list, err := ReadScores(path)
	if err != nil {
		return err
	}
	i := 0
	for i < len(list) && (list[i].Task != task || list[i].Method != method || list[i].Seed != seed) {
		i++
	}
	if i == len(list) {
		list = append(list, Scores{Task: task, Method: method, Seed: seed})
	}
	s := &list[i]
	keep := len(s.Xs)
	for keep > 0 && s.Xs[keep-1] >= x {
		keep--
	}
	s.Xs, s.Ys = append(s.Xs[:keep], x), append(s.Ys[:keep], y)
	text, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("write scores: %w", err)
	}
	return WriteAside(path, append(text, '\n'))
}
