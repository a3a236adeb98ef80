// Shares are solved for when jobs came or went, not more often than so many rounds; time had is
// counted since.
#include "sched/gavel.h"

#include <algorithm>
#include <array>
#include <map>

#include "sched/corun.h"
#include "sched/share_deal.h"

namespace tide::sched {
namespace {

constexpr double kResetRounds = 1920.0 / 360;  // rounds between two solutions, as published
constexpr int kPartners = 8;       // of a job in the packed problem: the best of its size
constexpr double kNeverRan = 1e9;  // priority over share of who has not run on a type

// One job, or two in ascending order.
using UnitKey = std::pair<JobIndex, JobIndex>;
using ByType = std::array<double, kGpuTypesMax>;

class Gavel final : public ClusterPolicy {
 public:
  explicit Gavel(const GavelOptions& options) : options_(options) {}
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<Gavel>(*this); }

  ClusterDecision Decide(const ClusterInput& input) override {
    UpdateActive(input, active_);
    SetTypes(input);
    NoteEvents(input);
    ClusterDecision decision;
    const bool idle = GroupsNow(input, active_).empty();
    if (input.now_s >= round_end_s_ || (options_.strict_rounds && idle)) {
      BookRound(input);
      round_begin_s_ = input.now_s;
      round_end_s_ = input.now_s + options_.round_s;
      Settle(input);
      StartRound(input, decision.actions);
    } else if (!options_.strict_rounds) {
      FillIn(input, decision.actions);
    }
    if (!active_.empty()) decision.wake_s = round_end_s_;
    return decision;
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.fields(active_, gpus_, accounts_, isolated_, running_, worker_s_);
    archive.fields(round_begin_s_, round_end_s_, solved_s_, changed_, ever_solved_);
    return true;
  }

 private:
  struct Account {
    ByType share{}, had_s{};
    bool solved = false;  // `share` is of the last solution
    void VisitFields(FieldArchive& archive) { archive(share, had_s, solved); }
  };
  struct Pick {
    UnitKey unit;
    int type;
    void VisitFields(FieldArchive& archive) { archive(unit, type); }
  };

  void SetTypes(const ClusterInput& input) {
    gpus_.assign(input.cluster.gpus_by_type.begin(), input.cluster.gpus_by_type.end());
    if (gpus_.empty()) gpus_.push_back(input.cluster.gpus);
  }
  int Types() const { return static_cast<int>(gpus_.size()); }

  void NoteEvents(const ClusterInput& input) {
    for (const JobEvent& event : input.events) {
      changed_ = true;
      if (event.kind == JobEventKind::kArrival) {
        Account& account = accounts_[{event.job, JobIndex()}];
        account.had_s.fill(options_.round_s / 2);
      } else if (event.kind == JobEventKind::kCompletion) {
        BookUnitsOf(input, event.job);
        Leave(event.job);
        std::erase_if(accounts_, [&](const auto& entry) { return Has(entry.first, event.job); });
        isolated_.erase(event.job);
      }
    }
    // Who was evicted runs no more.
    std::erase_if(running_, [&](const Pick& pick) {
      return input.jobs[pick.unit.first.value()].state != JobState::kRunning;
    });
  }

  // Of a pair the other one stays on the GPUs.
  void Leave(JobIndex job) {
    std::erase_if(running_,
                  [&](const Pick& pick) { return pick.unit == UnitKey(job, JobIndex()); });
    for (Pick& pick : running_) {
      if (!Has(pick.unit, job)) continue;
      pick.unit = {pick.unit.first == job ? pick.unit.second : pick.unit.first, JobIndex()};
    }
  }

  static bool Has(const UnitKey& unit, JobIndex job) {
    return unit.first == job || unit.second == job;
  }

  // The time that a round, or what there was of it, gave to who ran in it.
  void BookUnitsOf(const ClusterInput& input, JobIndex job) {
    for (const Pick& pick : running_) {
      if (job.value() >= 0 && !Has(pick.unit, job)) continue;
      const double had_s = input.now_s - round_begin_s_;
      accounts_[pick.unit].had_s[pick.type] += had_s;
      worker_s_[pick.type] += had_s;
    }
  }
  void BookRound(const ClusterInput& input) { BookUnitsOf(input, JobIndex()); }

  // Speed of a member of a unit on a type; 0 where its gang does not fit.
  double SpeedOn(const ClusterInput& input, const UnitKey& unit, JobIndex job, int type) const {
    const JobView& view = input.jobs[job.value()];
    if (view.gpus > gpus_[type]) return 0;
    double speed = 1;
    if (view.profile >= 0 && input.profiles != nullptr) {
      const std::vector<double>& by_type = input.profiles->of[view.profile].type_speed;
      if (type < static_cast<int>(by_type.size())) speed = by_type[type];
    }
    if (unit.second.value() < 0 || input.profiles == nullptr) return speed;
    const CorunMember members[] = {{.profile = input.jobs[unit.first.value()].profile},
                                   {.profile = input.jobs[unit.second.value()].profile}};
    return speed * CorunSpeeds(members, *input.profiles, type)[job == unit.second ? 1 : 0];
  }

