// Running jobs are a short list in order, waiting ones an ordered index; one merge deals the GPUs
// out.
#include "sched/shortest_first.h"

#include <algorithm>

#include "sched/gang_queue.h"

namespace tide::sched {
namespace {

class ShortestFirst final : public ClusterPolicy {
 public:
  explicit ShortestFirst(const ShortestFirstOptions& options) : options_(options) {}
  std::unique_ptr<ClusterPolicy> Clone() const override {
    return std::make_unique<ShortestFirst>(*this);
  }

  ClusterDecision Decide(const ClusterInput& input) override {
    // Jobs preempted below rank before the newcomers of this event, behind all that waited already.
    int64_t preempted_rank = next_rank_;
    next_rank_ += static_cast<int64_t>(running_.size());
    newcomers_from_ = next_rank_;
    TakeIn(input);
    SortRunning();
    return Deal(input, preempted_rank);
  }

  bool VisitState(PolicyArchive& archive) override {
    archive.fields(running_, waiting_, next_rank_, newcomers_from_);
    return true;
  }

 private:
  struct Running {
    double key;
    JobIndex job;
    int gpus;
    void VisitFields(FieldArchive& archive) { archive(key, job, gpus); }
  };

  double Key(const JobView& job, double now_s) const {
    const double cost_s = job.state == JobState::kRunning ? options_.restart_cost_s : 0;
    return (job.RemainingAt(now_s) - cost_s) * (options_.by_gpu_time ? job.gpus : 1);
  }

  void TakeIn(const ClusterInput& input) {
    size_t kept = 0;
    for (const Running& entry : running_) {
      const JobView& job = input.jobs[entry.job.value()];
      if (job.state != JobState::kRunning) continue;
      running_[kept++] = {.key = Key(job, input.now_s), .job = entry.job, .gpus = entry.gpus};
    }
    running_.resize(kept);
    for (const JobEvent& event : input.events) {
      if (event.kind == JobEventKind::kCompletion) continue;
      const JobView& job = input.jobs[event.job.value()];
      waiting_.Push(
          {.key = Key(job, input.now_s), .rank = next_rank_++, .job = event.job, .gpus = job.gpus});
    }
  }

  // By insertion: stable, and the order hardly changes between two events.
  void SortRunning() {
    for (size_t i = 1; i < running_.size(); ++i) {
      const Running moved = running_[i];
      size_t place = i;
      for (; place > 0 && running_[place - 1].key > moved.key; --place) {
        running_[place] = running_[place - 1];
      }
      running_[place] = moved;
    }
  }

  // Whether a waiting job goes before a running one. Equal keys: it was ahead at the event before,
  // because the running one has been getting shorter since; a newcomer was not there.
  bool Ahead(const GangEntry& waiting, const Running& running) const {
    if (waiting.key != running.key) return waiting.key < running.key;
    return waiting.rank < newcomers_from_;
  }

  ClusterDecision Deal(const ClusterInput& input, int64_t preempted_rank) {
    ClusterDecision decision;
    next_running_.clear();
    int free = input.cluster.gpus;
    const GangEntry* head = waiting_.First(free);
    const auto start_head = [&] {
      const GangEntry taken = *head;
      waiting_.Erase(taken);
      next_running_.push_back({.key = taken.key, .job = taken.job, .gpus = taken.gpus});
      decision.actions.push_back(
          {.job = taken.job, .kind = JobActionKind::kStart, .reason = options_.start_reason});
      free -= taken.gpus;
      head = waiting_.First(free);
    };
    for (const Running& running : running_) {
      while (head != nullptr && Ahead(*head, running)) start_head();
      if (running.gpus <= free) {
        next_running_.push_back(running);
        free -= running.gpus;
        if (head != nullptr && head->gpus > free) head = waiting_.First(free);
        continue;
      }
      decision.actions.push_back(
          {.job = running.job, .kind = JobActionKind::kPreempt, .reason = options_.preempt_reason});
      const double cost = options_.restart_cost_s * (options_.by_gpu_time ? running.gpus : 1);
      waiting_.Push({.key = running.key + cost,
                     .rank = preempted_rank++,
                     .job = running.job,
                     .gpus = running.gpus});
      if (head != nullptr) head = waiting_.First(free);  // the push may have moved it in memory
    }
    while (head != nullptr) start_head();
    running_.swap(next_running_);
    return decision;
  }

  const ShortestFirstOptions options_;
  std::vector<Running> running_, next_running_;  // in order; the second is scratch
  GangQueue waiting_;
  int64_t next_rank_ = 0;
  int64_t newcomers_from_ = 0;
};

}  // namespace

std::unique_ptr<ClusterPolicy> MakeShortestFirst(const ShortestFirstOptions& options) {
  return std::make_unique<ShortestFirst>(options);
}

}  // namespace tide::sched
