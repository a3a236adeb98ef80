// themis: GPUs whose leases have ended are auctioned among the jobs with the worst finish-time
// ratios; what the auction leaves goes to the others at random.
#include <algorithm>
#include <cmath>

#include "sched/cluster_policies.h"
#include "sched/gang_queue.h"
#include "sched/partial_auction.h"
#include "sched/target_deal.h"

namespace tide::sched {
namespace {

constexpr double kLease = 1200;      // 20 minutes, as published
constexpr double kBidders = 0.2;     // 1 - f of the jobs, the worst off, take part; f as published
constexpr size_t kCells = 1u << 21;  // bidders times GPUs of one auction: some 20 milliseconds
constexpr const char* kWon = "its bid won: of the worst finish-time ratios it gains most";
constexpr const char* kDrawn = "the auction left these GPUs, and the draw gave them to it";
constexpr const char* kLost = "its lease is over, and other jobs won its GPUs";

// Leases end together, at the multiples of their length: else a large gang would never see its
// GPUs free at one time. GPUs that come free between are auctioned among those that wait.
class Themis final : public ClusterPolicy {
 public:
  Themis(double lease_s, uint64_t seed) : lease_s_(lease_s), seed_(seed) {}
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<Themis>(*this); }

  ClusterDecision Decide(const ClusterInput& input) override {
    TakeIn(input);
    ClusterDecision decision;
    if (input.now_s >= lease_end_s_) {
      lease_end_s_ = (std::floor(input.now_s / lease_s_) + 1) * lease_s_;
      if (!waiting_.empty() || elastic_ > 0) DealAll(input, decision.actions);
    } else if (waiting_.First(input.cluster.gpus - used_) != nullptr) {
      DealFree(input, decision.actions);
    }
    if (!waiting_.empty() || elastic_ > 0) decision.wake_s = lease_end_s_;
    return decision;
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.PerJob(accounts_);
    archive.fields(active_, waiting_, used_, elastic_, wanted_, lease_end_s_, auctions_);
    archive.fields(contention_, contention_s_, looked_s_);
    return true;
  }

 private:
  struct Account {
    double contention_s = 0;  // of the cluster, summed over time, when it arrived
    int held = 0;
    void VisitFields(FieldArchive& archive) { archive(contention_s, held); }
  };
  struct Bidder {
    double ratio;
    JobIndex job;
    int gpus = 0;
    const char* reason = kDrawn;
  };

  void TakeIn(const ClusterInput& input) {
    if (accounts_.size() < input.jobs.size()) accounts_.resize(input.jobs.size());
    contention_s_ += contention_ * (input.now_s - looked_s_);
    looked_s_ = input.now_s;
    for (const JobEvent& event : input.events) {
      const JobView& job = input.jobs[event.job.value()];
      Account& account = accounts_[event.job.value()];
      const int sign = event.kind == JobEventKind::kArrival      ? 1
                       : event.kind == JobEventKind::kCompletion ? -1
                                                                 : 0;
      wanted_ += sign * job.gpus;
      elastic_ += sign * (SizesOf(job, input.profiles).size() > 1 ? 1 : 0);
      if (sign > 0) {
        active_.push_back(event.job);
        account = {.contention_s = contention_s_};
      }
      used_ -= account.held;
      account.held = 0;
      if (sign >= 0) waiting_.Push(Waiting(input, event.job));
    }
    contention_ = std::max(1.0, static_cast<double>(wanted_) / std::max(1, input.cluster.gpus));
  }

  static GangEntry Waiting(const ClusterInput& input, JobIndex job) {
    const int least = SizesOf(input.jobs[job.value()], input.profiles).front();
    return {.rank = job.value(), .job = job, .gpus = least};
  }

  // Time from submission to its end if it ran with its gang from now on, over the time that an
  // equal share of the cluster would take; the share is that of its life so far, on average.
  double Ratio(const ClusterInput& input, JobIndex index) const {
    const JobView& job = input.jobs[index.value()];
    const double age_s = input.now_s - job.submit_s;
    const double contention =
        age_s > 0 ? (contention_s_ - accounts_[index.value()].contention_s) / age_s : contention_;
    const double alone_s = std::max(1e-9, job.duration_s) * std::max(1.0, contention);
    return (age_s + std::max(0.0, job.RemainingAt(input.now_s))) / alone_s;
  }

  // What each size makes of its finish-time ratio, over waiting for the end of this lease.
  KnapsackItem Bid(const ClusterInput& input, JobIndex index) const {
    const JobView& job = input.jobs[index.value()];
    const double age_s = std::max(0.0, input.now_s - job.submit_s);
    const double rest_s = std::max(1e-9, job.RemainingAt(input.now_s));
    const double idle_s = age_s + (lease_end_s_ - input.now_s) + rest_s;
    KnapsackItem bid;
    for (const int size : SizesOf(job, input.profiles)) {
      const double with_s = age_s + rest_s / SpeedOf(job, input.profiles, size);
      bid.push_back({.weight = size, .value = std::log(idle_s / with_s)});
    }
    return bid;
  }

