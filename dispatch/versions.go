package dispatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dreamfleet/dreamfleet/model"
)

// version is one version of the parameters, verified and calibrated.
type version struct {
	number      uint64
	file        *model.File // what acting and predicting need
	calibration Calibration
	threshold   float64 // of surprise
	loaded      time.Time
	batched     *model.Advisor // the loop's, made beforehand so that a swap costs it nothing
}

// advisor makes one for so many rows; each belongs to one goroutine.
func (v *version) advisor(m model.Config, rows int, seed uint64) (*model.Advisor, error) {
	return model.NewAdvisor(m, rows, v.file, seed)
}

// calibrationEpisodes are played with each new version: with the preset small it
// takes a second on one core.
const calibrationEpisodes = 100

// Offer hands the service a version of the parameters, as a safetensors file of the
// acting parameters or a checkpoint's. It is verified and calibrated here, while
// decisions go on, and then acts at once where none does yet, in the shadow stage, and
// where the plan says follow; otherwise it waits for Approve. A version that is known
// already is nothing new; one that is refused is escalated, and those before stay.
func (s *Service) Offer(ctx context.Context, number uint64, file *model.File) error {
	s.mu.Lock()
	known := s.version(number) != nil
	if known && number == s.newest {
		s.renewed = s.now()
	}
	s.mu.Unlock()
	if known {
		return nil
	}
	v, err := s.prepare(ctx, number, file)
	if err != nil {
		if ctx.Err() == nil {
			s.mu.Lock()
			s.refused++
			s.warn(ReasonParameters, fmt.Sprintf("version %d is refused: %v", number, err))
			s.mu.Unlock()
		}
		return fmt.Errorf("dispatch: parameters %d: %w", number, err)
	}
	if err := s.keepFile(v); err != nil {
		return fmt.Errorf("dispatch: keep parameters %d: %w", number, err)
	}
	s.mu.Lock()
	s.versions = append(s.versions, v)
	slices.SortFunc(s.versions, func(a, b *version) int { return compare(a.number, b.number) })
	adopt := s.acting == nil || !s.state.Pinned && number > s.acting.number && (s.state.Stage == Shadow || s.plan.Versions.Adopt == "follow")
	if number > s.newest {
		s.newest, s.renewed = number, s.now()
	}
	if adopt {
		s.act(v)
	}
	s.trimVersions()
	s.mu.Unlock()
	s.log.Info("parameters are ready", "version", number, "acting", adopt, "surprise_threshold", v.threshold)
	return s.save()
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (s *Service) prepare(ctx context.Context, number uint64, file *model.File) (*version, error) {
	kept := &model.File{}
	for _, t := range file.Tensors {
		module, _, _ := strings.Cut(t.Name, "/")
		switch module {
		case model.Encoder, model.RSSM, model.Prior, model.Actor, model.Decoder:
			kept.Tensors = append(kept.Tensors, t)
		}
	}
	v := &version{number: number, file: kept, loaded: s.now()}
	var err error
	if v.batched, err = v.advisor(s.policy.Model, s.plan.Batch, s.seed+number); err != nil {
		return nil, err
	}
	c, err := Calibrate(ctx, s.policy, number, kept, calibrationEpisodes, s.plan.Greedy)
	if err != nil {
		return nil, err
	}
	v.calibration, v.threshold = c, c.Threshold(s.plan.Guards.Surprise.Quantile)
	if fixed := s.plan.Guards.Surprise.Threshold; fixed > 0 {
		v.threshold = fixed
	}
	if len(c.Largest) == 0 && s.plan.Guards.Surprise.Quantile > 0 {
		s.log.Warn("these parameters have no world model, so surprise is not measured", "version", number)
	}
	return v, nil
}

// act makes a version the one that advises. Service.mu is held.
func (s *Service) act(v *version) {
	s.acting = v
	s.state.Version = v.number
	s.swaps++
	s.fresh()
}

// fresh forgets what was measured of the policy: it is another one, or decides for
// others. Service.mu is held.
func (s *Service) fresh() {
	s.state.Since = s.now()
	s.blocks = 0
	s.policyCost, s.referenceCost = 0, 0
	s.test.reset()
}

// version is the one of that number, or nil. Service.mu is held.
func (s *Service) version(number uint64) *version {
	for _, v := range s.versions {
		if v.number == number {
			return v
		}
	}
	return nil
}

// trimVersions keeps the newest and the acting one. Service.mu is held.
func (s *Service) trimVersions() {
	for i := 0; len(s.versions) > s.plan.Versions.Keep && i < len(s.versions); {
		if s.versions[i] == s.acting {
			i++
			continue
		}
		if s.dir != "" {
			if err := os.Remove(s.versionFile(s.versions[i].number)); err != nil && !errors.Is(err, os.ErrNotExist) {
				s.log.Warn("a version that is not kept any more was not removed", "error", err)
			}
		}
		s.versions = slices.Delete(s.versions, i, i+1)
	}
}

const versionSuffix = ".safetensors"

func (s *Service) versionFile(number uint64) string {
	return filepath.Join(s.dir, "versions", fmt.Sprintf("%012d%s", number, versionSuffix))
}

// keepFile writes a version to the state folder, whole or not at all.
func (s *Service) keepFile(v *version) error {
	if s.dir == "" {
		return nil
	}
	var b bytes.Buffer
	if _, err := v.file.WriteTo(&b); err != nil {
		return err
	}
	path := s.versionFile(v.number)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return replaceFile(path, b.Bytes())
}

// loadVersions takes the versions of the state folder, of an earlier life.
func (s *Service) loadVersions(ctx context.Context) error {
	paths, err := filepath.Glob(filepath.Join(s.dir, "versions", "*"+versionSuffix))
	if err != nil {
		return err
	}
	slices.Sort(paths)
	for _, path := range paths {
		var number uint64
		if _, err := fmt.Sscanf(strings.TrimSuffix(filepath.Base(path), versionSuffix), "%d", &number); err != nil {
			continue // none of ours
		}
		f, err := readParams(path)
		var v *version
		if err == nil {
			v, err = s.prepare(ctx, number, f)
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.log.Warn("a kept version cannot be used", "file", path, "error", err)
			continue
		}
		s.versions = append(s.versions, v)
		s.newest, s.renewed = number, s.now()
		if number == s.state.Version {
			s.acting = v
		}
	}
	return nil
}

func readParams(path string) (*model.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return model.ReadFile(f)
}
