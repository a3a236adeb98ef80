// What a joined daemon does for the coordinator.
#include "coordinator/uplink.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/decide.h"
#include "coordinator/text.h"

namespace tide::coordinator {
namespace {

constexpr size_t kPassedMax = 1024;
constexpr int64_t kPassedNs = 10'000'000'000;
constexpr int64_t kReportNs = 1'000'000'000;  // of one job; a coordinator has thousands of them
constexpr int64_t kOrderTimeoutMs = 60'000;
constexpr int64_t kSizeAgainNs = 10'000'000'000;

void SayAll(Context& context, std::vector<wire::Message> messages) {
  for (wire::Message& message : messages) context.effects.push_back(SendUp{std::move(message)});
}

constexpr absl::string_view kByCluster = "the cluster (";

std::string ByCluster(const NodeAgent::Step& step) {
  return absl::StrCat(kByCluster, step.reason, ")");
}

/// A job may have paused for a grant that was taken back before it said so: nothing of its grant
/// changes then, and it has to go on all the same. A pause of a user stays.
void ResumeWhatRuns(Context& context, const NodeAgent::Step& step) {
  for (auto& [id, job] : context.state.jobs) {
    if (!job.live() || JobOfProcess(job.name) != step.key || !job.paused) continue;
    if (!absl::StartsWith(job.paused_by, kByCluster) || !job.attached()) continue;
    if (OrderUnderWay(context.state, job)) continue;
    OnOrderCommand(context, Waiter{}, job,
                   {.what = "resume", .timeout_ms = kOrderTimeoutMs, .by = ByCluster(step)});
  }
}

/// Orders the processes of a job here to pause or to go on; true when all of them are where they
/// should be.
bool Steer(Context& context, const NodeAgent::Step& step) {
  const bool hold = step.state == wire::AllocationState::kHold;
  bool there = true;
  for (auto& [id, job] : context.state.jobs) {
    if (!job.live() || JobOfProcess(job.name) != step.key || job.paused == hold) continue;
    there = false;
    if (OrderUnderWay(context.state, job) || !job.attached()) continue;
    OnOrderCommand(
        context, Waiter{}, job,
        {.what = hold ? "pause" : "resume", .timeout_ms = kOrderTimeoutMs, .by = ByCluster(step)});
  }
  return there;
}

/// A process through which an elastic job here can be told its size; nullptr: there is none.
Job* ElasticJob(Context& context, const std::string& key) {
  for (auto& [id, job] : context.state.jobs) {
    const bool tellable = job.live() && job.attached() && job.report && job.report->processes > 0;
    if (tellable && JobOfProcess(job.name) == key) return &job;
  }
  return nullptr;
}

bool ResizeUnderWay(Context& context, const std::string& key) {
  for (const PendingOrder& order : context.state.orders) {
    const Job* job = context.state.FindJob(order.job);
    const bool resizes = order.kind == wire::OrderKind::kResize && job != nullptr;
    if (resizes && JobOfProcess(job->name) == key) return true;
  }
  return false;
}

/// Brings an elastic job to the size of its grant, a process for each device here and never fewer
/// than it can do with. A grant that it has followed is followed again only when it is above it.
/// Returns whether the job holds no more than it was granted.
bool FollowSize(Context& context, const NodeAgent::Step& step) {
  UplinkState::Following& following = context.state.uplink.sizes[step.key];
  Job* job = ElasticJob(context, step.key);
  if (job == nullptr) return true;
  const wire::Report& report = *job->report;
  const int64_t high = std::max(report.processes_low, report.processes_high);
  const int64_t wanted = std::clamp(step.devices, report.processes_low, high);
  if (report.processes == wanted) {
    if (following.revision < step.revision && wanted != step.devices) {
      Emit(context, "grant_followed_in_part", step.key,
           absl::StrCat(step.key, " goes on with ", Processes(wanted), ", granted are ",
                        step.devices, " devices: it runs on ", report.processes_low, " to ", high));
    }
    following.revision = std::max(following.revision, step.revision);
    following.again_ns = 0;
  }
  const bool above = report.processes > wanted;
  const bool due = above || (report.processes < wanted && following.revision < step.revision);
  if (due && !job->paused && !ResizeUnderWay(context, step.key) &&
      context.now.mono_ns >= following.again_ns) {
    following.again_ns = context.now.mono_ns + kSizeAgainNs;
    OrderResize(context, *job, wanted, ByCluster(step), kOrderTimeoutMs);
  }
  return !above;
}

/// The pace of a job that shares devices is its weight at the turns there: jobs have time in
/// proportion to their weights while several want it, and a job alone has all of it.
void FollowPace(Context& context, const NodeAgent::Step& step) {
  UplinkState::Following& following = context.state.uplink.sizes[step.key];
  if (step.pace >= 1 && !following.paced) return;
  following.paced = step.pace < 1;
  for (auto& [id, job] : context.state.jobs) {
    if (!job.live() || JobOfProcess(job.name) != step.key || job.wanted.weight == step.pace)
      continue;
    OnSettingsCommand(context, Waiter{}, job,
                      {.what = "weight", .weight = step.pace, .by = ByCluster(step)});
  }
}

void TakeSteps(Context& context) {
  NodeAgent& agent = *context.state.uplink.agent;
  for (const NodeAgent::Step& step : agent.NextSteps()) {
    if (step.state == wire::AllocationState::kEnd) {  // what has ended is nobody's to pause
      context.state.uplink.sizes.erase(step.key);
      agent.Took(step.key, step.state);
      continue;
    }
    const bool there = Steer(context, step);
    if (step.state == wire::AllocationState::kHold) {
      if (there) agent.Took(step.key, step.state);
      continue;
    }
    // What may run needs no answer to count as running; what it gives back counts once it has.
    const bool gives_back = step.devices < agent.running_devices(step.key);
    if (!gives_back || FollowSize(context, step)) agent.Took(step.key, step.state);
  }
  for (const NodeAgent::Step& step : agent.Running()) {
    ResumeWhatRuns(context, step);
    FollowSize(context, step);
    FollowPace(context, step);
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
  const std::string key = JobOfProcess(job.name);
  if (!uplink.agent->Knows(key) || context.now.mono_ns - job.reported_up_ns < kReportNs) return;
  job.reported_up_ns = context.now.mono_ns;
  wire::Report up = report;
  up.key = key;
  context.effects.push_back(SendUp{std::move(up)});
}

}  // namespace tide::coordinator
