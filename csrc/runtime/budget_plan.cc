#include "runtime/budget_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tide::runtime {
namespace {

// Left free on the device when pages come back unasked, so that the next small allocation of
// somebody does not send them out again.
constexpr Bytes kPromoteMargin = MiB(32);
constexpr Bytes kUnlimited = Bytes(int64_t{1} << 60);
// The window: at least enough to read and write at all; beside what operators use at one time,
// enough to keep a disk busy while they work on it. More only takes memory from the job.
constexpr Bytes kWindowMin = MiB(16);
constexpr Bytes kReadAhead = MiB(32);
constexpr Bytes kWindowMax = MiB(96);

Bytes FloorPages(Bytes bytes) {
  return Bytes(std::max<int64_t>(0, bytes.value()) >> kPageShift << kPageShift);
}
PageCount PagesIn(Bytes bytes) { return PageCount(FloorPages(bytes).value() >> kPageShift); }

}  // namespace

Bytes PlanWindow(const BudgetState& state, Bytes depth) {
  if (state.device_free < kWindowMax) return kWindowMin;
  Bytes window = depth + kReadAhead;
  Bytes most = kWindowMax;
  if (state.limit > Bytes(0)) {
    const Bytes room = state.limit - state.outside - state.lane_peak;
    if (room < state.private_scratch + window)
      window = std::max(window, state.largest_operator + kWindowMin);
    most = std::max(most, Bytes(room.value() / 2));
    most = std::max(std::min(most, room), kWindowMin);
  }
  return std::min(window, most);
}

BudgetPlan PlanBudget(const BudgetState& state) {
  BudgetPlan plan;
  // What private pages may take, from the limit.
  Bytes room = kUnlimited;
  if (state.limit > Bytes(0)) room = state.limit - state.outside - state.lane_peak;
  // What others asked for, down to the guaranteed share.
  const Bytes held = state.alive + state.cached;
  if (state.asked > Bytes(0)) {
    const Bytes floor = std::max(state.guaranteed - state.outside - state.lane_peak, Bytes(0));
    const Bytes give = std::min(state.asked, held - floor);
    if (give > Bytes(0)) {
      room = std::min(room, held - give);
      plan.given_to_others = give;
    }
  }
  if (room == kUnlimited) {
    if (state.trim_scratch && state.cached > state.private_scratch) {
      plan.trim = true;
      plan.trim_keep = PagesFor(state.private_scratch);
    }
    if (state.asked == Bytes(0) && !state.recently_asked) {
      plan.promote = std::min(PagesIn(state.demoted),
                              PagesIn(state.device_free - state.private_scratch - kPromoteMargin));
    }
    if (plan.promote > PageCount(0)) plan.reason = "room on the device";
    return plan;
  }
  // What can stay alive: room for the iteration's own scratch, and for the window if anything
  // streams.
  const Bytes scratch =
      state.asked > Bytes(0) && state.limit == Bytes(0) ? Bytes(0) : state.private_scratch;
  Bytes keep = room - scratch;
  if (state.alive > keep || state.demoted > Bytes(0)) {
    const bool all_fits = state.alive + state.demoted <= keep;
    if (!all_fits) keep -= state.window;
  }
  if (state.alive > keep) {
    plan.demote = PagesFor(state.alive - std::max(keep, Bytes(0)));
    plan.reason =
        absl::StrCat("alive ", FormatBytes(state.alive), ", room for ", FormatBytes(keep));
  } else if (state.demoted > Bytes(0) && state.asked == Bytes(0) && !state.recently_asked) {
    const Bytes free =
        std::min(keep - state.alive, state.device_free - state.private_scratch - kPromoteMargin);
    plan.promote = std::min(PagesIn(state.demoted), PagesIn(free));
    if (plan.promote > PageCount(0)) plan.reason = absl::StrCat("room for ", FormatBytes(free));
  }
  const Bytes alive_after =
      std::max(state.alive - plan.demote.bytes(), Bytes(0)) + plan.promote.bytes();
  const Bytes keep_cached = std::max(FloorPages(room - alive_after), Bytes(0));
  if (state.cached > keep_cached) {
    plan.trim = true;
    plan.trim_keep = PagesIn(keep_cached);
  }
  return plan;
}

SmallestLimit SmallestPossibleLimit(const BudgetState& state) {
  SmallestLimit smallest;
  smallest.outside = state.outside;
  smallest.pinned = state.pinned;
  const bool recorded = state.largest_operator > Bytes(0);
  smallest.scratch = state.lane_peak + (recorded ? state.largest_operator : state.private_scratch);
  smallest.window = kWindowMin;
  smallest.total = smallest.outside + smallest.pinned + smallest.scratch + smallest.window;
  return smallest;
}

}  // namespace tide::runtime
