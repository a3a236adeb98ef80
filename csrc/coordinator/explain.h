// Why a job is as it is: one dominant reason in a sentence with numbers, who is ahead, and what
// would help.
#pragma once

#include <string>
#include <vector>

#include "coordinator/device_view.h"
#include "coordinator/state.h"

namespace tide::coordinator {

struct Explanation {
  std::string state;                // as in `ps`
  std::string reason;               // a word: "ended", "paused", "waiting_for_turn", "demoted", ...
  std::string text;                 // the sentence
  std::vector<std::string> ahead;   // who gets the turn before this job, in order
  std::vector<std::string> advice;  // sentences with commands
  wire::Value::Map numbers;
};

Explanation Explain(const State& state, const Job& job, const DeviceView& view, const Moment& now);

/// "waiting", "running", "loading", "paused", "queued", "outside" or "gone".
std::string StateWord(const Job& job, const SlotView* slot);
/// The name by which people know a slot: of its job, else of the slot itself.
std::string SlotName(const State& state, const SlotView& slot);
/// Members of a lane that get the turn before `slot`, in the order in which the policy would choose
/// them now.
std::vector<const SlotView*> AheadOf(const DeviceView& view, const SlotView& slot,
                                     const Moment& now);

}  // namespace tide::coordinator
