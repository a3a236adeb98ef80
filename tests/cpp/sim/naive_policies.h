// The published rules written as plainly as they read, over lists of all jobs: models for the
// indexed ones.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "sched/cluster_policy.h"

namespace tide::sim {

/// Looks at every job at every event.
class NaivePolicy : public sched::ClusterPolicy {
 public:
  sched::ClusterDecision Decide(const sched::ClusterInput& input) final {
    for (const sched::JobEvent& event : input.events) {
      if (event.kind == sched::JobEventKind::kCompletion) Remove(event.job);
    }
    for (const sched::JobEvent& event : input.events) {
      if (event.kind == sched::JobEventKind::kArrival) Append(event.job);
    }
    sched::ClusterDecision decision;
    const std::vector<sched::JobIndex> order = Order(input);
    int free = input.cluster.gpus;
    std::vector<bool> taken(input.jobs.size());
    for (const sched::JobIndex job : order) {
      const sched::JobView& view = input.jobs[job.value()];
      const bool running = view.state == sched::JobState::kRunning;
      const bool takes = view.gpus <= free;
      if (takes) free -= view.gpus;
      taken[job.value()] = takes;
      if (takes == running) continue;
      decision.actions.push_back(
          {.job = job,
           .kind = takes ? sched::JobActionKind::kStart : sched::JobActionKind::kPreempt});
    }
    decision.wake_s = Settle(input, taken);
    return decision;
  }

 protected:
  virtual void Append(sched::JobIndex job) = 0;
  virtual void Remove(sched::JobIndex job) = 0;
  virtual std::vector<sched::JobIndex> Order(const sched::ClusterInput& input) = 0;
  /// After the GPUs were dealt out; returns when to look again.
  virtual double Settle(const sched::ClusterInput&, const std::vector<bool>&) {
    return sched::kNever;
  }
};

class NaiveShortest final : public NaivePolicy {
 public:
  explicit NaiveShortest(bool by_gpu_time) : by_gpu_time_(by_gpu_time) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<NaiveShortest>(*this);
  }

 private:
  void Append(sched::JobIndex job) override { jobs_.push_back(job); }
  void Remove(sched::JobIndex job) override { std::erase(jobs_, job); }
  std::vector<sched::JobIndex> Order(const sched::ClusterInput& input) override {
    const auto key = [&](sched::JobIndex job) {
      const sched::JobView& view = input.jobs[job.value()];
      return view.RemainingAt(input.now_s) * (by_gpu_time_ ? view.gpus : 1);
    };
    std::stable_sort(jobs_.begin(), jobs_.end(), [&](auto a, auto b) { return key(a) < key(b); });
    return jobs_;
  }

  const bool by_gpu_time_;
  std::vector<sched::JobIndex> jobs_;
};

class NaiveAttained final : public NaivePolicy {
 public:
  NaiveAttained(bool by_gpu_time, bool as_published, std::vector<double> limits)
      : by_gpu_time_(by_gpu_time),
        as_published_(as_published),
        limits_(std::move(limits)),
        queues_(limits_.size() + 1) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<NaiveAttained>(*this);
  }

 private:
  void Append(sched::JobIndex job) override { queues_[0].push_back(job); }
  void Remove(sched::JobIndex job) override {
    for (auto& queue : queues_) std::erase(queue, job);
  }

  std::vector<sched::JobIndex> Order(const sched::ClusterInput& input) override {
    for (int i = 0; i < static_cast<int>(input.jobs.size()); ++i) {
      const sched::JobView& view = input.jobs[i];
      if (view.state != sched::JobState::kRunning) continue;
      for (size_t q = 0; q < limits_.size(); ++q) {
        if (std::find(queues_[q].begin(), queues_[q].end(), sched::JobIndex(i)) ==
            queues_[q].end()) {
          continue;
        }
        if (view.ExecutedAt(input.now_s) * (by_gpu_time_ ? view.gpus : 1) < limits_[q]) break;
        std::erase(queues_[q], sched::JobIndex(i));
        queues_[q + 1].push_back(sched::JobIndex(i));
        break;  // one queue an event
      }
    }
    std::vector<sched::JobIndex> order;
    for (const auto& queue : queues_) order.insert(order.end(), queue.begin(), queue.end());
    return order;
  }

  double Settle(const sched::ClusterInput& input, const std::vector<bool>& taken) override {
    double next_s = sched::kNever;
    for (size_t q = 0; q < queues_.size(); ++q) {
      std::stable_partition(queues_[q].begin(), queues_[q].end(),
                            [&](sched::JobIndex job) { return taken[job.value()]; });
      if (q == limits_.size()) continue;
      for (const sched::JobIndex job : queues_[q]) {
        if (!taken[job.value()]) continue;
        const double executed_s = input.jobs[job.value()].ExecutedAt(input.now_s);
        const double gpus = by_gpu_time_ ? input.jobs[job.value()].gpus : 1;
        const double wait_s = as_published_ ? std::floor((limits_[q] - executed_s) / gpus)
                                            : std::ceil((limits_[q] - executed_s * gpus) / gpus);
        next_s = std::min(next_s, input.now_s + wait_s);
      }
    }
    return next_s;
  }

  const bool by_gpu_time_, as_published_;
  const std::vector<double> limits_;
  std::vector<std::vector<sched::JobIndex>> queues_;
};

}  // namespace tide::sim
