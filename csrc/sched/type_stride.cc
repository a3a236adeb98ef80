// What runs is a short list with the time from which it has not been charged.
#include "sched/type_stride.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tide::sched {
namespace {

constexpr double kLeastShare = 1e-6;  // GPUs; less is no claim
constexpr const char* kStart = "its user has had the least of its share of this type of GPU";
constexpr const char* kSpare = "GPUs of this type are free that nobody has a share of";
constexpr const char* kMoveReason = "its quantum is over and others have had less of their shares";
constexpr const char* kAlone = "it is larger than every type of GPU and has a round alone";

double SpeedOn(const ClusterInput& input, JobIndex index, int type) {
  const JobView& job = input.jobs[index.value()];
  if (job.profile < 0 || input.profiles == nullptr) return 1;
  const std::vector<double>& speed = input.profiles->of[job.profile].type_speed;
  return type < static_cast<int>(speed.size()) ? speed[type] : 1;
}

}  // namespace

ClusterDecision TypeStride::Decide(const ClusterInput& input) {
  TakeIn(input);
  ClusterDecision decision;
  if (input.now_s >= round_end_s_) {
    round_end_s_ = (std::floor(input.now_s / round_s_) + 1) * round_s_;
    StartRound(input, decision.actions);
  } else {
    FillIn(input, decision.actions);
  }
  // Also when nobody waits: a job may be owed time on a faster type.
  if (!waiting_.empty() || running_.size() > 1) decision.wake_s = round_end_s_;
  return decision;
}

bool TypeStride::VisitState(PolicyArchive& archive) {
  archive.PerJob(accounts_);
  archive.fields(active_, running_, waiting_, clock_, shared_, round_end_s_);
  return true;
}

void TypeStride::TakeIn(const ClusterInput& input) {
  if (accounts_.size() < input.jobs.size()) accounts_.resize(input.jobs.size());
  std::erase_if(running_, [&](const Run& run) {
    const bool ended = input.jobs[run.job.value()].state != JobState::kRunning;
    if (ended) Charge(input, run);
    return ended;
  });
  for (const JobEvent& event : input.events) {
    if (event.kind == JobEventKind::kCompletion) continue;
    if (event.kind == JobEventKind::kArrival) active_.push_back(event.job);
    waiting_.Push({.key = -kNever,
                   .rank = event.job.value(),
                   .job = event.job,
                   .gpus = input.jobs[event.job.value()].gpus});
  }
}

// GPUs that were nobody's share are free of charge.
void TypeStride::Charge(const ClusterInput& input, const Run& run) {
  Account& account = accounts_[run.job.value()];
  if (run.type < 0 || account.share[run.type] < kLeastShare) return;
  const double gpu_s = input.jobs[run.job.value()].gpus * (input.now_s - run.from_s);
  account.pass[run.type] += gpu_s / account.share[run.type];
  clock_[run.type] += gpu_s / shared_[run.type];
}

std::vector<JobIndex> TypeStride::Active(const ClusterInput& input) {
  std::erase_if(active_, [&](JobIndex job) {
    const JobState state = input.jobs[job.value()].state;
    return state != JobState::kRunning && state != JobState::kPending;
  });
  return active_;
}

