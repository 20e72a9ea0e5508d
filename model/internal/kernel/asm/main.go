// Command asm writes the assembly of package kernel. Run it by go generate in the package's folder.
//
// Every loop is written once, in terms of a vector width (type isa), and emitted for AVX2 with FMA
// (8 lanes) and for AVX-512F (16 lanes), so that the two differ in the names of registers and in how
// the last few elements are masked, not in their arithmetic.
package main

import (
	"flag"
	"log"
	"os"

	"github.com/mmcloughlin/avo/build"
)

func main() {
	asm.ConstraintExpr("amd64")
	peak(avx2)
	peak(avx512)
	for _, f := range []form{{}, {columns: true}} {
		tiles(avx2, 1, 1, 6, f)
		tiles(avx512, 1, 1, 12, f)
		tiles(avx512, 2, 1, 12, f)
	}
	for _, f := range []form{{placeB: true}, {columns: true, placeB: true}, {placeA: true}, {placeA: true, placeB: true}} {
		tiles(avx2, 1, 3, 6, f)
		tiles(avx512, 2, 6, 12, f)
	}
	// So few rows need more panels to fill the units.
	tiles(avx2, 4, 1, 1, form{})
	tiles(avx2, 2, 2, 3, form{})
	tiles(avx512, 4, 1, 3, form{})
	copyPanels(1)
	copyPanels(4)
	packTile(8)
	packTile(16)
	transpose16()
	gather(avx512, 128)
	for _, v := range []isa{avx2, avx512} {
		gather(v, 64)
		gather(v, 16)
		scatter(v, 64)
		scatter(v, 16)
		maps(v)
		sums(v)
		rowwise(v)
		gru(v)
		laprop(v)
	}
	file, err := asm.Result()
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range file.Functions() {
		interleave(f)
	}
	set := flag.NewFlagSet("asm", flag.ExitOnError) // avo has taken the default one
	flags := build.NewFlags(set)
	if err := set.Parse(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
	os.Exit(build.Main(flags.Config(), asm))
}
