// gandiva-fair: equal GPU time for every user, by a gang-aware stride in rounds; types of GPU are
// traded.
#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "sched/cluster_policies.h"
#include "sched/round_deal.h"
#include "sched/type_stride.h"

namespace tide::sched {
namespace {

constexpr double kGandivaQuantum = 60;

// Each user has one ticket, split evenly over the user's jobs; a job's pass is its GPU time over
// its tickets. A job that cannot fit keeps its pass and so comes first soon.
class UserStride final : public RoundDeal {
 public:
  explicit UserStride(double quantum_s)
      : RoundDeal({.round_s = quantum_s,
                   .start_reason = "its pass is the lowest: its user has had the least for it",
                   .preempt_reason = "its quantum is over and jobs with lower passes wait"}) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<UserStride>(*this);
  }

 protected:
  bool VisitOwnState(PolicyArchive& archive) override {
    archive.PerJob(accounts_);
    archive.fields(jobs_of_);
    return true;
  }

  void Note(const ClusterInput& input) override {
    if (accounts_.size() < input.jobs.size()) accounts_.resize(input.jobs.size());
    for (const JobEvent& event : input.events) {
      const int user = input.jobs[event.job.value()].user;
      if (event.kind == JobEventKind::kArrival) ++jobs_of_[user];
      if (event.kind == JobEventKind::kCompletion && --jobs_of_[user] == 0) jobs_of_.erase(user);
    }
  }

  std::vector<double> Keys(const ClusterInput& input,
                           const std::vector<JobIndex>& active) override {
    double least = kNever;  // of those that have been here before
    for (const JobIndex index : active) {
      Account& account = accounts_[index.value()];
      if (!account.joined) continue;
      Charge(input, index, account);
      least = std::min(least, account.pass);
    }
    std::vector<double> keys;
    keys.reserve(active.size());
    for (const JobIndex index : active) {
      Account& account = accounts_[index.value()];
      if (!account.joined) {
        account.joined = true;
        account.pass = least == kNever ? 0 : least;
        Charge(input, index, account);
      }
      keys.push_back(account.pass);
    }
    return keys;
  }

 private:
  struct Account {
    double pass = 0;
    double charged_s = 0;  // service that is in the pass
    bool joined = false;
    void VisitFields(FieldArchive& archive) { archive(pass, charged_s, joined); }
  };

  // Work that a fault undid was paid for; it is not given back.
  void Charge(const ClusterInput& input, JobIndex index, Account& account) const {
    const JobView& job = input.jobs[index.value()];
    const double executed_s = job.ExecutedAt(input.now_s);
    const double new_s = std::max(0.0, executed_s - account.charged_s);
    account.pass += new_s * job.gpus * jobs_of_.at(job.user);
    account.charged_s = executed_s;
  }

  std::vector<Account> accounts_;
  absl::flat_hash_map<int, int> jobs_of_;  // jobs that run or wait, by user
};

// Which of the two a cluster needs never changes.
class GandivaFair final : public ClusterPolicy {
 public:
  explicit GandivaFair(double quantum_s) : one_type_(quantum_s), types_(quantum_s) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<GandivaFair>(*this);
  }
  ClusterDecision Decide(const ClusterInput& input) override {
    return input.cluster.gpus_by_type.size() > 1 ? types_.Decide(input) : one_type_.Decide(input);
  }
  bool VisitState(PolicyArchive& archive) override {
    return one_type_.VisitState(archive) && types_.VisitState(archive);
  }

 private:
  UserStride one_type_;
  TypeStride types_;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeGandivaFair(const ClusterPolicyOptions& options) {
  return std::make_unique<GandivaFair>(options.round_s > 0 ? options.round_s : kGandivaQuantum);
}

}  // namespace tide::sched
