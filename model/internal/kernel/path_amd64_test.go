package kernel

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestRequirements holds the generated bodies to the instruction sets that supported asks for.
func TestRequirements(t *testing.T) {
	src, err := os.ReadFile("kernel_amd64.s")
	if err != nil {
		t.Fatal(err)
	}
	// MMX+ stands for the prefetches, which all of amd64 has: they came with SSE.
	avx2 := map[string]bool{"AVX": true, "AVX2": true, "FMA3": true, "BMI2": true, "MMX+": true}
	bodies := regexp.MustCompile(`(?m)^// func (\w+?)(AVX2|AVX512)\(.*\n// Requires: (.*)$`).FindAllStringSubmatch(string(src), -1)
	if n := strings.Count(string(src), "\nTEXT "); len(bodies) != n || n == 0 {
		t.Fatalf("%d of %d bodies say what they require", len(bodies), n)
	}
	for _, b := range bodies {
		for _, set := range strings.Split(b[3], ", ") {
			ok := avx2[set] || b[2] == "AVX512" && (set == "AVX512F" || set == "AVX512VL")
			if !ok {
				t.Errorf("%s%s requires %s", b[1], b[2], set)
			}
		}
	}
}
