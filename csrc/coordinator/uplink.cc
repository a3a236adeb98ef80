// What a joined daemon does for the coordinator.
#include "coordinator/uplink.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/decide.h"

namespace tide::coordinator {
namespace {

constexpr size_t kPassedMax = 1024;
constexpr int64_t kPassedNs = 10'000'000'000;
constexpr int64_t kReportNs = 1'000'000'000;  // of one job; a coordinator has thousands of them
constexpr int64_t kOrderTimeoutMs = 60'000;

void SayAll(Context& context, std::vector<wire::Message> messages) {
  for (wire::Message& message : messages) context.effects.push_back(SendUp{std::move(message)});
}

/// The ranks of a job are called after it: train[0], train[1], ...
bool IsOf(const std::string& name, const std::string& key) {
  return name == key || (absl::StartsWith(name, key) && name[key.size()] == '[');
}

/// Orders the processes of a job here to pause or to go on; true when all of them are where they
/// should be.
bool Steer(Context& context, const NodeAgent::Step& step) {
  const bool hold = step.state == wire::AllocationState::kHold;
  bool there = true;
  for (auto& [id, job] : context.state.jobs) {
    if (!job.live() || !IsOf(job.name, step.key) || job.paused == hold) continue;
    there = false;
    if (OrderUnderWay(context.state, job) || !job.attached()) continue;
    OnOrderCommand(context, Waiter{}, job,
                   {.what = hold ? "pause" : "resume",
                    .timeout_ms = kOrderTimeoutMs,
                    .by = absl::StrCat("the cluster (", step.reason, ")")});
  }
  return there;
}

void TakeSteps(Context& context) {
  NodeAgent& agent = *context.state.uplink.agent;
  for (const NodeAgent::Step& step : agent.NextSteps()) {
    // What has ended is nobody's to pause; what may run needs no answer to count as running.
    const bool there = step.state == wire::AllocationState::kEnd || Steer(context, step);
    if (there || step.state == wire::AllocationState::kRun) agent.Took(step.key, step.state);
  }
}

}  // namespace

void OnUplinkOpen(Context& context) {
  SayAll(context, context.state.uplink.agent->Connected(context.now.mono_ns));
  Emit(context, "cluster_joined", "",
       absl::StrCat("joined a cluster as node ", context.state.uplink.agent->options().node));
}

void OnUplinkFrame(Context& context, uint64_t request_id, const wire::Message& message) {
  UplinkState& uplink = context.state.uplink;
  SayAll(context, uplink.agent->OnMessage(message, context.now.mono_ns));
  if (const auto* answer = std::get_if<wire::Answer>(&message)) {
    const auto found = uplink.passed.find(request_id);
    if (found != uplink.passed.end()) {
      context.effects.push_back(Send{found->second.peer, *answer, found->second.request_id});
      uplink.passed.erase(found);
    } else if (answer->error) {
      Emit(context, "cluster_refused", "",
           absl::StrCat("the coordinator refused: ", answer->error->message));
    }
  }
  TakeSteps(context);
}

void OnUplinkLost(Context& context, const std::string& why) {
  UplinkState& uplink = context.state.uplink;
  if (uplink.agent->connected()) {
    Emit(context, "cluster_link_down", "",
         absl::StrCat("the link to the coordinator is down (", why,
                      "); jobs go on with what was granted last"));
  }
  uplink.agent->Lost();
  for (const auto& [number, passed] : std::exchange(uplink.passed, {})) {
    ReplyError(context, passed.peer, passed.request_id,
               {"unavailable", "the link to the coordinator is down", "try again in a while"});
  }
}

void TickUplink(Context& context) {
  UplinkState& uplink = context.state.uplink;
  if (!uplink.agent) return;
  SayAll(context, uplink.agent->Tick(context.now.mono_ns));
  TakeSteps(context);
  std::erase_if(uplink.passed, [&](const auto& entry) {
    if (entry.second.deadline_ns > context.now.mono_ns) return false;
    ReplyError(context, entry.second.peer, entry.second.request_id,
               {"timeout", "the coordinator did not answer in time", "try again in a while"});
    return true;
  });
}

bool UplinkSilent(const UplinkState& uplink, int64_t now_ns) {
  return uplink.agent && uplink.agent->Silent(now_ns);
}

bool PassUp(Context& context, PeerId peer, uint64_t request_id, const wire::Message& message) {
  UplinkState& uplink = context.state.uplink;
  if (!uplink.agent) return false;
  if (!uplink.agent->connected() || uplink.passed.size() >= kPassedMax) {
    ReplyError(
        context, peer, request_id,
        {"unavailable", "the link to the coordinator is down or full", "try again in a while"});
    return true;
  }
  const uint64_t number = uplink.next_request++;
  uplink.passed[number] = {peer, request_id, context.now.mono_ns + kPassedNs};
  context.effects.push_back(SendUp{message, number});
  return true;
}

void ReportUp(Context& context, Job& job, const wire::Report& report) {
  UplinkState& uplink = context.state.uplink;
  if (!uplink.agent || !uplink.agent->connected()) return;
  const std::string key = job.name.substr(0, job.name.find('['));
  if (!uplink.agent->Knows(key) || context.now.mono_ns - job.reported_up_ns < kReportNs) return;
  job.reported_up_ns = context.now.mono_ns;
  wire::Report up = report;
  up.key = key;
  context.effects.push_back(SendUp{std::move(up)});
}

}  // namespace tide::coordinator
