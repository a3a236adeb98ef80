// A channel inside one process on simulated time, with seeded drops, delays and cuts, for tests and
// simulation.
#pragma once

#include <memory>
#include <utility>

#include "base/clock.h"
#include "wire/channel.h"

namespace tide::wire {

/// Chances per frame in [0, 1]. A real stream loses frames only in a cut; drops are harder than
/// life.
struct LoopbackFaults {
  uint64_t seed = 1;
  double drop = 0;
  double cut = 0;  // the frame is lost and both ends find the link cut
  absl::Duration delay_min = absl::ZeroDuration();
  absl::Duration delay_max = absl::ZeroDuration();
};

/// Two connected ends; `clock` must outlive both. Frames keep their order within a direction. Wait
/// advances the clock to the next arrival when nothing is there yet.
std::pair<std::unique_ptr<Channel>, std::unique_ptr<Channel>> LoopbackPair(
    SimulatedClock& clock, LoopbackFaults faults = {});

}  // namespace tide::wire
