// One function a law; what is common to all (nobody to protect, nothing learnt, bounds) around
// them.
#include "sched/pace_law.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace tide::sched {
namespace {

constexpr const char* kNames[] = {"aimd", "tgs", "antman", "off"};

// aimd. The quick look has to be sure that it sees more than the noise of a few operators.
constexpr double kFastNs = 30e6;
constexpr double kFastLossMin = 0.15;
constexpr double kFastLossPerAllowed = 4;
// One burst of a job that runs this little fills a short window and is no reason.
constexpr double kFastPaceMin = 0.1;
constexpr double kSlowNs = 400e6;
constexpr double kAim = 0.9;         // share of the loss allowed that a cut aims at
constexpr int kWindowsMax = 8;       // of the mean
constexpr double kNoiseWindows = 8;  // by which the noise is known
constexpr double kCutMost = 0.1;     // factor of the hardest cut
constexpr double kCutLeast = 0.8;    // and of the softest
constexpr double kRaiseBelow =
    0.5;  // of the loss allowed: between this and all of it the pace stays
constexpr double kStepPerSecond = 0.02;  // right after a cut, doubling each second
constexpr double kStepPerSecondMax = 0.5;

// tgs, as in its published artefact (its floor of 1000 blocks a window has no counterpart here).
constexpr double kTgsRoundNs = 100e6;
constexpr double kTgsGrowth = 1.5;
constexpr double kTgsStep = 0.00025;
constexpr double kTgsCut = 0.92;
constexpr double kTgsCollapse = 0.1;
constexpr double kTgsCollapseLosses = 3;  // of the loss allowed: 9 % of 3 %
constexpr double kTgsHopelessLosses = 4;  // 12 % of 3 %
constexpr int kTgsHopelessRounds = 20;
constexpr double kTgsReferenceCut = 0.8;

// antman
constexpr double kAntmanCut = 0.5;
constexpr double kAntmanStep = 0.01;

bool Says(double usual_ns, double took_ns) {
  return std::isfinite(usual_ns) && std::isfinite(took_ns) && usual_ns > 0 && took_ns > 0;
}

// A short window is enough where the job is far too slow. True when it has cut.
bool AimdQuickLook(const PaceOptions& options, PaceState& next) {
  if (next.fast_took_ns < kFastNs) return false;
  const double loss = 1 - next.fast_usual_ns / next.fast_took_ns;
  next.fast_usual_ns = next.fast_took_ns = 0;
  const double band = std::max(kFastLossMin, kFastLossPerAllowed * options.loss_allowed);
  if (next.pace <= kFastPaceMin || loss <= band) return false;
  next.loss = loss;
  next.reason = "operators of the guaranteed job take far longer";
  return true;
}

// Windows differ by what the machine does beside: a mean of the last ones has to be above what is
// allowed by more than its own error, which the differences between windows show. True when it has
// cut.
bool AimdLongLook(const PaceOptions& options, PaceState& next) {
  const double loss = 1 - next.slow_usual_ns / next.slow_took_ns;
  next.windows = std::min(next.windows + 1, kWindowsMax);
  next.mean_loss += (loss - next.mean_loss) / next.windows;
  if (next.looked) {
    const double difference = loss - next.last_loss;
    next.noise += (difference * difference / 2 - next.noise) / kNoiseWindows;
  }
  next.looked = true;
  next.last_loss = loss;
  next.loss = next.mean_loss;
  const double error = std::sqrt(next.noise / next.windows);
  if (next.mean_loss > options.loss_allowed + error) {
    next.reason = "the guaranteed job is slower than allowed";
    return true;
  }
  next.calm_ns += next.slow_took_ns;
  next.reason = "the guaranteed job keeps its speed";
  if (next.mean_loss < kRaiseBelow * options.loss_allowed) {
    const double per_second =
        std::min(kStepPerSecondMax, kStepPerSecond * std::exp2(next.calm_ns * 1e-9));
    next.pace += per_second * next.slow_took_ns * 1e-9;
  }
  next.slow_usual_ns = next.slow_took_ns = 0;
  return false;
}

void Aimd(const PaceSample& sample, const PaceOptions& options, PaceState& next) {
  if (!Says(sample.usual_ns, sample.took_ns)) return;
  next.fast_usual_ns += sample.usual_ns, next.fast_took_ns += sample.took_ns;
  next.slow_usual_ns += sample.usual_ns, next.slow_took_ns += sample.took_ns;
  const bool cut =
      AimdQuickLook(options, next) || (next.slow_took_ns >= kSlowNs && AimdLongLook(options, next));
  if (!cut) return;
  next.pace *= std::clamp(kAim * options.loss_allowed / next.loss, kCutMost, kCutLeast);
  // What was seen at the old pace says nothing about the new one; the noise stays what it is.
  next.fast_usual_ns = next.fast_took_ns = next.slow_usual_ns = next.slow_took_ns = 0;
  next.calm_ns = next.mean_loss = 0;
  next.windows = 0;
}

void Tgs(const PaceSample& sample, const PaceOptions& options, PaceState& next) {
  if (!Says(sample.usual_ns, sample.took_ns)) return;
  next.slow_usual_ns += sample.usual_ns, next.slow_took_ns += sample.took_ns;
  if (next.slow_took_ns < kTgsRoundNs) return;
  const double rate = next.slow_usual_ns / next.slow_took_ns;
  next.slow_usual_ns = next.slow_took_ns = 0;
  next.loss = 1 - rate / next.reference;
  next.hopeless_rounds =
      next.loss >= kTgsHopelessLosses * options.loss_allowed ? next.hopeless_rounds + 1 : 0;
  if (next.hopeless_rounds >= kTgsHopelessRounds) {
    next.reference *= kTgsReferenceCut;
    next.hopeless_rounds = 0;
  }
  if (next.loss <= options.loss_allowed) {
    next.pace = next.slow_start ? next.pace * kTgsGrowth : next.pace + kTgsStep;
    next.reason = "the guaranteed job keeps its rate";
  } else if (next.loss > kTgsCollapseLosses * options.loss_allowed) {
    next.pace *= kTgsCollapse;
    next.slow_start = true;
    next.reason = "the rate of the guaranteed job has collapsed";
  } else {
    next.pace = next.slow_start ? next.pace / kTgsGrowth : next.pace * kTgsCut;
    next.slow_start = false;
    next.reason = "the rate of the guaranteed job is below what is allowed";
  }
}

void Antman(const PaceSample& sample, const PaceOptions& options, PaceState& next) {
  if (sample.steps <= 0 || !Says(sample.step_usual_ns, sample.step_took_ns)) return;
  next.loss = 1 - sample.step_usual_ns / sample.step_took_ns;
  const bool slow = next.loss > options.loss_allowed;
  next.pace =
      slow ? next.pace * kAntmanCut : next.pace + kAntmanStep * static_cast<double>(sample.steps);
  // Its control is a whole percentage; below one percent the option pace.min rules.
  if (next.pace > 0.01) next.pace = std::floor(next.pace * 100 + 1e-6) / 100;
  next.reason = slow ? "a mini-batch of the guaranteed job took longer than allowed"
                     : "the mini-batches of the guaranteed job keep their time";
}

}  // namespace