void TypeStride::ComputeShares(const ClusterInput& input, const std::vector<JobIndex>& typed) {
  const auto types = static_cast<int>(input.cluster.gpus_by_type.size());
  std::map<int, std::vector<JobIndex>> jobs_of;
  for (const JobIndex job : typed) jobs_of[input.jobs[job.value()].user].push_back(job);
  std::vector<TradeUser> users;
  for (const auto& [user, jobs] : jobs_of) {
    TradeUser& entry = users.emplace_back();
    entry.speed.assign(types, 0);
    for (const JobIndex job : jobs) {
      const int gpus = input.jobs[job.value()].gpus;
      entry.demand += gpus;
      for (int type = 0; type < types; ++type)
        entry.speed[type] += gpus * SpeedOn(input, job, type);
    }
    for (double& speed : entry.speed) speed /= entry.demand;
  }
  TradeShares shares = FairShares(users, input.cluster.gpus_by_type);
  Trade(users, shares);
  shared_.fill(0);
  ByType speeds{};
  size_t user = 0;
  for (const auto& [name, jobs] : jobs_of) {
    std::vector<double> needs;
    for (const JobIndex job : jobs) needs.push_back(input.jobs[job.value()].gpus);
    const double all = std::accumulate(shares[user].begin(), shares[user].end(), 0.0);
    const std::vector<double> parts = EqualParts(needs, all);
    for (size_t i = 0; i < jobs.size(); ++i) {
      Account& account = accounts_[jobs[i].value()];
      account.share.fill(0);
      for (int type = 0; type < types && all > 0; ++type) {
        account.share[type] = parts[i] * shares[user][type] / all;
      }
      if (!account.joined) account.pass = clock_;
      account.joined = true;
    }
    for (int type = 0; type < types; ++type) {
      shared_[type] += shares[user][type];
      speeds[type] += users[user].speed[type];
    }
    ++user;
  }
  order_.resize(types);
  std::iota(order_.begin(), order_.end(), size_t{0});
  std::stable_sort(order_.begin(), order_.end(),
                   [&](size_t a, size_t b) { return speeds[a] > speeds[b]; });
}

// The gang with most rounds coming, when it has one, or when nobody else is there.
JobIndex TypeStride::NextAlone(const std::vector<JobIndex>& wide, bool others, size_t users) {
  JobIndex next;
  for (const JobIndex job : wide) {
    Account& account = accounts_[job.value()];
    account.turn += 1.0 / static_cast<double>(users);
    if (others && account.turn < 1) continue;
    if (next.value() < 0 || account.turn > accounts_[next.value()].turn) next = job;
  }
  if (next.value() >= 0) accounts_[next.value()].turn -= 1;
  return next;
}

void TypeStride::StartRound(const ClusterInput& input, std::vector<JobAction>& actions) {
  for (Run& run : running_) {
    Charge(input, run);
    run.from_s = input.now_s;
  }
  const absl::Span<const int> gpus = input.cluster.gpus_by_type;
  const int largest = *std::max_element(gpus.begin(), gpus.end());
  std::vector<JobIndex> typed, wide;
  std::map<int, int> users;
  for (const JobIndex job : Active(input)) {
    const JobView& view = input.jobs[job.value()];
    ++users[view.user];
    if (view.gpus <= largest) {
      typed.push_back(job);
    } else if (view.gpus <= input.cluster.gpus) {
      wide.push_back(job);
    }
  }
  ComputeShares(input, typed);
  const JobIndex alone = NextAlone(wide, !typed.empty(), std::max<size_t>(1, users.size()));
  std::vector<int> type_of(accounts_.size(), -2);  // -2: none, -1: all
  if (alone.value() >= 0) {
    type_of[alone.value()] = -1;
  } else {
    const std::vector<int> dealt = DealTypes(input, typed);
    for (size_t i = 0; i < typed.size(); ++i) type_of[typed[i].value()] = dealt[i];
  }
  std::erase_if(running_, [&](const Run& run) {
    if (type_of[run.job.value()] == run.type) {
      type_of[run.job.value()] = -3;  // stays
      return false;
    }
    actions.push_back({.job = run.job, .kind = JobActionKind::kPreempt, .reason = kMoveReason});
    return true;
  });
  waiting_ = GangQueue();
  for (const JobIndex job : active_) {
    const int type = type_of[job.value()];
    if (type == -3) continue;
    if (type == -2) {
      waiting_.Push({.key = LeastPass(job),
                     .rank = job.value(),
                     .job = job,
                     .gpus = input.jobs[job.value()].gpus});
      continue;
    }
    const bool has_share = type >= 0 && accounts_[job.value()].share[type] >= kLeastShare;
    actions.push_back({.job = job,
                       .reason = type < 0    ? kAlone
                                 : has_share ? kStart
                                             : kSpare,
                       .type = type});
    running_.push_back({.job = job, .type = type, .from_s = input.now_s});
  }
}

