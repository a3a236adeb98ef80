// The reasons of `tide explain`, strongest first.
#include "coordinator/explain.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/text.h"
#include "sched/admission.h"

namespace tide::coordinator {
namespace {

constexpr int64_t kStuckIterations = 10;  // a holder this many iterations late is said to be stuck
constexpr int64_t kStuckNsMin = 2'000'000'000;

struct Inputs {
  const State& state;
  const Job& job;
  const DeviceView& view;
  const SlotView* slot;  // nullptr: the job has none
  const Moment& now;
};

bool ExplainEnded(const Inputs& in, Explanation& out) {
  if (in.job.live()) return false;
  const Exit& exit = *in.job.exit;
  const std::string ago = Span(absl::Seconds(in.now.unix_s() - exit.time));
  out.reason = "ended";
  if (exit.signal) {
    const absl::string_view name = SignalName(*exit.signal);
    out.text = absl::StrCat("died (signal ", *exit.signal, name.empty() ? "" : ", ", name, ") ",
                            ago, " ago");
    if (*exit.signal == 9)
      out.advice.push_back(
          "signal 9 without a `kill` of yours is often the kernel's out-of-memory killer: `dmesg | "
          "tail`");
  } else if (exit.code) {
    out.text = absl::StrCat("ended with exit code ", *exit.code, " ", ago, " ago");
  } else {
    out.text = absl::StrCat("ended ", ago, " ago; how is not known");
  }
  return true;
}

bool ExplainPaused(const Inputs& in, Explanation& out) {
  const bool slot_paused = in.slot != nullptr && in.slot->phase == shm::Phase::kPaused;
  if (!in.job.paused && !slot_paused) return false;
  out.reason = "paused";
  const std::string by = in.job.paused_by.empty() ? "its own process" : in.job.paused_by;
  out.text = absl::StrCat("paused by ", by);
  if (in.job.paused_since > 0) {
    absl::StrAppend(&out.text, " ", Span(absl::Seconds(in.now.unix_s() - in.job.paused_since)),
                    " ago");
  }
  absl::StrAppend(&out.text, "; `tide resume ", in.job.name, "` continues it");
  out.advice.push_back(absl::StrCat("tide resume ", in.job.name));
  return true;
}

bool ExplainQueued(const Inputs& in, Explanation& out) {
  if (in.slot == nullptr || in.slot->phase != shm::Phase::kQueued) return false;
  out.reason = "queued";
  std::vector<sched::AdmissionMember> members;
  for (const SlotView& slot : in.view.slots) {
    sched::AdmissionMember& member = members.emplace_back();
    member.id = SlotId(slot.index);
    member.joined = absl::Nanoseconds(slot.joined_ns);
    member.persistent = Bytes(slot.persistent_bytes + slot.outside_bytes);
    member.scratch = Bytes(slot.scratch_peak_bytes);
    member.lane = slot.lane;
    member.priority = static_cast<sched::Priority>(slot.priority);
    member.queued = slot.phase == shm::Phase::kQueued;
    member.measured = member.queued;  // nobody else is decided on
    if (!member.queued) out.ahead.push_back(SlotName(in.state, slot));
  }
  sched::AdmissionOptions options;
  options.capacity = Bytes(in.view.capacity_bytes);
  options.lane_fixed = in.slot->lane;
  options.queue = true;
  out.text = absl::StrCat("waiting to be admitted: ",
                          sched::Admit(members, SlotId(in.slot->index), options).reason);
  out.advice.push_back(absl::StrCat(
      "TIDE_ADMISSION=stream runs it at once, with pages out between turns; a limit for another "
      "job makes room: tide limit JOB SIZE"));
  return true;
}

bool ExplainNoSlot(const Inputs& in, Explanation& out) {
  if (in.slot != nullptr) return false;
  out.reason = "no_slot";
  out.text = in.job.attached()
                 ? "connected, but it holds no slot in the device table yet: no iteration has begun"
                 : absl::StrCat("its process ", in.job.pid, " lives, but it is not connected");
  return true;
}

bool ExplainReclaim(const Inputs& in, Explanation& out) {
  if (in.slot->reclaim_bytes <= 0) return false;
  out.reason = "giving_back";
  out.text = absl::StrCat("others asked it to give back ", Size(in.slot->reclaim_bytes),
                          "; it does so while it waits or at its next boundary");
  out.numbers.emplace_back("reclaim_bytes", in.slot->reclaim_bytes);
  return true;
}

bool ExplainSlowed(const Inputs& in, Explanation& out) {
  if (in.slot->pace >= 1) return false;
  out.reason = "slowed";
  const SlotView* other = in.view.Slot(in.slot->pace_for);
  const std::string name = other != nullptr ? SlotName(in.state, *other) : "a guaranteed job";
  out.text = absl::StrFormat("slowed: it may run %.1f %% of the time (law %s) for %s, ",
                             100 * in.slot->pace, sched::PaceLawName(in.slot->pace_law), name);
  if (other == nullptr || other->step_usual_ns <= 0) {
    out.text += "whose undisturbed speed is being found out";
  } else {
    absl::StrAppendFormat(&out.text, "which loses %.1f %% of its speed",
                          100 * std::max(in.slot->pace_loss, 0.0));
  }
  if (other != nullptr) out.ahead.push_back(name);
  out.numbers.emplace_back("pace", in.slot->pace);
  out.numbers.emplace_back("loss", in.slot->pace_loss);
  out.advice.push_back(absl::StrCat("tide priority ", in.job.name, " normal runs it freely"));
  return true;
}

// The leader of a gang asks for no turn while another process of it is paused.
bool ExplainPausedRank(const Inputs& in, Explanation& out) {
  if (in.slot->phase != shm::Phase::kWaiting) return false;
  for (const SlotView& rank : in.view.slots) {
    if (rank.gang != in.slot->gang || rank.phase != shm::Phase::kPaused) continue;
    const std::string name = SlotName(in.state, rank);
    out.reason = "waiting_for_gang";
    out.text = absl::StrCat("waiting for ", name, " of its gang, which is paused");
    out.ahead.push_back(name);
    out.advice.push_back(absl::StrCat("tide resume ", name));
    return true;
  }
  return false;
}

// A follower of a gang waits for its leader, which waits for the turn.
bool ExplainGang(const Inputs& in, Explanation& out) {
  if (in.slot->gang == 0) return false;
  if (in.slot->gang_rank == 0) return ExplainPausedRank(in, out);
  const bool held = in.slot->gang_state == shm::GangState::kHeld;
  if (!held && in.slot->gang_state != shm::GangState::kParked) return false;
  for (const SlotView& leader : in.view.slots) {
    if (leader.gang != in.slot->gang || leader.gang_rank != 0) continue;
    const std::string name = SlotName(in.state, leader);
    out.reason = "waiting_for_gang";
    out.text = held
                   ? absl::StrCat("waiting for the turn of its gang, which ", name, " takes")
                   : absl::StrCat("waiting until all ranks of its gang are between two iterations");
    out.ahead.push_back(name);
    out.advice.push_back(absl::StrCat("tide explain ", name, " says what that one waits for"));
    return true;
  }
  return false;
}

bool ExplainTurn(const Inputs& in, Explanation& out) {
  if (in.slot->phase != shm::Phase::kWaiting) return false;
  const LaneView* lane = in.view.Lane(in.slot->lane);
  if (lane == nullptr) {
    out.reason = "waiting_for_memory";
    out.text = absl::StrCat("waiting for memory: ", Size(in.view.used_bytes), " of ",
                            Size(in.view.capacity_bytes), " are in use");
    out.advice.push_back("tide ps shows who holds it; tide limit JOB SIZE makes room");
    return true;
  }
  out.reason = "waiting_for_turn";
  for (const SlotView* ahead : AheadOf(in.view, *in.slot, in.now)) {
    out.ahead.push_back(SlotName(in.state, *ahead));
  }
  const SlotView* holder = in.view.Slot(lane->holder);
  if (holder == nullptr) {
    out.text =
        absl::StrCat("waiting for its turn: lane ", lane->id, " is free and about to be passed on");
    return true;
  }
  const std::string name = SlotName(in.state, *holder);
  const int64_t held_ns = std::max<int64_t>(0, in.now.mono_ns - lane->granted_ns);
  out.text = absl::StrCat("waiting for its turn: ", name, " holds lane ", lane->id, " (iteration ",
                          holder->iterations, ", usually ",
                          Span(absl::Nanoseconds(holder->last_iteration_ns)), ")");
  if (!out.ahead.empty())
    absl::StrAppend(&out.text, "; then ", absl::StrJoin(out.ahead, ", "), " before it");
  out.numbers.emplace_back("held_ms", held_ns / 1e6);
  out.numbers.emplace_back("holder_iteration_ms", holder->last_iteration_ns / 1e6);
  if (held_ns > std::max(kStuckNsMin, kStuckIterations * holder->last_iteration_ns)) {
    absl::StrAppend(&out.text, "; it has held the turn for ", Span(absl::Nanoseconds(held_ns)),
                    ", far longer than usual");
    out.advice.push_back(absl::StrCat("tide pause ", name));
  }
  out.advice.push_back(absl::StrCat("tide policy priority, and a higher priority: tide priority ",
                                    in.job.name, " guaranteed"));
  return true;
}

bool ExplainLoading(const Inputs& in, Explanation& out) {
  if (in.slot->phase != shm::Phase::kLoading) return false;
  out.reason = "loading";
  out.text = absl::StrCat("waiting for its data: iteration ", in.slot->iterations + 1,
                          " has no batch yet; its turn passes to others meanwhile");
  out.advice.push_back("more DataLoader workers, or faster storage");
  return true;
}

bool ExplainDemoted(const Inputs& in, Explanation& out) {
  if (in.slot->demoted_bytes <= 0) return false;
  const int64_t wants = in.slot->resident_bytes() + in.slot->demoted_bytes;
  const int64_t limit =
      in.slot->budget_bytes_max != 0 ? in.slot->budget_bytes_max : in.job.wanted.limit_bytes;
  out.reason = "demoted";
  out.text =
      absl::StrCat("running; ", Size(in.slot->demoted_bytes), " of ", Size(wants), " are demoted");
  if (limit != 0 && limit < wants) {
    absl::StrAppend(&out.text, " because limit ", Size(limit), " is below its ", Size(wants));
    out.advice.push_back(absl::StrCat("tide limit ", in.job.name, " none"));
  } else {
    absl::StrAppend(&out.text, " because others needed the memory; they come back as it is used");
  }
  out.numbers.emplace_back("demoted", in.slot->demoted_bytes);
  out.numbers.emplace_back("wants", wants);
  out.numbers.emplace_back("limit", limit);
  return true;
}

void ExplainRunning(const Inputs& in, Explanation& out) {
  out.reason = out.state;
  const std::string limit = Limit(in.job.wanted.limit_bytes);
  if (out.state == "running") {
    out.text = absl::StrCat("running, iteration ", in.slot->iterations + 1, ", usually ",
                            Span(absl::Nanoseconds(in.slot->last_iteration_ns)), "; all its ",
                            Size(in.slot->resident_bytes()), " are resident (limit ", limit, ")");
  } else {
    out.text =
        absl::StrCat("outside of iterations (loading, evaluating or saving) after iteration ",
                     in.slot->iterations, "; it holds ", Size(in.slot->resident_bytes()),
                     " (limit ", limit, ")");
  }
}

}  // namespace

std::string StateWord(const Job& job, const SlotView* slot) {
  if (!job.live()) return "gone";
  if (job.paused) return "paused";
  if (slot != nullptr) return PhaseName(slot->phase);
  for (const char* word : {"waiting", "running", "loading", "paused", "queued"}) {
    if (job.report && job.report->phase == word) return word;
  }
  return "outside";
}

std::string SlotName(const State& state, const SlotView& slot) {
  for (const auto& [id, job] : state.jobs) {
    if (job.live() && job.pid == slot.pid &&
        static_cast<uint64_t>(job.start_time) == slot.start_time) {
      return job.name;
    }
  }
  return slot.name.empty() ? absl::StrCat("pid ", slot.pid) : slot.name;
}

std::vector<const SlotView*> AheadOf(const DeviceView& view, const SlotView& slot,
                                     const Moment& now) {
  std::vector<const SlotView*> ahead;
  const LaneView* lane = view.Lane(slot.lane);
  if (lane == nullptr) return ahead;
  std::vector<sched::TurnMember> members;
  for (const SlotView& other : view.slots) {
    if (other.lane != slot.lane || other.index == lane->holder) continue;
    sched::TurnMember& member = members.emplace_back();
    member.id = SlotId(other.index);
    member.joined = absl::Nanoseconds(other.joined_ns);
    member.service = absl::Nanoseconds(other.service_ns);
    member.virtual_service = absl::Nanoseconds(other.virtual_ns);
    member.iterations = other.rounds;
    if (other.remaining_ns >= 0) member.remaining = absl::Nanoseconds(other.remaining_ns);
    member.weight = other.weight;
    member.priority = static_cast<sched::Priority>(other.priority);
    member.ready = other.ready || other.index == slot.index;
    member.last_iteration = absl::Nanoseconds(other.last_iteration_ns);
  }
  sched::TurnState turn;
  turn.now = absl::Nanoseconds(now.mono_ns);
  turn.quantum = absl::Nanoseconds(lane->quantum_ns);
  if (lane->holder >= 0) turn.holder = SlotId(lane->holder);
  for (size_t round = 0; round < members.size(); ++round) {
    const auto next = sched::NextTurn(lane->policy, members, turn).next;
    if (!next || next->value() == slot.index) break;
    ahead.push_back(view.Slot(next->value()));
    std::erase_if(members, [&](const sched::TurnMember& member) { return member.id == *next; });
  }
  return ahead;
}

Explanation Explain(const State& state, const Job& job, const DeviceView& view, const Moment& now) {
  const SlotView* slot =
      job.live() ? view.Find(job.pid, static_cast<uint64_t>(job.start_time), job.slot) : nullptr;
  Explanation out;
  out.state = StateWord(job, slot);
  const Inputs in{state, job, view, slot, now};
  const bool explained = ExplainEnded(in, out) || ExplainPaused(in, out) ||
                         ExplainNoSlot(in, out) || ExplainQueued(in, out) ||
                         ExplainSlowed(in, out) || ExplainGang(in, out) || ExplainTurn(in, out) ||
                         ExplainLoading(in, out) || ExplainReclaim(in, out) ||
                         ExplainDemoted(in, out);
  if (!explained) ExplainRunning(in, out);
  if (job.live() && job.settled_revision < job.revision) {
    absl::StrAppend(&out.text, "; limit ", Limit(job.wanted.limit_bytes),
                    job.attached() ? " takes effect at its next boundary"
                                   : " waits until it is connected again");
  }
  if (job.live() && !job.attached())
    out.advice.push_back("it is not connected to the daemon; it tries every 5 s");
  if (slot != nullptr) {
    out.numbers.emplace_back("resident", slot->resident_bytes());
    out.numbers.emplace_back("outside", slot->outside_bytes);
    out.numbers.emplace_back("iterations", slot->iterations);
    out.numbers.emplace_back("iteration_ms", slot->last_iteration_ns / 1e6);
  }
  return out;
}

}  // namespace tide::coordinator
