package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

// Caller is the context of who waits for an answer.
type Caller = context.Context

// Call is one thing that can be asked of a service, over HTTP as over NATS: JSON in,
// JSON out.
type Call struct {
	Command bool // it changes what decides
	Do      func(c Caller, body []byte) ([]byte, error)
}

// Calls are all, by name.
func (s *Service) Calls() map[string]Call {
	return map[string]Call{
		"decide":   {Do: s.callDecide},
		"complete": {Do: s.callComplete},
		"status":   {Do: func(Caller, []byte) ([]byte, error) { return json.Marshal(s.Status()) }},
		"approve":  {Command: true, Do: s.callApprove},
		"rollback": {Command: true, Do: s.callRollback},
		"release":  {Command: true, Do: s.callRelease},
		"stepdown": {Command: true, Do: s.callStepDown},
	}
}

// Code is the HTTP status that an error has, and its text.
func Code(err error) (int, string) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrRequest):
		code = http.StatusBadRequest
	case errors.Is(err, ErrUnknown):
		code = http.StatusNotFound
	case errors.Is(err, ErrRefused):
		code = http.StatusConflict
	case errors.Is(err, ErrFull):
		code = http.StatusTooManyRequests
	case errors.Is(err, ErrStopping):
		code = http.StatusServiceUnavailable
	}
	return code, err.Error()
}

func (s *Service) callDecide(c Caller, body []byte) ([]byte, error) {
	r, err := DecodeRequest(body, s.policy.Model.Actions)
	if err != nil {
		return nil, err
	}
	d, err := s.Decide(c, r)
	if err != nil {
		return nil, err
	}
	return d.appendTo(make([]byte, 0, 192)), nil
}

// appendTo is Decision as JSON, without reflection: it is encoded at every request.
func (d *Decision) appendTo(b []byte) []byte {
	b = appendJSON(append(b, `{"job":`...), d.Job)
	b = strconv.AppendInt(append(b, `,"server":`...), int64(d.Server), 10)
	b = appendJSON(append(b, `,"name":`...), d.Name)
	b = append(append(b, `,"decider":"`...), d.Decider...)
	if d.Reason != "" {
		b = append(append(b, `","reason":"`...), d.Reason...)
	}
	b = append(append(b, `","stage":"`...), d.Stage...)
	b = strconv.AppendUint(append(b, `","version":`...), d.Version, 10)
	b = strconv.AppendInt(append(b, `,"advice":`...), int64(d.Advice), 10)
	b = strconv.AppendInt(append(b, `,"reference":`...), int64(d.Reference), 10)
	return append(b, '}')
}

func (s *Service) callComplete(_ Caller, body []byte) ([]byte, error) {
	c, err := DecodeCompletion(body)
	if err != nil {
		return nil, err
	}
	return []byte(`{}`), s.Complete(c)
}

// ApproveCall is the body of approve.
type ApproveCall struct {
	Version uint64 `json:"version,omitempty"` // 0: one step up
	Force   bool   `json:"force,omitempty"`
}

// RollbackCall is the body of rollback.
type RollbackCall struct {
	Version uint64 `json:"version"`
}

// ReleaseCall is the body of release.
type ReleaseCall struct {
	Stream string `json:"stream,omitempty"` // empty: all
}

// StepDownCall is the body of stepdown.
type StepDownCall struct {
	Stage Stage `json:"stage"`
}

func (s *Service) callApprove(_ Caller, body []byte) ([]byte, error) {
	var c ApproveCall
	if err := decode(body, &c); err != nil {
		return nil, err
	}
	if err := s.Approve(c.Version, c.Force); err != nil {
		return nil, err
	}
	return json.Marshal(s.Status())
}

func (s *Service) callRollback(_ Caller, body []byte) ([]byte, error) {
	var c RollbackCall
	if err := decode(body, &c); err != nil {
		return nil, err
	}
	if err := s.Rollback(c.Version); err != nil {
		return nil, err
	}
	return json.Marshal(s.Status())
}

func (s *Service) callRelease(_ Caller, body []byte) ([]byte, error) {
	var c ReleaseCall
	if err := decode(body, &c); err != nil {
		return nil, err
	}
	n, err := s.Release(c.Stream)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{"released":%d}`, n), nil
}

func (s *Service) callStepDown(_ Caller, body []byte) ([]byte, error) {
	var c StepDownCall
	if err := decode(body, &c); err != nil {
		return nil, err
	}
	if err := s.StepDown(c.Stage); err != nil {
		return nil, err
	}
	return json.Marshal(s.Status())
}
