// Commands of the command line: checks, dispatch, turn policies, shutdown; and the tick.
#include "absl/strings/str_cat.h"
#include "coordinator/decide.h"
#include "coordinator/text.h"

namespace tide::coordinator {
namespace {

constexpr int64_t kRateWindowNs = 2'000'000'000;
constexpr double kRateSmoothing =
    0.5;  // of the newest window; two windows are enough to show a change

void OnPolicy(Context& context, const Waiter& waiter, const wire::Command& command) {
  const auto refuse = [&](std::string message, std::string advice) {
    ReplyError(context, waiter.peer, waiter.request_id,
               {"invalid", std::move(message), std::move(advice)});
  };
  const auto policy = sched::ParseTurnPolicy(command.policy);
  if (!policy.ok())
    return refuse(std::string(policy.status().message()), "for instance: tide policy fair");
  const DeviceView view = context.device.Read();
  if (!view.present)
    return refuse("no device table exists yet", "start a job first: `tide run -- python train.py`");
  const LaneView* lane = view.Lane(static_cast<int>(command.lane));
  if (lane == nullptr) {
    return refuse(
        absl::StrCat("lane ", command.lane, " is out of range; 0 to ", shm::kLaneCount - 1),
        "`tide status` lists the lanes in use");
  }
  const std::string previous = sched::TurnPolicyName(lane->policy);
  const std::string name = sched::TurnPolicyName(*policy);
  const std::string text =
      absl::StrCat("turn policy of lane ", lane->id, " ", previous, " -> ", name);
  context.effects.push_back(SetLanePolicy{lane->id, *policy});
  if (previous != name)
    Emit(context, "policy_changed", "", text, {{"lane", lane->id}, {"policy", name}});
  Reply(context, waiter.peer, waiter.request_id,
        {{"lane", lane->id}, {"policy", name}, {"previous", previous}, {"text", text}});
}

void OnShutdown(Context& context, const Waiter& waiter) {
  const size_t live = context.state.live_jobs();
  const std::string text = absl::StrCat("tided (pid ", context.state.daemon_pid, ") ends; ", live,
                                        " jobs train on without it");
  Emit(context, "daemon_stopping", "", text);
  Reply(context, waiter.peer, waiter.request_id, {{"text", text}});
  context.effects.push_back(Stop{"asked by `tide shutdown`"});
}

void TickRates(Context& context) {
  bool due = false;
  for (const auto& [id, job] : context.state.jobs) {
    due = due || (job.live() && context.now.mono_ns - job.rate_at_ns >= kRateWindowNs);
  }
  if (!due) return;
  const DeviceView view = context.device.Read();
  for (auto& [id, job] : context.state.jobs) {
    const int64_t passed_ns = context.now.mono_ns - job.rate_at_ns;
    if (!job.live() || passed_ns < kRateWindowNs) continue;
    const SlotView* slot = view.Find(job.pid, static_cast<uint64_t>(job.start_time), job.slot);
    const int64_t iterations = slot != nullptr ? slot->iterations
                               : job.report    ? job.report->iterations
                                               : 0;
    if (job.rate_iterations >= 0 && iterations >= job.rate_iterations) {
      const double rate = static_cast<double>(iterations - job.rate_iterations) / (passed_ns / 1e9);
      job.steps_per_s += (job.steps_per_s == 0 ? 1 : kRateSmoothing) * (rate - job.steps_per_s);
    }
    job.rate_iterations = iterations;
    job.rate_at_ns = context.now.mono_ns;
  }
}

}  // namespace

void OnCommand(Context& context, PeerId peer, uint64_t request_id, const wire::Command& command) {
  const int64_t timeout_ms = std::clamp<int64_t>(command.timeout_ms, 0, 3'600'000);
  const Waiter waiter{peer, request_id, context.now.mono_ns + timeout_ms * 1'000'000};
  const std::string& what = command.what;
  if (what == "policy") return OnPolicy(context, waiter, command);
  if (what == "shutdown") return OnShutdown(context, waiter);
  const bool settings =
      what == "limit" || what == "guaranteed" || what == "priority" || what == "weight";
  const bool order =
      what == "pause" || what == "resume" || what == "stop" || what == "limit_device";
  if (!settings && !order) {
    return ReplyError(
        context, peer, request_id,
        {"invalid", absl::StrCat("no command is named \"", wire::Utf8Prefix(what, 40), "\""),
         "commands: limit, limit_device, guaranteed, priority, weight, pause, resume, stop, "
         "policy, shutdown"});
  }
  Job* job = context.state.FindJob(command.job);
  if (job == nullptr)
    return ReplyError(context, peer, request_id, NoSuchJob(context.state, command.job));
  if (!job->live()) {
    return ReplyError(context, peer, request_id,
                      {"not_found", absl::StrCat(job->name, " has ended"),
                       absl::StrCat("jobs: ", context.state.KnownNames())});
  }
  if (settings) return OnSettingsCommand(context, waiter, *job, command);
  OnOrderCommand(context, waiter, *job, command);
}

bool TickIsDue(const State& state) { return !state.changes.empty() || !state.orders.empty(); }

void Tick(Context& context) {
  TickChanges(context);
  TickOrders(context);
  TickRates(context);
  TickCluster(context);
  TickUplink(context);
}

}  // namespace tide::coordinator