double TypeStride::LeastPass(JobIndex job) const {
  const Account& account = accounts_[job.value()];
  double least = kNever;
  for (const size_t type : order_) {
    if (account.share[type] >= kLeastShare) {
      least = std::min(least, account.pass[type] - clock_[type]);
    }
  }
  return least;
}

// The type of each of `typed`; -2: none.
std::vector<int> TypeStride::DealTypes(const ClusterInput& input,
                                       const std::vector<JobIndex>& typed) {
  std::vector<int> dealt(typed.size(), -2);
  std::vector<int> free(input.cluster.gpus_by_type.begin(), input.cluster.gpus_by_type.end());
  struct Candidate {
    double pass;
    bool waits;
    size_t place;
  };
  const auto ahead = [](const Candidate& a, const Candidate& b) {
    if (a.pass != b.pass) return a.pass < b.pass;
    return a.waits != b.waits ? b.waits : a.place < b.place;
  };
  std::vector<Candidate> candidates;
  for (const size_t type : order_) {
    candidates.clear();
    for (size_t i = 0; i < typed.size(); ++i) {
      const Account& account = accounts_[typed[i].value()];
      if (dealt[i] >= 0 || account.share[type] < kLeastShare) continue;
      const bool here = input.jobs[typed[i].value()].type == static_cast<int>(type);
      candidates.push_back({.pass = account.pass[type], .waits = !here, .place = i});
    }
    std::sort(candidates.begin(), candidates.end(), ahead);
    for (const Candidate& candidate : candidates) {
      const JobIndex job = typed[candidate.place];
      const int gpus = input.jobs[job.value()].gpus;
      if (gpus > free[type] || SpeedOn(input, job, static_cast<int>(type)) <= 0) continue;
      free[type] -= gpus;
      dealt[candidate.place] = static_cast<int>(type);
    }
  }
  candidates.clear();
  for (size_t i = 0; i < typed.size(); ++i) {
    if (dealt[i] >= 0) continue;
    const bool waits = input.jobs[typed[i].value()].state != JobState::kRunning;
    candidates.push_back({.pass = LeastPass(typed[i]), .waits = waits, .place = i});
  }
  std::sort(candidates.begin(), candidates.end(), ahead);
  for (const Candidate& candidate : candidates) {
    const JobIndex job = typed[candidate.place];
    const int type = FastestFree(input, job, free);
    if (type < 0) continue;
    free[type] -= input.jobs[job.value()].gpus;
    dealt[candidate.place] = type;
  }
  return dealt;
}

int TypeStride::FastestFree(const ClusterInput& input, JobIndex job,
                            const std::vector<int>& free) const {
  int best = -1;
  double fastest = 0;
  for (int type = 0; type < static_cast<int>(free.size()); ++type) {
    const double speed = SpeedOn(input, job, type);
    if (input.jobs[job.value()].gpus > free[type] || speed <= fastest) continue;
    fastest = speed;
    best = type;
  }
  return best;
}

void TypeStride::FillIn(const ClusterInput& input, std::vector<JobAction>& actions) {
  if (waiting_.empty()) return;
  std::vector<int> free(input.cluster.gpus_by_type.begin(), input.cluster.gpus_by_type.end());
  for (const Run& run : running_) {
    if (run.type < 0) return;  // it holds parts of several types
    free[run.type] -= input.jobs[run.job.value()].gpus;
  }
  std::vector<GangEntry> stay;
  while (const GangEntry* first = waiting_.First(*std::max_element(free.begin(), free.end()))) {
    const GangEntry taken = *first;
    waiting_.Erase(taken);
    const int type = FastestFree(input, taken.job, free);
    if (type < 0) {
      stay.push_back(taken);
      continue;
    }
    free[type] -= taken.gpus;
    actions.push_back({.job = taken.job, .reason = kSpare, .type = type});
    running_.push_back({.job = taken.job, .type = type, .from_s = input.now_s});
  }
  for (const GangEntry& entry : stay) waiting_.Push(entry);
}

}  // namespace tide::sched
