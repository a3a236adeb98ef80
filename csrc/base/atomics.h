// Short names for what code of shared counters says on every line.
#pragma once

#include <atomic>

namespace tide {

/// For a number that publishes nothing but itself.
inline constexpr auto kRelaxed = std::memory_order_relaxed;

}  // namespace tide
