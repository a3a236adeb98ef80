// lucid: least predicted GPU time first, nobody is preempted; jobs that hardly disturb each other
// share.
#include <algorithm>

#include "sched/cluster_policies.h"
#include "sched/corun.h"
#include "sched/duration_history.h"
#include "sched/share_deal.h"

namespace tide::sched {
namespace {

constexpr double kTiny = 0.95;    // average speed beside one like it: label 0
constexpr double kMedium = 0.85;  // label 1; below: 2
constexpr int kLabelsMax = 2;     // sum of the two
constexpr int kGangMax = 8;       // of jobs that share
constexpr double kPatience = 2;   // a newcomer may be this many times as long as the job it joins

class Lucid final : public ClusterPolicy {
 public:
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<Lucid>(*this); }

  ClusterDecision Decide(const ClusterInput& input) override {
    for (const JobEvent& event : input.events) {
      if (event.kind == JobEventKind::kCompletion) history_.Book(input.jobs[event.job.value()]);
    }
    UpdateActive(input, active_);
    int free = input.cluster.gpus;
    std::vector<JobIndex> hosts;  // alone on their GPUs
    for (const ShareGroup& group : GroupsNow(input, active_)) {
      free -= input.jobs[group.front().value()].gpus;
      if (group.size() == 1) hosts.push_back(group.front());
    }
    std::vector<std::pair<double, JobIndex>> waiting;
    for (const JobIndex job : active_) {
      if (input.jobs[job.value()].state != JobState::kPending) continue;
      waiting.emplace_back(Priority(input, job), job);
    }
    std::sort(waiting.begin(), waiting.end());
    ClusterDecision decision;
    for (const auto& [priority, job] : waiting) {
      const int gpus = input.jobs[job.value()].gpus;
      if (gpus <= free) {
        free -= gpus;
        decision.actions.push_back(
            {.job = job, .reason = "of the jobs that fit its predicted GPU time is the least"});
        continue;
      }
      const auto host = std::find_if(hosts.begin(), hosts.end(), [&, newcomer = job](JobIndex h) {
        return Suits(input, newcomer, h);
      });
      if (host == hosts.end()) continue;
      decision.actions.push_back({.job = job,
                                  .reason = "it and the job on these GPUs hardly slow each other",
                                  .beside = *host});
      hosts.erase(host);
    }
    return decision;
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.fields(history_, active_);
    return true;
  }

 private:
  double Priority(const ClusterInput& input, JobIndex job) const {
    const JobView& view = input.jobs[job.value()];
    return history_.Predict(view) * view.gpus;
  }

  static int Label(const ClusterInput& input, int profile) {
    const CorunMember one{.profile = profile};
    const double speed = CorunSpeeds({one, one}, *input.profiles)[0];
    return speed >= kTiny ? 0 : speed >= kMedium ? 1 : 2;
  }

  bool Suits(const ClusterInput& input, JobIndex newcomer, JobIndex host) const {
    const JobView& a = input.jobs[newcomer.value()];
    const JobView& b = input.jobs[host.value()];
    if (input.profiles == nullptr || a.profile < 0 || b.profile < 0) return false;
    if (a.gpus != b.gpus || a.gpus > kGangMax || b.held != b.gpus) return false;
    const JobProfile& first = input.profiles->of[a.profile];
    const JobProfile& second = input.profiles->of[b.profile];
    const double memory_gib =
        first.memory_gib + first.scratch_gib + second.memory_gib + second.scratch_gib;
    if (input.profiles->gpu_memory_gib > 0 && memory_gib > input.profiles->gpu_memory_gib) {
      return false;
    }
    if (Label(input, a.profile) + Label(input, b.profile) > kLabelsMax) return false;
    return Priority(input, newcomer) <= kPatience * Priority(input, host);
  }

  DurationHistory history_;
  std::vector<JobIndex> active_;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeLucid(const ClusterPolicyOptions&) {
  return std::make_unique<Lucid>();
}

}  // namespace tide::sched
