package kernel

import "golang.org/x/sys/cpu"

// supported lists the paths that this processor and its operating system can run, best first.
func supported() []*kernels {
	x := &cpu.X86
	paths := []*kernels{&portable}
	if x.HasAVX2 && x.HasFMA && x.HasBMI2 {
		paths = append([]*kernels{&avx2}, paths...)
		// VL: AVX-512 bodies use the upper registers at 128 and 256 bits too.
		if x.HasAVX512F && x.HasAVX512VL {
			paths = append([]*kernels{&avx512}, paths...)
		}
	}
	return paths
}

var avx2 = kernels{
	name:                "avx2",
	block:               blockAVX2,
	direct:              directAVX2,
	pack:                packAVX2,
	gather:              gatherAVX2,
	scatter:             scatterAVX2,
	exp:                 expAVX2,
	sigmoid:             sigmoidAVX2,
	tanh:                tanhAVX2,
	silu:                siluAVX2,
	symlog:              symlogAVX2,
	symexp:              symexpAVX2,
	log:                 logAVX2,
	add:                 addAVX2,
	siluBackward:        siluBackwardAVX2,
	axpy:                axpyAVX2,
	scale:               scaleAVX2,
	dot:                 dotAVX2,
	rmsNormSiLU:         rmsNormSiLUAVX2,
	rmsNormSiLUBackward: rmsNormSiLUBackwardAVX2,
	softmax:             softmaxAVX2,
	logSoftmax:          logSoftmaxAVX2,
	softmaxBackward:     softmaxBackwardAVX2,
	gru:                 gruAVX2,
	gruBackward:         gruBackwardAVX2,
	laprop:              lapropAVX2,
	peak:                peakAVX2,
	perRound:            12 * 8 * 2,
}

var avx512 = kernels{
	name:                "avx512",
	block:               blockAVX512,
	direct:              directAVX512,
	pack:                packAVX2, // bound by memory, not by its width
	gather:              gatherAVX512,
	scatter:             scatterAVX512,
	exp:                 expAVX512,
	sigmoid:             sigmoidAVX512,
	tanh:                tanhAVX512,
	silu:                siluAVX512,
	symlog:              symlogAVX512,
	symexp:              symexpAVX512,
	log:                 logAVX512,
	add:                 addAVX512,
	siluBackward:        siluBackwardAVX512,
	axpy:                axpyAVX512,
	scale:               scaleAVX512,
	dot:                 dotAVX512,
	rmsNormSiLU:         rmsNormSiLUAVX512,
	rmsNormSiLUBackward: rmsNormSiLUBackwardAVX512,
	softmax:             softmaxAVX512,
	logSoftmax:          logSoftmaxAVX512,
	softmaxBackward:     softmaxBackwardAVX512,
	gru:                 gruAVX512,
	gruBackward:         gruBackwardAVX512,
	laprop:              lapropAVX512,
	peak:                peakAVX512,
	perRound:            12 * 16 * 2,
}