const char* PaceLawName(PaceLawId law) {
  const auto index = static_cast<size_t>(law);
  return index < std::size(kNames) ? kNames[index] : "unknown";
}

absl::StatusOr<PaceLawId> ParsePaceLaw(absl::string_view name) {
  for (size_t index = 0; index < std::size(kNames); ++index) {
    if (name == kNames[index]) return static_cast<PaceLawId>(index);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("pace.law \"", name, "\" is not one of aimd, tgs, antman, off"));
}

absl::Status CheckPaceOptions(const PaceOptions& options) {
  if (!(options.loss_allowed > 0 && options.loss_allowed < 1)) {  // true for NaN
    return absl::InvalidArgumentError(absl::StrCat("pace.loss_allowed ", options.loss_allowed,
                                                   " is not between 0 and 1, without both"));
  }
  if (!(options.pace_min > 0 && options.pace_min <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("pace.min ", options.pace_min, " is not above 0 and at most 1"));
  }
  return absl::OkStatus();
}

PaceState NextPace(const PaceState& state, const PaceSample& sample, const PaceOptions& options) {
  if (options.law == PaceLawId::kOff) return {.reason = "the law is off"};
  if (!sample.guaranteed) return {.reason = "no guaranteed job trains here"};
  PaceState next = state;
  if (!sample.learnt) {
    next = PaceState{.pace = options.pace_min,
                     .reason = "what the guaranteed job needs undisturbed is being found out"};
  } else if (options.law == PaceLawId::kTgs) {
    Tgs(sample, options, next);
  } else if (options.law == PaceLawId::kAntman) {
    Antman(sample, options, next);
  } else {
    Aimd(sample, options, next);
  }
  next.pace = std::clamp(next.pace, options.pace_min, 1.0);
  next.cut = next.pace < state.pace;
  return next;
}

}  // namespace tide::sched