  void DealAll(const ClusterInput& input, std::vector<JobAction>& actions) {
    std::erase_if(active_, [&](JobIndex job) {
      const JobState state = input.jobs[job.value()].state;
      return state != JobState::kRunning && state != JobState::kPending;
    });
    std::vector<Bidder> bidders;
    for (const JobIndex job : active_) bidders.push_back({Ratio(input, job), job});
    Deal(input, input.cluster.gpus, bidders);
    waiting_ = GangQueue();
    for (const Bidder& bidder : bidders) Apply(input, bidder, actions);
  }

  void DealFree(const ClusterInput& input, std::vector<JobAction>& actions) {
    std::vector<Bidder> bidders;
    waiting_.ForEach([&](const GangEntry& entry) {
      bidders.push_back({Ratio(input, entry.job), entry.job});
    });
    Deal(input, input.cluster.gpus - used_, bidders);
    for (const Bidder& bidder : bidders) {
      if (bidder.gpus == 0) continue;
      waiting_.Erase(Waiting(input, bidder.job));
      Apply(input, bidder, actions);
    }
  }

  void Apply(const ClusterInput& input, const Bidder& bidder, std::vector<JobAction>& actions) {
    int& held = accounts_[bidder.job.value()].held;
    const int before = held;
    used_ += bidder.gpus - before;
    held = bidder.gpus;
    if (bidder.gpus == 0) waiting_.Push(Waiting(input, bidder.job));
    if (bidder.gpus == before) return;
    const JobActionKind kind = bidder.gpus == 0 ? JobActionKind::kPreempt
                               : before == 0    ? JobActionKind::kStart
                                                : JobActionKind::kResize;
    actions.push_back({.job = bidder.job,
                       .kind = kind,
                       .reason = bidder.gpus == 0 ? kLost : bidder.reason,
                       .gpus = bidder.gpus});
  }

  // Says how many of `free` GPUs each gets, and puts the worst off first.
  void Deal(const ClusterInput& input, int free, std::vector<Bidder>& bidders) {
    std::sort(bidders.begin(), bidders.end(), [](const Bidder& a, const Bidder& b) {
      return a.ratio != b.ratio ? a.ratio > b.ratio : a.job < b.job;
    });
    Random random(seed_ + 0x9e3779b97f4a7c15u * static_cast<uint64_t>(++auctions_));
    const size_t takers = Auction(input, free, bidders, random);
    // The others in an order that is drawn; those whose payment took all they had won come last.
    std::vector<Bidder*> order;
    for (size_t i = takers; i < bidders.size(); ++i) {
      order.push_back(&bidders[i]);
      std::swap(order.back(), order[random.Below(order.size())]);
    }
    for (size_t i = 0; i < takers; ++i) order.push_back(&bidders[i]);
    std::vector<std::vector<int>> sizes;
    for (Bidder* bidder : order) {
      sizes.push_back(SizesOf(input.jobs[bidder->job.value()], input.profiles));
      if (bidder->gpus > 0 || sizes.back().front() > free) continue;
      bidder->gpus = sizes.back().front();
      free -= bidder->gpus;
    }
    for (size_t i = 0; i < order.size() && free > 0; ++i) {
      if (order[i]->gpus == 0) continue;
      const auto above = std::upper_bound(sizes[i].begin(), sizes[i].end(), order[i]->gpus + free);
      const int more = above == sizes[i].begin() ? 0 : above[-1] - order[i]->gpus;
      if (more <= 0) continue;
      order[i]->gpus += more;
      free -= more;
    }
  }

  // Returns how many took part; they are the first.
  size_t Auction(const ClusterInput& input, int& free, std::vector<Bidder>& bidders,
                 Random& random) const {
    auto takers = static_cast<size_t>(std::ceil(kBidders * static_cast<double>(bidders.size())));
    takers = std::min(takers, std::max<size_t>(1, kCells / (static_cast<size_t>(free) + 1)));
    std::vector<KnapsackItem> bids;
    for (size_t i = 0; i < takers; ++i) bids.push_back(Bid(input, bidders[i].job));
    const std::vector<AuctionWin> wins = HoldAuction(bids, free);
    for (size_t i = 0; i < takers; ++i) {
      bidders[i].gpus = DrawKept(bids[i], wins[i], random);
      if (bidders[i].gpus == 0) continue;
      bidders[i].reason = kWon;
      free -= bidders[i].gpus;
    }
    return takers;
  }

  const double lease_s_;
  const uint64_t seed_;
  std::vector<JobIndex> active_;  // in order of submission; those that ended go at the next lease
  std::vector<Account> accounts_;
  GangQueue waiting_;
  int used_ = 0, elastic_ = 0;
  int64_t wanted_ = 0, auctions_ = 0;
  double lease_end_s_ = 0;
  double contention_ = 1;    // GPUs wanted over GPUs there are, at least 1, since looked_s_
  double contention_s_ = 0;  // its sum over time
  double looked_s_ = 0;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeThemis(const ClusterPolicyOptions& options) {
  return std::make_unique<Themis>(options.round_s > 0 ? options.round_s : kLease, options.seed);
}

}  // namespace tide::sched
