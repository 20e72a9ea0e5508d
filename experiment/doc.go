// Package experiment turns the scores of policies into statements that hold up.
//
// The noun is a score: the mean job completion time (JCT) of one policy over the episode of one seed. Scores of two
// policies are compared seed by seed, because both saw the same jobs: [Ratios] divides one by the other, and
// [Summarize] reduces the ratios to a mean, a median, an interquartile mean (IQM) and a confidence interval of the IQM.
//
//	left := experiment.Scores{Policy: "left", Seeds: seeds, MeanJCT: a}
//	mine := experiment.Scores{Policy: "mine", Seeds: seeds, MeanJCT: b}
//	report, err := experiment.NewReport(mine, left)
//	err = report.WriteJSON(os.Stdout)
//
// Why paired ratios and an IQM: Park's job sizes have infinite variance, so a single episode can move a mean JCT by
// half, for every policy alike. The ratio removes what the jobs themselves cost and the IQM what one wild episode
// does to the average (Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, 2021).
//
// A [Result] is the scores of one policy in one episode of the trials of a test, as an experiment leaves them on disk,
// line by line, beside a [Manifest] of what was asked and a [Job] for each training run.
//
// A [Preset] is a trial protocol, [Preset.Resolve] makes a [Plan] of it, and a [Runner] works the plan off: it decides
// what is still to be done and has it done by the command that it is given, one process for each training run.
//
// [Trials] plays policies on common random numbers: every one meets the same servers and jobs. The package draws no random
// number that is not fixed by its input.
package experiment
