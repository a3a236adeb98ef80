// philly: a quota of GPUs for each virtual cluster, borrowed while others leave theirs; gangs wait
// a while for a place on few nodes, and are moved to fewer.
#include <algorithm>
#include <numeric>

#include "absl/container/flat_hash_map.h"
#include "sched/cluster_policies.h"
#include "sched/migration.h"
#include "sched/share_deal.h"

namespace tide::sched {
namespace {

constexpr double kHold = 180;       // seconds for which a gang insists on few nodes
constexpr double kPhillyMove = 30;  // seconds that a move costs, where the options do not say
constexpr double kCrowded = 0.9;    // of the GPUs in use before anybody is preempted

class Philly final : public ClusterPolicy {
 public:
  Philly(std::vector<double> quotas, double move_s) : quotas_(std::move(quotas)), move_s_(move_s) {}
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<Philly>(*this); }

  ClusterDecision Decide(const ClusterInput& input) override {
    UpdateActive(input, active_);
    Dealing dealing(input);
    absl::flat_hash_map<int, int> seen;
    for (const JobIndex job : active_) {
      const JobView& view = input.jobs[job.value()];
      ++seen[view.user];
      if (view.state != JobState::kRunning) continue;
      dealing.free -= view.gpus;
      dealing.used[view.user] += view.gpus;
    }
    for (const auto& [user, jobs] : seen) {
      const bool given = user < static_cast<int>(quotas_.size());
      dealing.quota[user] =
          given ? quotas_[user]
                : static_cast<double>(input.cluster.gpus) / static_cast<double>(seen.size());
    }
    ClusterDecision decision;
    std::vector<JobIndex> victims;
    for (const bool borrowed : {false, true}) {
      for (const JobIndex job : active_) {
        if (input.jobs[job.value()].state != JobState::kPending || dealing.started.contains(job)) {
          continue;
        }
        Try(input, job, borrowed, dealing, victims, decision);
      }
    }
    Spare(input, dealing, victims);
    for (const JobIndex job : victims) {
      decision.actions.push_back({.job = job,
                                  .kind = JobActionKind::kPreempt,
                                  .reason = "its virtual cluster is over its quota and another "
                                            "claims its own"});
    }
    MoveOne(input, active_, move_s_, kHold, decision);
    return decision;
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.fields(active_);
    return true;
  }

 private:
  struct Dealing {
    explicit Dealing(const ClusterInput& input)
        : free(input.cluster.gpus),
          nodes(input.cluster.free_by_node.begin(), input.cluster.free_by_node.end()) {}
    int free;
    std::vector<int> nodes;  // free GPUs of each; empty: nodes do not matter
    absl::flat_hash_map<int, int> used;
    absl::flat_hash_map<int, double> quota;
    absl::flat_hash_map<JobIndex, bool> started;
  };

  void Try(const ClusterInput& input, JobIndex job, bool borrowed, Dealing& dealing,
           std::vector<JobIndex>& victims, ClusterDecision& decision) const {
    const JobView& view = input.jobs[job.value()];
    const bool within = dealing.used[view.user] + view.gpus <= dealing.quota[view.user];
    if (!within && !borrowed) return;
    const double waits_until_s = view.since_s + kHold;
    if (within && !borrowed && view.gpus > dealing.free) Claim(input, view, dealing, victims);
    if (view.gpus > dealing.free) return;
    if (!TakeNodes(input, view.gpus, input.now_s < waits_until_s, dealing)) {
      decision.wake_s = std::min(decision.wake_s, waits_until_s);
      return;
    }
    dealing.free -= view.gpus;
    dealing.used[view.user] += view.gpus;
    dealing.started[job] = true;
    decision.actions.push_back(
        {.job = job,
         .reason = within ? "it fits the quota of its virtual cluster and the free GPUs"
                          : "it borrows GPUs that other virtual clusters leave"});
  }

  // Preempts the newest jobs of clusters over their quotas until the gang fits, if that is enough.
  void Claim(const ClusterInput& input, const JobView& view, Dealing& dealing,
             std::vector<JobIndex>& victims) const {
    const double in_use = input.cluster.gpus - dealing.free;
    if (in_use < kCrowded * input.cluster.gpus) return;
    std::vector<JobIndex> chosen;
    absl::flat_hash_map<int, int> used = dealing.used;
    int free = dealing.free;
    for (auto job = active_.rbegin(); job != active_.rend() && free < view.gpus; ++job) {
      const JobView& other = input.jobs[job->value()];
      const bool taken = std::find(victims.begin(), victims.end(), *job) != victims.end();
      if (other.state != JobState::kRunning || taken) continue;
      if (used[other.user] <= dealing.quota[other.user]) continue;
      used[other.user] -= other.gpus;
      free += other.gpus;
      chosen.push_back(*job);
    }
    if (free < view.gpus) return;
    victims.insert(victims.end(), chosen.begin(), chosen.end());
    dealing.used = std::move(used);
    dealing.free = free;
    dealing.nodes.clear();  // where the GPUs come free is not foreseen
  }

  // A victim that fits into what is left over after all goes on.
  static void Spare(const ClusterInput& input, Dealing& dealing, std::vector<JobIndex>& victims) {
    std::sort(victims.begin(), victims.end());
    std::erase_if(victims, [&](JobIndex job) {
      const int gpus = input.jobs[job.value()].gpus;
      if (gpus > dealing.free) return false;
      dealing.free -= gpus;
      return true;
    });
  }

  // The gang on as few nodes as can be, or, relaxed, on any. False: it insists and cannot.
  static bool TakeNodes(const ClusterInput& input, int gpus, bool insists, Dealing& dealing) {
    if (dealing.nodes.empty()) return true;
    const int per_node = std::max(1, input.cluster.gpus_per_node);
    std::vector<int> after = dealing.nodes;
    int left = gpus;
    for (int& node : after) {
      if (left < per_node) break;
      if (node < per_node) continue;
      node = 0;
      left -= per_node;
    }
    bool few = left < per_node;
    if (few && left > 0) {
      auto fullest = after.end();
      for (auto node = after.begin(); node != after.end(); ++node) {
        if (*node >= left && (fullest == after.end() || *node < *fullest)) fullest = node;
      }
      few = fullest != after.end();
      if (few) *fullest -= left;
    }
    if (few) {
      dealing.nodes = std::move(after);
    } else if (insists) {
      return false;
    } else {
      dealing.nodes.clear();  // spread over what there is; the next ones are not held up
    }
    return true;
  }

  const std::vector<double> quotas_;  // by user, in order of appearance; others share equally
  const double move_s_;
  std::vector<JobIndex> active_;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakePhilly(const ClusterPolicyOptions& options) {
  return std::make_unique<Philly>(
      options.quotas, options.restart_cost_s > 0 ? options.restart_cost_s : kPhillyMove);
}

}  // namespace tide::sched