  GavelProblem ProblemOf(const ClusterInput& input, std::vector<UnitKey>& units) {
    GavelProblem problem;
    problem.gpus.assign(gpus_.begin(), gpus_.end());
    problem.cost.assign(Types(), 1);
    for (int type = 0; type < static_cast<int>(input.cluster.cost_by_type.size()); ++type) {
      if (type < Types()) problem.cost[type] = input.cluster.cost_by_type[type];
    }
    for (const JobIndex job : active_) {
      units.emplace_back(job, JobIndex());
      const JobView& view = input.jobs[job.value()];
      GavelJob entry{.gpus = view.gpus,
                     .weight = view.weight,
                     .remaining_s = std::max(1e-9, view.RemainingAt(input.now_s)),
                     .elapsed_s = input.now_s - view.submit_s};
      for (int type = 0; type < Types(); ++type) {
        entry.speed.push_back(SpeedOn(input, units.back(), job, type));
      }
      problem.jobs.push_back(std::move(entry));
    }
    NoteIsolated(input, problem);
    if (options_.packed) AddPairs(input, units);
    std::map<JobIndex, int> place;
    for (size_t i = 0; i < active_.size(); ++i) place[active_[i]] = static_cast<int>(i);
    for (const UnitKey& unit : units) {
      GavelUnit entry;
      for (const JobIndex job : {unit.first, unit.second}) {
        if (job.value() < 0) continue;
        entry.jobs.push_back(place[job]);
        entry.speed.emplace_back();
        for (int type = 0; type < Types(); ++type) {
          entry.speed.back().push_back(SpeedOn(input, unit, job, type));
        }
      }
      problem.units.push_back(std::move(entry));
    }
    return problem;
  }

  // How long what each job has done since the last look would have taken on its own part of the
  // cluster.
  void NoteIsolated(const ClusterInput& input, GavelProblem& problem) {
    for (size_t i = 0; i < active_.size(); ++i) {
      Isolated& isolated = isolated_[active_[i]];
      const double remaining_s = input.jobs[active_[i].value()].RemainingAt(input.now_s);
      if (isolated.speed > 0) {
        isolated.had_s += std::max(0.0, isolated.remaining_s - remaining_s) / isolated.speed;
      }
      isolated.remaining_s = remaining_s;
      isolated.speed = GavelIsolatedSpeed(problem, static_cast<int>(i));
      problem.jobs[i].isolated_s = isolated.had_s;
    }
  }

  // Pairs of one size that get more done together than in turns, the best few of each job.
  void AddPairs(const ClusterInput& input, std::vector<UnitKey>& units) const {
    std::vector<UnitKey> pairs;
    for (size_t a = 0; a < active_.size(); ++a) {
      std::vector<std::pair<double, UnitKey>> best;
      for (size_t b = a + 1; b < active_.size(); ++b) {
        const UnitKey pair{active_[a], active_[b]};
        const JobView& first = input.jobs[pair.first.value()];
        const JobView& second = input.jobs[pair.second.value()];
        if (first.gpus != second.gpus || first.profile < 0 || second.profile < 0) continue;
        const CorunMember members[] = {{.profile = first.profile}, {.profile = second.profile}};
        const std::vector<double> speeds = CorunSpeeds(members, *input.profiles);
        if (speeds[0] + speeds[1] > 1) best.emplace_back(-(speeds[0] + speeds[1]), pair);
      }
      std::sort(best.begin(), best.end());
      if (best.size() > kPartners) best.resize(kPartners);
      for (const auto& [worth, pair] : best) pairs.push_back(pair);
    }
    units.insert(units.end(), pairs.begin(), pairs.end());
  }

  void Settle(const ClusterInput& input) {
    const bool due = !ever_solved_ || input.now_s - solved_s_ >= kResetRounds * options_.round_s;
    if (!changed_ || !due || active_.empty()) return;
    std::vector<UnitKey> units;
    const GavelProblem problem = ProblemOf(input, units);
    const absl::StatusOr<GavelShares> shares = options_.shares(problem);
    changed_ = false;
    ever_solved_ = true;
    solved_s_ = input.now_s;
    accounts_.clear();
    worker_s_.fill(0);
    for (size_t i = 0; i < units.size(); ++i) {
      Account& account = accounts_[units[i]];
      account.solved = shares.ok();  // without a solution everybody waits for the next in turn
      const bool single = units[i].second.value() < 0;
      for (int type = 0; type < Types(); ++type) {
        if (shares.ok()) account.share[type] = (*shares)[i][type];
        account.had_s[type] = single ? options_.round_s / 2 : 0;
        worker_s_[type] += account.had_s[type];
      }
    }
  }

