// The table of cluster policies by published name.
#include "sched/cluster_policy.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "sched/cluster_policies.h"
#include "sched/linear_program.h"

namespace tide::sched {
namespace {

struct Entry {
  ClusterPolicyInfo info;
  std::unique_ptr<ClusterPolicy> (*make)(const ClusterPolicyOptions&);
  bool solves = false;  // linear programs, with Clp
};

constexpr Entry kPolicies[] = {
    {{"fifo", "order of submission; the first misfit holds up the rest"}, MakeFifo},
    {{"fjf", "order of submission; misfits are passed over"}, MakeFjf},
    {{"srtf", "least remaining seconds first, preemptive"}, MakeSrtf},
    {{"srsf", "least remaining GPU-seconds first, preemptive"}, MakeSrsf},
    {{"dlas", "least attained seconds first, in queues"}, MakeDlas},
    {{"dlas-gpu", "least attained GPU-seconds first, in queues, with the published demotion clock"},
     MakeDlasGpu},
    {{"dlas-gpu-fixed", "least attained GPU-seconds first, in queues"}, MakeDlasGpuFixed},
    {{"gittins", "highest Gittins index by the sizes of finished jobs, in rounds"}, MakeGittins},
    {{"edf", "earliest deadline first, preemptive"}, MakeEdf},
    {{"edf-admit", "edf over jobs whose deadlines can all be met; others are refused"},
     MakeEdfAdmit},
    {{"srtf-restart", "least remaining seconds first, preempts for more than a restart costs"},
     MakeSrtfRestart},
    {{"qssf", "fewest predicted GPU-seconds first, stops at the first misfit, no preemption"},
     MakeQssf},
    {{"pai", "least predicted seconds first by history of the group, no preemption"}, MakePai},
    {{"themis", "partial auction among the worst finish-time ratios, at the end of each lease",
      nullptr, true},
     MakeThemis},
    {{"themis-lease", "worst finish-time ratio first at the end of each lease, no auction"},
     MakeThemisLease},
    {{"gandiva-fair", "equal GPU time for every user by a gang-aware stride"}, MakeGandivaFair},
    {{"max-min", "equal GPU time for every job by water filling, in rounds"}, MakeMaxMin},
    {{"finish-time", "least worst finish-time ratio, in rounds"}, MakeFinishTime},
    {{"makespan", "shares with which all jobs end together, in rounds"}, MakeMakespan},
    {{"antman", "opportunistic jobs run on what guaranteed ones leave, and beside them"},
     MakeAntman},
    {{"singularity", "three tiers; the lowest shrinks, then stops first", nullptr, true},
     MakeSingularity},
    {{"optimus", "elastic: GPU by GPU to the job whose end comes nearest by it, in rounds", nullptr,
      true},
     MakeOptimus},
    {{"afs", "elastic: GPU by GPU to the job of top priority, short or efficient", nullptr, true},
     MakeAfs},
    {{"elasticflow", "elastic: admits what can meet its deadline, least shares that do", nullptr,
      true},
     MakeElasticFlow},
    {{"pollux", "elastic: seeded search for the best mean speed-up, in rounds", nullptr, true},
     MakePollux},
    {{"sia-like", "elastic: exact best sum of goodputs to a power, in rounds", nullptr, true},
     MakeSiaLike},
    {{"lyra", "elastic: base demands shortest first, spare GPUs by a knapsack", nullptr, true},
     MakeLyra},
    {{"muri-s", "sharing: jobs with interleaving stages grouped, least remaining GPU time first"},
     MakeMuriS},
    {{"muri-l", "sharing: the same by attained GPU time, durations unknown"}, MakeMuriL},
    {{"lucid", "sharing: pairs that hardly slow each other, least predicted GPU time first"},
     MakeLucid},
    {{"salus", "sharing: as many jobs on GPUs as memory admits, in turns"}, MakeSalus},
    {{"tgs", "sharing: opportunistic jobs beside production jobs at an adaptive pace"}, MakeTgs},
    {{"gandiva", "sharing: time slices, pairs that do more together, idle GPUs to who can grow",
      nullptr, true},
     MakeGandiva},
    {{"philly", "quotas of virtual clusters with borrowing; gangs wait a while for few nodes"},
     MakePhilly},
    {{"gavel-max-min", "types of GPU: the least normalised throughput as large as can be, LP"},
     MakeGavelMaxMinPolicy,
     true},
    {{"gavel-water-filling", "types of GPU: max-min, then again for who can still gain, LPs"},
     MakeGavelWaterFillingPolicy,
     true},
    {{"gavel-packed", "types of GPU: max-min in which pairs of jobs may share GPUs, LP"},
     MakeGavelPackedPolicy,
     true},
    {{"gavel-finish-time", "types of GPU: the worst finish-time ratio as small as can be, LPs"},
     MakeGavelFinishTimePolicy,
     true},
    {{"gavel-makespan", "types of GPU: all jobs end together as early as can be, LP"},
     MakeGavelMakespanPolicy,
     true},
    {{"gavel-throughput", "types of GPU: the largest sum of throughputs, LP"},
     MakeGavelThroughputPolicy,
     true},
    {{"gavel-cost", "types of GPU: the largest sum of throughput over cost, LP"},
     MakeGavelCostPolicy,
     true},
    {{"synergy",
      "least remaining seconds first; CPUs and memory of a node by what jobs make of them",
      "it divides the CPUs and the memory of machines among their jobs, which a coordinator does "
      "not"},
     MakeSynergy},
    {{"easyscale", "elastic: logical workers on what GPUs there are, largest speed-up a GPU first",
      nullptr, true},
     MakeEasyScale},
};

// Other names under which the same rules were published.
constexpr std::pair<const char*, const char*> kAliases[] = {{"shortest", "srtf"},
                                                            {"shortest-gpu", "srsf"}};

absl::Status CheckOptions(const ClusterPolicyOptions& options) {
  double before = 0;
  for (const double limit : options.queue_limits_s) {
    if (!(limit > before) || limit == kNever) {
      return absl::InvalidArgumentError(
          "the limits of queues must be positive and ascending; such as 3250, 7200");
    }
    before = limit;
  }
  for (const double quota : options.quotas) {
    if (quota >= 0 && quota != kNever) continue;
    return absl::InvalidArgumentError("a quota is not a number of GPUs; give such as 64,32");
  }
  if (options.profiler_gpus < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a profiler of ", options.profiler_gpus, " GPUs; give 0 or more"));
  }
  for (const double value : {options.starvation_knob, options.round_s, options.restart_cost_s,
                             options.profiler_limit_s}) {
    if (!(value >= 0) || value == kNever) {
      return absl::InvalidArgumentError(
          absl::StrCat("an option of the policy is ", value, "; give a number from 0 upwards"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

const char* JobActionWord(JobActionKind kind) {
  switch (kind) {
    case JobActionKind::kStart:
      return "start";
    case JobActionKind::kPreempt:
      return "preempt";
    case JobActionKind::kRefuse:
      return "refuse";
    case JobActionKind::kResize:
      return "resize";
    case JobActionKind::kPace:
      return "pace";
  }
  return "unknown";
}

double SpeedOf(const JobView& job, const Profiles* profiles, int gpus, double batch) {
  if (gpus == job.gpus && batch == 0) return 1;
  if (profiles == nullptr || job.profile < 0) return 0;
  const JobProfile& profile = profiles->of[job.profile];
  const double gang = profile.SpeedWith(job.gpus);
  if (gang <= 0) return 0;
  if (batch > 0 && gpus > 0) return profile.batch.Goodput(gpus, batch) / gang;
  return profile.SpeedWith(gpus) / gang;
}

std::vector<ClusterPolicyInfo> ClusterPolicies() {
  std::vector<ClusterPolicyInfo> infos;
  for (const Entry& entry : kPolicies) infos.push_back(entry.info);
  return infos;
}

absl::StatusOr<std::unique_ptr<ClusterPolicy>> MakeClusterPolicy(
    absl::string_view name, const ClusterPolicyOptions& options) {
  TIDE_RETURN_IF_ERROR(CheckOptions(options));
  for (const auto& [alias, published] : kAliases) {
    if (name == alias) name = published;
  }
  std::string names;
  for (const Entry& entry : kPolicies) {
    if (name == entry.info.name) {
      if (entry.solves) TIDE_RETURN_IF_ERROR(CheckLinearSolver());
      return entry.make(options);
    }
    absl::StrAppend(&names, names.empty() ? "" : ", ", entry.info.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no cluster policy is called \"", name, "\"; there are ", names));
}

}  // namespace tide::sched
