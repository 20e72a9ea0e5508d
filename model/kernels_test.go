package model

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// tellVariable makes this test, started again, tell which kernels it has.
const tellVariable = "DREAMFLEET_TEST_TELL_KERNELS"

// The environment variable is read when a program starts: it chooses the kernels,
// and asked for some that do not exist, a program has the portable ones and says so.
func TestKernelVariable(t *testing.T) {
	if os.Getenv(tellVariable) != "" {
		path, err := Kernels()
		fmt.Printf("kernels: %s %v\n", path, err != nil)
		return
	}
	for value, want := range map[string]string{"portable": "portable false", "sse9": "portable true"} {
		child := exec.Command(os.Args[0], "-test.run=^TestKernelVariable$")
		child.Env = append(os.Environ(), tellVariable+"=1", "DREAMFLEET_KERNEL="+value)
		out, err := child.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "kernels: "+want+"\n") {
			t.Errorf("with %s the kernels are not %s: %v\n%s", value, want, err, out)
		}
	}
	// The path that a run of all tests asks for is the one that they are on.
	if asked := os.Getenv("DREAMFLEET_KERNEL"); asked != "" {
		if path, err := Kernels(); err == nil && path != asked {
			t.Errorf("the tests are on %s, not on %s", path, asked)
		}
	}
}
