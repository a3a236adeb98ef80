// Rounds: the jobs with priority are matched, twice, as far as they would not fit otherwise.
#include "sched/muri.h"

#include <algorithm>
#include <cmath>

#include "absl/container/btree_map.h"
#include "sched/corun.h"
#include "sched/matching.h"

namespace tide::sched {
namespace {

constexpr int kMatchingMax = 400;  // groups of one size in a matching; beyond, by priority

class Muri final : public ClusterPolicy {
 public:
  explicit Muri(const MuriOptions& options) : options_(options) {}
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<Muri>(*this); }

  ClusterDecision Decide(const ClusterInput& input) override {
    UpdateActive(input, active_);
    std::vector<ShareGroup> groups =
        input.now_s >= round_end_s_ ? Plan(input) : GroupsNow(input, active_);
    if (input.now_s >= round_end_s_) {
      round_end_s_ = (std::floor(input.now_s / options_.round_s) + 1) * options_.round_s;
    }
    FillIn(input, groups);
    ClusterDecision decision;
    ApplyGroups(input, active_, groups, "of the jobs that fit it has the least GPU time",
                "its stages interleave with those of the jobs on these GPUs",
                "jobs with less GPU time need its GPUs", decision.actions);
    size_t placed = 0;
    for (const ShareGroup& group : groups) placed += group.size();
    if (placed < active_.size()) decision.wake_s = round_end_s_;
    return decision;
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.fields(active_, round_end_s_);
    return true;
  }

 private:
  static int GpusOf(const ClusterInput& input, const ShareGroup& group) {
    return input.jobs[group.front().value()].gpus;
  }

  double Priority(const ClusterInput& input, JobIndex index) const {
    const JobView& job = input.jobs[index.value()];
    const double s =
        options_.by_remaining ? job.RemainingAt(input.now_s) : job.ExecutedAt(input.now_s);
    return s * job.gpus;
  }

  std::vector<ShareGroup> Plan(const ClusterInput& input) const {
    std::vector<std::pair<double, JobIndex>> order;
    for (const JobIndex job : active_) order.emplace_back(Priority(input, job), job);
    std::sort(order.begin(), order.end());
    // As many as could run if all shared.
    int64_t room = int64_t{input.cluster.gpus} * kShareMax;
    std::vector<ShareGroup> groups;
    int64_t demand = 0;
    for (const auto& [priority, job] : order) {
      const int gpus = input.jobs[job.value()].gpus;
      if (gpus > room) continue;
      room -= gpus;
      demand += gpus;
      groups.push_back({job});
    }
    for (int matched = 0; matched < 2 && demand > input.cluster.gpus; ++matched) {
      Match(input, size_t{1} << matched, groups, demand);
    }
    // Groups go by their best member, which is their first.
    std::vector<ShareGroup> fitting;
    int free = input.cluster.gpus;
    for (ShareGroup& group : groups) {
      if (group.empty() || GpusOf(input, group) > free) continue;
      free -= GpusOf(input, group);
      fitting.push_back(std::move(group));
    }
    return fitting;
  }

  // Joins groups of at most `members` jobs each, largest gangs first, while they do not all fit. A
  // group that is taken in by another is left empty.
  static void Match(const ClusterInput& input, size_t members, std::vector<ShareGroup>& groups,
                    int64_t& demand) {
    absl::btree_map<int, std::vector<size_t>, std::greater<int>> by_size;
    for (size_t i = 0; i < groups.size(); ++i) {
      if (groups[i].empty() || groups[i].size() > members) continue;
      std::vector<size_t>& same = by_size[GpusOf(input, groups[i])];
      if (same.size() < kMatchingMax) same.push_back(i);
    }
    for (const auto& [gpus, same] : by_size) {
      if (demand <= input.cluster.gpus) return;
      std::vector<WeightedEdge> edges;
      for (size_t a = 0; a < same.size(); ++a) {
        for (size_t b = a + 1; b < same.size(); ++b) {
          ShareGroup both = groups[same[a]];
          both.insert(both.end(), groups[same[b]].begin(), groups[same[b]].end());
          const double weight = InterleavingEfficiency(input, both);
          if (weight <= 0) continue;
          edges.push_back({.a = static_cast<int>(a), .b = static_cast<int>(b), .weight = weight});
        }
      }
      for (const auto& [a, b] : MaximumMatching(static_cast<int>(same.size()), edges)) {
        if (demand <= input.cluster.gpus) return;
        ShareGroup& into = groups[same[a]];
        ShareGroup& from = groups[same[b]];
        into.insert(into.end(), from.begin(), from.end());
        from.clear();
        demand -= gpus;
      }
    }
  }

  void FillIn(const ClusterInput& input, std::vector<ShareGroup>& groups) const {
    int free = input.cluster.gpus;
    std::vector<bool> placed(input.jobs.size());
    for (const ShareGroup& group : groups) {
      free -= GpusOf(input, group);
      for (const JobIndex job : group) placed[job.value()] = true;
    }
    for (const JobIndex job : active_) {
      const int gpus = input.jobs[job.value()].gpus;
      if (placed[job.value()] || gpus > free) continue;
      free -= gpus;
      groups.push_back({job});
    }
  }

  const MuriOptions options_;
  std::vector<JobIndex> active_;
  double round_end_s_ = 0;
};

}  // namespace

double InterleavingEfficiency(const ClusterInput& input, const ShareGroup& group) {
  if (group.size() > kShareMax || input.profiles == nullptr) return 0;
  std::vector<const JobProfile*> jobs;
  double alone_s = 0;
  for (const JobIndex index : group) {
    const int profile = input.jobs[index.value()].profile;
    if (profile < 0 || !input.profiles->of[profile].has_stages()) return 0;
    jobs.push_back(&input.profiles->of[profile]);
    for (const double stage_s : jobs.back()->stage_s) alone_s += stage_s;
  }
  const double together_s = InterleavedSeconds(jobs) * input.profiles->share_cost[jobs.size() - 1];
  return together_s < alone_s ? alone_s / (together_s * kStages) : 0;
}

std::unique_ptr<ClusterPolicy> MakeMuriPolicy(const MuriOptions& options) {
  return std::make_unique<Muri>(options);
}

}  // namespace tide::sched
