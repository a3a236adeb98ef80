// How much of its time an opportunistic job may run, by how fast the guaranteed jobs run: pure
// laws.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tide::sched {

/// `aimd` is ours; `tgs` and `antman` are the laws of those systems on our samples; `off` slows
/// nobody.
enum class PaceLawId : uint32_t { kAimd = 0, kTgs = 1, kAntman = 2, kOff = 3 };

/// "aimd", "tgs", "antman", "off"; "unknown" for a number that is none.
const char* PaceLawName(PaceLawId law);
/// Errors: InvalidArgument with the accepted names.
absl::StatusOr<PaceLawId> ParsePaceLaw(absl::string_view name);

struct PaceOptions {
  PaceLawId law = PaceLawId::kAimd;
  double loss_allowed = 0.03;  // of the guaranteed job's speed, in (0, 1)
  double pace_min = 0.02;      // in (0, 1]
};

/// Errors: InvalidArgument that names the option, its range and its value; NaN is out of range.
absl::Status CheckPaceOptions(const PaceOptions& options);

/// What was seen since the last sample of the guaranteed job that loses most. `usual` is the time
/// that its work takes undisturbed, `took` what it took: usual / took is the rate at which work
/// arrives, 1 undisturbed. Numbers that are not finite or not positive say nothing.
struct PaceSample {
  bool guaranteed = false;  // a guaranteed job trains on the device
  bool learnt = true;       // what its work takes undisturbed is known
  double usual_ns = 0;
  double took_ns = 0;
  int64_t steps = 0;         // iterations that it has finished since the last sample
  double step_usual_ns = 0;  // of the last finished one
  double step_took_ns = 0;
};

/// What a law remembers from sample to sample. Starts as it is here.
struct PaceState {
  double pace = 1;   // share of time the job may run, in (0, 1]
  double loss = 0;   // of the guaranteed job, as seen last; negative: faster than usual
  bool cut = false;  // the last sample lowered the pace
  const char* reason = "too little was seen of the guaranteed job yet";  // a literal

  // of the laws
  double fast_usual_ns = 0, fast_took_ns = 0;      // gathered for the quick look of aimd
  double slow_usual_ns = 0, slow_took_ns = 0;      // gathered for the next decision
  double calm_ns = 0;                              // time without a cut
  double mean_loss = 0, last_loss = 0, noise = 0;  // of windows; noise: variance
  int windows = 0;                                 // in the mean
  bool looked = false;                             // last_loss is one
  bool slow_start = true;                          // tgs: growth is still multiplicative
  int hopeless_rounds = 0;                         // tgs: in a row
  double reference = 1;                            // tgs: arrival rate that counts as undisturbed
};

/// The state after `sample`. Without a guaranteed job the pace is 1 at once; while its usual speed
/// is not known it is pace_min, which is how that speed is found out. Otherwise:
///
///  - aimd: cut within one sample of 30 ms when far too slow (from a pace above 0.1), and each 400
///  ms
///    when slower than allowed by more than the error of the mean of the last windows, by the
///    factor 0.9 loss allowed / loss (what a job takes is about proportional to its pace), at most
///    to a tenth; raised by addition, in steps that double with each second of calm.
///  - tgs (NSDI 2023; constants of the published artefact): x 1.5 until the first loss above what
///  is
///    allowed, then + 0.025 % a round, - 8 % at each loss, / 10 and x 1.5 again beyond three times
///    what is allowed; beyond four times for 20 rounds what counts as undisturbed sinks by 20 %.
///    A round has 100 ms here, the artefact samples every 5 s.
///  - antman (OSDI 2020): whole percents, halved when a mini-batch took longer than allowed, + 1
///    after each one that did not. The paper gives the shape; the code of its coordinator is not
///    public, and the two constants are ours.
PaceState NextPace(const PaceState& state, const PaceSample& sample, const PaceOptions& options);

}  // namespace tide::sched
