// Command validate reads the files of deploy that other programs are for, as those programs would, and says
// what they would refuse. It is a module of its own: what it needs is large, and nothing else here needs it.
//
//	go run . ../..
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: validate FOLDER, the folder deploy")
		os.Exit(2)
	}
	dir := os.Args[1]
	if err := errors.Join(
		named("Dockerfile", dockerfile(filepath.Join(dir, "Dockerfile"))),
		named("compose.yaml", compose(filepath.Join(dir, "compose.yaml"))),
		kubernetes(filepath.Join(dir, "kubernetes")),
	); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func named(name string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// dockerfile parses every instruction, and holds the last stage to what it promises: nothing but the
// program, and no root.
func dockerfile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	parsed, err := parser.Parse(f)
	if err != nil {
		return err
	}
	if len(parsed.Warnings) > 0 {
		return fmt.Errorf("warning: %s", parsed.Warnings[0].Short)
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return err
	}
	last := stages[len(stages)-1]
	user := ""
	for _, c := range last.Commands {
		switch c := c.(type) {
		case *instructions.UserCommand:
			user = c.User
		case *instructions.RunCommand:
			return errors.New("the last stage runs something, and has nothing to run it")
		}
	}
	if last.BaseName != "scratch" || user == "" || strings.HasPrefix(user, "0") || strings.HasPrefix(user, "root") {
		return fmt.Errorf("the last stage is from %s and runs as %q: want scratch and a number other than 0", last.BaseName, user)
	}
	return nil
}

// compose loads the file as docker compose does, schema and consistency included.
func compose(path string) error {
	options, err := cli.NewProjectOptions([]string{path}, cli.WithName("dreamfleet"))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	for _, name := range []string{"nats", "replay", "learner", "actor"} {
		if _, err := project.GetService(name); err != nil {
			return err
		}
	}
	return nil
}

// kubernetes decodes every object strictly as the kind that it says it is, and checks what refers to what.
func kubernetes(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return err
	}
	var kinds []string
	for _, path := range paths {
		name := filepath.Base(path)
		if name == "nats-values.yaml" || name == "kustomization.yaml" || name == "run.yaml" {
			continue
		}
		found, err := objects(path)
		if err != nil {
			return named(name, err)
		}
		kinds = append(kinds, found...)
	}
	for _, want := range []string{"StatefulSet replay", "StatefulSet learner", "Deployment actor"} {
		if !slices.Contains(kinds, want) {
			return fmt.Errorf("kubernetes: there is no %s among %v", want, kinds)
		}
	}
	return shards(dir)
}

// shards checks that the run's configuration, the number of the replay's pods and what they are told agree.
func shards(dir string) error {
	run := struct{ Replay struct{ Shards int } }{}
	run.Replay.Shards = 1 // the default of the preset
	text, err := os.ReadFile(filepath.Join(dir, "run.yaml"))
	if err == nil {
		err = yaml.Unmarshal(text, &run)
	}
	if err != nil {
		return named("run.yaml", err)
	}
	var replay appsv1.StatefulSet
	text, err = os.ReadFile(filepath.Join(dir, "replay.yaml"))
	if err == nil {
		_, set, _ := bytes.Cut(text, []byte("\n---\n")) // what comes after the service
		err = yaml.Unmarshal(set, &replay)
	}
	if err != nil {
		return named("replay.yaml", err)
	}
	told := fmt.Sprintf("--shard $(SHARD)/%d", run.Replay.Shards)
	args := strings.Join(replay.Spec.Template.Spec.Containers[0].Args, " ")
	ordinals := replay.Spec.Ordinals
	if *replay.Spec.Replicas != int32(run.Replay.Shards) || ordinals == nil || ordinals.Start != 1 || !strings.HasSuffix(args, told) {
		return fmt.Errorf("replay.yaml: run.yaml has %d shards: want as many replicas, with ordinals from 1, that are told %s", run.Replay.Shards, told)
	}
	return nil
}

func objects(path string) (kinds []string, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := documents.Read()
		if err == io.EOF {
			return kinds, nil
		}
		if err != nil {
			return nil, err
		}
		var head struct {
			APIVersion, Kind string
			Metadata         struct{ Name string }
		}
		if err := yaml.Unmarshal(document, &head); err != nil {
			return nil, err
		}
		var object any
		switch head.APIVersion + " " + head.Kind {
		case "apps/v1 StatefulSet":
			object = &appsv1.StatefulSet{}
		case "apps/v1 Deployment":
			object = &appsv1.Deployment{}
		case "v1 Service":
			object = &corev1.Service{}
		default:
			return nil, fmt.Errorf("%s %s %q is no kind that is known here", head.APIVersion, head.Kind, head.Metadata.Name)
		}
		// Not encoding/json, to which mountpath is as good as mountPath.
		text, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			return nil, err
		}
		faults, err := json.UnmarshalStrict(text, object)
		if err := errors.Join(append(faults, err)...); err != nil {
			return nil, err
		}
		if err := consistent(object); err != nil {
			return nil, fmt.Errorf("%s %s: %w", head.Kind, head.Metadata.Name, err)
		}
		kinds = append(kinds, head.Kind+" "+head.Metadata.Name)
	}
}

// consistent checks what an API server would beyond the types, and what holds for every pod here.
func consistent(object any) error {
	var selector, labels map[string]string
	var pod corev1.PodSpec
	claims := map[string]bool{}
	switch o := object.(type) {
	case *appsv1.StatefulSet:
		selector, labels, pod = o.Spec.Selector.MatchLabels, o.Spec.Template.Labels, o.Spec.Template.Spec
		if o.Spec.ServiceName == "" {
			return errors.New("it has no serviceName")
		}
		for _, c := range o.Spec.VolumeClaimTemplates {
			claims[c.Name] = true
		}
	case *appsv1.Deployment:
		selector, labels, pod = o.Spec.Selector.MatchLabels, o.Spec.Template.Labels, o.Spec.Template.Spec
	default:
		return nil
	}
	for k, v := range selector {
		if labels[k] != v {
			return fmt.Errorf("its selector %s=%s does not select its pods", k, v)
		}
	}
	for _, v := range pod.Volumes {
		claims[v.Name] = true
	}
	s := pod.SecurityContext
	if s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot {
		return errors.New("its pods may run as root")
	}
	for _, c := range pod.Containers {
		for _, m := range c.VolumeMounts {
			if !claims[m.Name] {
				return fmt.Errorf("container %s mounts %s, which is no volume", c.Name, m.Name)
			}
		}
		variables := map[string]bool{}
		for _, v := range c.Env {
			variables[v.Name] = true
		}
		for _, arg := range c.Args {
			if _, rest, ok := strings.Cut(arg, "$("); ok {
				if name, _, _ := strings.Cut(rest, ")"); !variables[name] {
					return fmt.Errorf("container %s has $(%s) in its command, which is no variable", c.Name, name)
				}
			}
		}
		if len(c.Resources.Requests) == 0 {
			return fmt.Errorf("container %s requests no resources", c.Name)
		}
	}
	return nil
}
