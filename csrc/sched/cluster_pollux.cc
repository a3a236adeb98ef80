// pollux: a seeded genetic search for the sizes whose harmonic mean of speed-ups is best.
#include <algorithm>
#include <numeric>

#include "base/random.h"
#include "sched/cluster_policies.h"
#include "sched/goodput.h"
#include "sched/target_deal.h"

namespace tide::sched {
namespace {

constexpr double kPolluxRound = 60;
constexpr double kRestart = 30;    // seconds, as published
constexpr int kPopulation = 24;    // published: 100, for seconds a round
constexpr int kGenerations = 16;   // published: 100; ours starts from a greedy answer
constexpr double kStarved = 0.05;  // the speed-up of a job without GPUs, so that a mean exists

class Pollux final : public TargetDeal {
 public:
  Pollux(double round_s, double restart_cost_s, uint64_t seed)
      : TargetDeal({.round_s = round_s,
                    .start_reason = "the best mean speed-up found has it run",
                    .resize_reason = "the best mean speed-up found has it at that size",
                    .preempt_reason = "the best mean speed-up found leaves it out of this round"}),
        restart_cost_s_(restart_cost_s),
        seed_(seed) {}
  std::unique_ptr<ClusterPolicy> Clone() const override { return std::make_unique<Pollux>(*this); }

 protected:
  bool VisitOwnState(PolicyArchive& archive) override {
    archive.fields(rounds_);
    return true;
  }

  double BatchFor(const ClusterInput& input, const JobView& job, int gpus) const override {
    return BatchOf(job, input.profiles, gpus);
  }

  std::vector<int> Targets(const ClusterInput& input,
                           const std::vector<JobIndex>& active) override {
    Random random(seed_ + 0x9e3779b97f4a7c15u * static_cast<uint64_t>(++rounds_));
    Search search(input, active, restart_cost_s_);
    return search.Run(random);
  }

 private:
  using Genome = std::vector<int>;  // of each job: 0, or one more than the index of its size

  class Search {
   public:
    Search(const ClusterInput& input, const std::vector<JobIndex>& active, double restart_cost_s)
        : gpus_(input.cluster.gpus) {
      const double fair = static_cast<double>(gpus_) / std::max<size_t>(1, active.size());
      for (const JobIndex index : active) {
        const JobView& job = input.jobs[index.value()];
        Candidate candidate{.sizes = SizesOf(job, input.profiles)};
        const auto above = std::upper_bound(candidate.sizes.begin(), candidate.sizes.end(), fair);
        const int share = above == candidate.sizes.begin() ? candidate.sizes.front() : above[-1];
        for (const int size : candidate.sizes) {
          double speedup =
              GoodputOf(job, input.profiles, size) / GoodputOf(job, input.profiles, share);
          if (size == job.held) {
            candidate.now = static_cast<int>(candidate.speedups.size()) + 1;
          } else {
            speedup *= RestartFactor(job, input.now_s, restart_cost_s);
          }
          candidate.speedups.push_back(std::max(kStarved, speedup));
        }
        jobs_.push_back(std::move(candidate));
      }
    }

    std::vector<int> Run(Random& random) {
      std::vector<Scored> population{Score(Now()), Score(Greedy())};
      const Genome now = population[0].genome;
      // One job, or as much room as anybody wants: nothing to search for.
      const int generations = jobs_.size() < 2 || EverythingFits() ? 0 : kGenerations;
      while (generations > 0 && population.size() < kPopulation) {
        population.push_back(Score(Mutant(now, random)));
      }
      for (int i = 0; i < generations; ++i) {
        for (size_t k = 0; k < kPopulation; ++k) {
          const Genome& a = population[random.Below(kPopulation)].genome;
          const Genome& b = population[random.Below(kPopulation)].genome;
          population.push_back(Score(Mutant(Cross(a, b, random), random)));
        }
        std::stable_sort(population.begin(), population.end(), Better);
        population.resize(kPopulation);
      }
      const Genome& best = std::min_element(population.begin(), population.end(), Better)->genome;
      std::vector<int> targets;
      for (size_t i = 0; i < jobs_.size(); ++i) targets.push_back(Size(i, best[i]));
      return targets;
    }

