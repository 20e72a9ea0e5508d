package dispatch

import (
	"errors"
	"fmt"
)

// ErrRefused is wrapped where a command cannot be followed as things are.
var ErrRefused = errors.New("refused")

// unready says what a step up lacks, or nothing. Service.mu is held.
func (s *Service) unready() string {
	switch after := s.now().Sub(s.state.Since); {
	case s.state.Stage == Active:
		return "there is no stage above active"
	case s.acting == nil:
		return "there are no parameters yet"
	case len(s.state.Holds) > 0:
		return fmt.Sprintf("the guard %s holds all streams", s.state.Holds[0].Guard)
	case after < s.plan.Step.After:
		return fmt.Sprintf("the plan wants %v in this step, it has been %v", s.plan.Step.After, after.Round(tendEvery))
	case s.blocks < s.plan.Step.Blocks:
		return fmt.Sprintf("the plan wants %d replayed blocks in this step, there have been %d", s.plan.Step.Blocks, s.blocks)
	case s.blocks > 0 && s.policyCost > s.referenceCost*(1+s.plan.Guards.Cost.Margin):
		return fmt.Sprintf("replayed on the same arrivals, the policy costs %.3f of the reference", s.policyCost/s.referenceCost)
	}
	return ""
}

// stepUp goes to the next share or stage. Service.mu is held.
func (s *Service) stepUp() {
	switch {
	case s.state.Stage == Shadow:
		s.state.Stage, s.state.Step = Canary, 0
	case s.state.Stage == Canary && s.state.Step+1 < len(s.plan.Canary):
		s.state.Step++
	default:
		s.state.Stage = Active
	}
	s.fresh()
	s.unsaved = true
	s.log.Info("the policy decides more", "stage", s.state.Stage, "share", s.share())
}

// share of the streams that the policy decides for. Service.mu is held.
func (s *Service) share() float64 {
	switch s.state.Stage {
	case Active:
		return 1
	case Canary:
		return s.plan.Canary[s.state.Step]
	}
	return 0
}

// Approve is a human's consent. To version 0: one step up, which is refused while the
// plan's conditions are not met, unless forced. To another version: that these
// parameters act from now on, in the stage that is.
func (s *Service) Approve(number uint64, force bool) error {
	s.mu.Lock()
	err := s.approve(number, force)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.save()
}

func (s *Service) approve(number uint64, force bool) error {
	if number == 0 {
		why := s.unready()
		if s.state.Stage == Active || s.acting == nil || why != "" && !force {
			return fmt.Errorf("%w: %s", ErrRefused, why)
		}
		s.stepUp()
		return nil
	}
	v := s.version(number)
	if v == nil {
		return fmt.Errorf("version %d is %w; those kept are %v", number, ErrUnknown, s.numbers())
	}
	s.state.Pinned = false
	s.act(v)
	return nil
}

// Rollback makes an earlier version act, at once, and newer ones wait until one is
// approved.
func (s *Service) Rollback(number uint64) error {
	s.mu.Lock()
	v := s.version(number)
	if v == nil {
		defer s.mu.Unlock()
		return fmt.Errorf("version %d is %w; those kept are %v", number, ErrUnknown, s.numbers())
	}
	s.state.Pinned = true
	s.act(v)
	s.mu.Unlock()
	s.log.Warn("rolled back", "version", number)
	return s.save()
}

// numbers of the versions that are kept. Service.mu is held.
func (s *Service) numbers() []uint64 {
	numbers := []uint64{}
	for _, v := range s.versions {
		numbers = append(numbers, v.number)
	}
	return numbers
}

// Release ends holds: of one stream, or, where it is empty, of all streams and of
// each. It returns how many there were.
func (s *Service) Release(name string) (int, error) {
	s.mu.Lock()
	released := 0
	free := func(st *stream) {
		if st.hold.Guard != "" {
			s.raise("release", st.hold)
			st.hold = Hold{}
			st.calm()
			released++
		}
	}
	if name != "" {
		st := s.streams.byName[name]
		if st == nil {
			s.mu.Unlock()
			return 0, fmt.Errorf("stream %q is %w", name, ErrUnknown)
		}
		free(st)
		s.mu.Unlock()
		return released, nil
	}
	for _, st := range s.streams.byName {
		free(st)
	}
	for _, h := range s.state.Holds {
		s.raise("release", h)
		released++
	}
	s.state.Holds = nil
	s.rushed = 0
	s.renewed = s.now() // stale parameters are taken as they are, for as long again
	s.fresh()
	s.mu.Unlock()
	return released, s.save()
}

// StepDown goes to a lower stage, at once.
func (s *Service) StepDown(to Stage) error {
	rank := map[Stage]int{Shadow: 1, Canary: 2, Active: 3}
	s.mu.Lock()
	from := s.state.Stage
	if rank[to] == 0 || rank[to] >= rank[from] {
		s.mu.Unlock()
		return fmt.Errorf("%w: %q is not below the stage %s", ErrRefused, to, from)
	}
	s.state.Stage, s.state.Step = to, 0
	s.fresh()
	s.mu.Unlock()
	s.log.Warn("stepped down", "stage", to)
	return s.save()
}