  void StartRound(const ClusterInput& input, std::vector<JobAction>& actions) {
    std::vector<Pick> picks;
    std::vector<bool> taken(input.jobs.size());
    for (int type = 0; type < Types(); ++type) {
      struct Candidate {
        double priority, share;
        UnitKey unit;
      };
      std::vector<Candidate> order;
      for (const auto& [unit, account] : accounts_) {
        if (options_.strict_rounds && !account.solved) continue;  // waits for the next solution
        const double fraction = worker_s_[type] > 0 ? account.had_s[type] / worker_s_[type] : 0;
        const double share = account.share[type];
        order.push_back({.priority = fraction > 0 ? share / fraction : share * kNeverRan,
                         .share = share,
                         .unit = unit});
      }
      std::stable_sort(order.begin(), order.end(), [](const Candidate& a, const Candidate& b) {
        return a.priority != b.priority ? a.priority > b.priority : a.share > b.share;
      });
      int free = gpus_[type];
      for (const Candidate& candidate : order) {
        const auto [first, second] = candidate.unit;
        const bool pair = second.value() >= 0;
        if (taken[first.value()] || (pair && taken[second.value()])) continue;
        if (pair && candidate.share <= 0) continue;
        const int gpus = input.jobs[first.value()].gpus;
        if (gpus > free || SpeedOn(input, candidate.unit, first, type) <= 0) continue;
        free -= gpus;
        taken[first.value()] = true;
        if (pair) taken[second.value()] = true;
        picks.push_back({.unit = candidate.unit, .type = type});
      }
    }
    Apply(input, std::move(picks), actions);
  }

  void Apply(const ClusterInput& input, std::vector<Pick> picks, std::vector<JobAction>& actions) {
    std::vector<bool> stays(input.jobs.size());
    for (const Pick& pick : picks) {
      for (const Pick& before : running_) {
        if (before.unit != pick.unit || before.type != pick.type) continue;
        stays[pick.unit.first.value()] = true;
        if (pick.unit.second.value() >= 0) stays[pick.unit.second.value()] = true;
      }
    }
    for (const JobIndex job : active_) {
      if (stays[job.value()] || input.jobs[job.value()].state != JobState::kRunning) continue;
      actions.push_back({.job = job,
                         .kind = JobActionKind::kPreempt,
                         .reason = "jobs further behind their shares of these GPUs go first"});
    }
    running_ = std::move(picks);
    std::vector<bool> placed = stays;
    for (const Pick& pick : running_) {
      const auto [first, second] = pick.unit;
      if (stays[first.value()]) continue;
      actions.push_back({.job = first,
                         .reason = "it is furthest behind its share of this type of GPU",
                         .type = TypeFor(pick.type)});
      placed[first.value()] = true;
      if (second.value() < 0) continue;
      placed[second.value()] = true;
      actions.push_back({.job = second,
                         .reason = "the two get more done together than in turns",
                         .beside = first});
    }
    if (!options_.strict_rounds) FillFrom(input, placed, actions);
  }

  int TypeFor(int type) const { return Types() == 1 ? -1 : type; }

  void FillIn(const ClusterInput& input, std::vector<JobAction>& actions) {
    std::vector<bool> placed(input.jobs.size());
    for (const JobIndex job : active_) {
      placed[job.value()] = input.jobs[job.value()].state == JobState::kRunning;
    }
    FillFrom(input, placed, actions);
  }

  // Jobs that are not placed take what is free, on the type that is fastest for them.
  void FillFrom(const ClusterInput& input, const std::vector<bool>& placed,
                std::vector<JobAction>& actions) {
    std::vector<int> free = gpus_;
    int all = input.cluster.gpus;
    for (const Pick& pick : running_) {
      free[pick.type] -= input.jobs[pick.unit.first.value()].gpus;
      all -= input.jobs[pick.unit.first.value()].gpus;
    }
    for (const JobIndex job : active_) {
      if (placed[job.value()]) continue;
      const UnitKey unit{job, JobIndex()};
      const int gpus = input.jobs[job.value()].gpus;
      int best = -1;
      double fastest = 0;
      for (int type = 0; type < Types(); ++type) {
        const double speed = SpeedOn(input, unit, job, type);
        if (gpus > free[type] || speed <= fastest) continue;
        fastest = speed;
        best = type;
      }
      const bool only_spread = gpus > *std::max_element(gpus_.begin(), gpus_.end());
      if (best < 0 && !(only_spread && running_.empty() && gpus <= all)) continue;
      actions.push_back({.job = job,
                         .reason = "GPUs are free that nobody with a share waits for",
                         .type = best < 0 ? -1 : TypeFor(best)});
      running_.push_back({.unit = unit, .type = std::max(best, 0)});
      if (best < 0) return;  // it has GPUs of several types; nobody else starts before it ends
      free[best] -= gpus;
      all -= gpus;
    }
  }

  struct Isolated {
    double had_s = 0, remaining_s = 0, speed = 0;
    void VisitFields(FieldArchive& archive) { archive(had_s, remaining_s, speed); }
  };
  const GavelOptions options_;
  std::vector<JobIndex> active_;
  std::vector<int> gpus_;  // by type
  std::map<UnitKey, Account> accounts_;
  std::map<JobIndex, Isolated> isolated_;
  std::vector<Pick> running_;
  ByType worker_s_{};
  double round_begin_s_ = 0, round_end_s_ = 0, solved_s_ = 0;
  bool changed_ = false, ever_solved_ = false;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeGavelPolicy(const GavelOptions& options) {
  return std::make_unique<Gavel>(options);
}

}  // namespace tide::sched