   private:
    struct Candidate {
      std::vector<int> sizes;
      std::vector<double> speedups;
      int now = 0;  // its gene as things are
    };

    struct Scored {
      double worth;
      Genome genome;
    };
    static bool Better(const Scored& a, const Scored& b) { return a.worth > b.worth; }
    Scored Score(Genome genome) const {
      const double worth = Worth(genome);
      return {.worth = worth, .genome = std::move(genome)};
    }

    int Size(size_t job, int gene) const { return gene == 0 ? 0 : jobs_[job].sizes[gene - 1]; }

    // The harmonic mean (power -1).
    double Worth(const Genome& genome) const {
      double inverse = 0;
      for (size_t i = 0; i < genome.size(); ++i) {
        inverse += 1 / (genome[i] == 0 ? kStarved : jobs_[i].speedups[genome[i] - 1]);
      }
      return inverse > 0 ? static_cast<double>(genome.size()) / inverse : 0;
    }

    Genome Now() const {
      Genome genome;
      for (const Candidate& job : jobs_) genome.push_back(job.now);
      return Repaired(std::move(genome));
    }

    // Everybody the least, then the largest step in the mean a GPU.
    Genome Greedy() const {
      Genome genome(jobs_.size(), 0);
      int free = gpus_;
      for (size_t i = 0; i < jobs_.size(); ++i) {
        if (jobs_[i].sizes[0] > free) continue;
        genome[i] = 1;
        free -= jobs_[i].sizes[0];
      }
      for (;;) {
        size_t best = jobs_.size();
        double most = 0;
        for (size_t i = 0; i < jobs_.size(); ++i) {
          if (genome[i] == 0 || genome[i] == static_cast<int>(jobs_[i].sizes.size())) continue;
          const int more = jobs_[i].sizes[genome[i]] - jobs_[i].sizes[genome[i] - 1];
          const double gain =
              (1 / jobs_[i].speedups[genome[i] - 1] - 1 / jobs_[i].speedups[genome[i]]) / more;
          if (more > free || gain <= most) continue;
          most = gain;
          best = i;
        }
        if (best == jobs_.size()) return genome;
        free -= jobs_[best].sizes[genome[best]] - jobs_[best].sizes[genome[best] - 1];
        ++genome[best];
      }
    }

    bool EverythingFits() const {
      int64_t wanted = 0;
      for (const Candidate& job : jobs_) wanted += job.sizes.back();
      return wanted <= gpus_;
    }

    Genome Mutant(Genome genome, Random& random) const {
      for (size_t i = 0; i < genome.size(); ++i) {
        const uint64_t draw = random.Below(100);
        if (draw < 10) genome[i] = jobs_[i].now;
        if (draw >= 90) genome[i] = static_cast<int>(random.Below(jobs_[i].sizes.size() + 1));
      }
      return Repaired(std::move(genome));
    }

    static Genome Cross(const Genome& a, const Genome& b, Random& random) {
      Genome genome = a;
      for (size_t i = 0; i < genome.size(); ++i) {
        if (random.Below(2) == 0) genome[i] = b[i];
      }
      return genome;
    }

    // Over the capacity the last jobs shrink and then wait.
    Genome Repaired(Genome genome) const {
      int64_t used = 0;
      for (size_t i = 0; i < genome.size(); ++i) used += Size(i, genome[i]);
      for (size_t i = genome.size(); i-- > 0 && used > gpus_;) {
        while (genome[i] > 0 && used > gpus_) {
          used -= Size(i, genome[i]) - Size(i, genome[i] - 1);
          --genome[i];
        }
      }
      return genome;
    }

    const int gpus_;
    std::vector<Candidate> jobs_;
  };

  const double restart_cost_s_;
  const uint64_t seed_;
  int64_t rounds_ = 0;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakePollux(const ClusterPolicyOptions& options) {
  return std::make_unique<Pollux>(options.round_s > 0 ? options.round_s : kPolluxRound,
                                  options.restart_cost_s > 0 ? options.restart_cost_s : kRestart,
                                  options.seed);
}

}  // namespace tide::sched
