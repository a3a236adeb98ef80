// What the job is asked for from outside: pauses and limits, followed at boundaries.
#include "base/status.h"
#include "elastic/member.h"

namespace tide::elastic {

void Member::DecidePause(uint64_t step) {
  GroupHeader& header = group_.header();
  const uint32_t pause = header.pause.load();
  if (!PauseWord::Wanted(pause)) return;
  uint64_t place = header.pause_at.load();
  // A leader that died before it voted may have decided: what it wrote holds for the repeated step.
  if (place != 0 && PausePlace::Number(place) == PauseWord::Number(pause) + 1) return;
  header.pause_at.store(PausePlace::Make(PauseWord::Number(pause) + 1, step));
}

bool Member::PauseDue(uint64_t step) const {
  const uint32_t pause = group_.header().pause.load();
  return PauseWord::Wanted(pause) &&
         group_.header().pause_at.load() == PausePlace::Make(PauseWord::Number(pause) + 1, step);
}

absl::Status Member::AwaitOrders(uint64_t step, uint64_t limit) {
  GroupHeader& header = group_.header();
  if (own().paused.exchange(1) == 0) group_.Announce();
  for (;;) {
    const uint32_t seen = header.news.load();
    if (!PauseDue(step)) {
      own().paused.store(0);
      group_.Announce();
      return absl::OkStatus();
    }
    if (header.limit.load() != limit || RegroupDue(step)) return absl::OkStatus();
    if (options_.interrupt) TIDE_RETURN_IF_ERROR(options_.interrupt());
    AwaitChange(header.news, seen, absl::Milliseconds(100));
  }
}

bool Member::PauseWanted() const { return PauseWord::Wanted(group_.header().pause.load()); }

void Member::SayPaused(bool paused) {
  own().paused.store(paused ? 1 : 0);
  group_.Announce();
}

void Member::Hold(bool held) {
  own().held.store(held ? 1 : 0);
  group_.Announce();
}

void Member::LimitDone(uint64_t word, uint64_t smallest, uint64_t moved) {
  own().limit_smallest.store(smallest);
  own().limit_moved.store(moved);
  own().limit_done.store(word);  // seq_cst: after what came of it
  group_.Announce();
}

}  // namespace tide::elastic
