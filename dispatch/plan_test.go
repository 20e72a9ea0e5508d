package dispatch

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func TestPlans(t *testing.T) {
	known := testPolicy(t)
	known.Tasks.Base.Rates = nil // none are
	p, err := ReadPlan("plan.yaml", strings.NewReader("rates: [1, 2]\nguards: {queue: {backlog: 9, hold: 3m}}\nstep: {after: 1h}\n"))
	if err != nil || p.Guards.Queue.Hold != 3*time.Minute || p.Step.After != time.Hour || p.Step.Blocks != 20 {
		t.Errorf("%+v, %v", p, err)
	}
	if p.settle(&known); p.Reference != RefLEFT || p.check(2) != nil {
		t.Errorf("%+v, %v", p, p.check(2))
	}
	if p, err := ReadPlan("empty", strings.NewReader("")); err != nil || p.Stage != Shadow {
		t.Errorf("%+v, %v", p, err)
	}
	text, err := yaml.Marshal(DefaultPlan())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPlan("default", strings.NewReader(string(text))); err != nil {
		t.Error(err)
	}
	for text, want := range map[string]string{
		"stages: active":                  "line 1: field stages not found",
		"stage: 3":                        "stage is \"3\"",
		"rates: [1]":                      "rates has 1 values",
		"rates: []\nreference: left":      "reference left needs rates",
		"rates: [1, 0]":                   "rates[1] is 0",
		"canary: [0.5, 0.2]":              "canary[1] is 0.2",
		"canary: [1]":                     "canary[0] is 1",
		"servers: [a, a]":                 "servers[1] is \"a\"",
		"approval: nobody":                "approval is \"nobody\"",
		"versions: {adopt: now}":          "versions.adopt is \"now\"",
		"guards: {cost: {error_rate: 1}}": "guards.cost.error_rate is 1",
		"guards: {deadline: {limit: 0s}}": "guards.deadline.limit is 0s",
		"guards: {surprise: {hold: -1s}}": "guards.surprise.hold is -1s",
		"alarm: {webhook: 'ftp://x'}":     "alarm.webhook",
		"audit: {bytes: 1}":               "audit is",
		"time_unit: 0s":                   "time_unit is 0s",
		"rates: []\ncompletions: assumed\nreference: least_load": "completions cannot be assumed",
	} {
		if !strings.HasPrefix(text, "rates") {
			text = "rates: [1, 2]\n" + text
		}
		p, err := ReadPlan("plan.yaml", strings.NewReader(text))
		if err == nil {
			p.settle(&known)
			err = p.check(2)
		}
		want = strings.Replace(want, "line 1", "line 2", 1)
		if !errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want an error with %q, got %v", text, want, err)
		}
	}
}
