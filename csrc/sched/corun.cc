// Interleaved stages by all orders of at most four jobs; time sharing by proportion.
#include "sched/corun.h"

#include <algorithm>
#include <cmath>

namespace tide::sched {
namespace {

const JobProfile& ProfileOf(const Profiles& profiles, int index) {
  static const JobProfile& unknown = *new JobProfile;  // never destroyed, as statics should be
  return index < 0 ? unknown : profiles.of[index];
}

std::vector<double> Interleaved(absl::Span<const CorunMember> members, const Profiles& profiles) {
  std::vector<const JobProfile*> jobs;
  for (const CorunMember& member : members) jobs.push_back(&profiles.of[member.profile]);
  const double together_s = InterleavedSeconds(jobs) * profiles.share_cost[jobs.size() - 1];
  std::vector<double> speeds;
  for (size_t i = 0; i < jobs.size(); ++i) {
    double alone_s = 0;
    for (const double stage_s : jobs[i]->stage_s) alone_s += stage_s;
    speeds.push_back(std::min({1.0, members[i].pace, alone_s / together_s}));
  }
  return speeds;
}

std::vector<double> TimeShared(absl::Span<const CorunMember> members, const Profiles& profiles) {
  double wanted = 0;
  for (const CorunMember& member : members) {
    wanted += std::min(member.pace, 1.0) * ProfileOf(profiles, member.profile).busy;
  }
  const double scale = wanted > 1 ? 1 / wanted : 1;
  std::vector<double> speeds;
  for (const CorunMember& member : members) speeds.push_back(std::min(member.pace, 1.0) * scale);
  return speeds;
}

// The GPUs' memory is divided in proportion to what each wants.
void SlowByMemory(absl::Span<const CorunMember> members, const Profiles& profiles,
                  std::vector<double>& speeds) {
  if (profiles.gpu_memory_gib <= 0) return;
  double wanted_gib = 0;
  for (const CorunMember& member : members) {
    const JobProfile& profile = ProfileOf(profiles, member.profile);
    wanted_gib += profile.memory_gib + profile.scratch_gib;
  }
  if (wanted_gib <= profiles.gpu_memory_gib) return;
  const double share = profiles.gpu_memory_gib / wanted_gib;
  for (size_t i = 0; i < members.size(); ++i) {
    speeds[i] *= SpeedWithMemory(ProfileOf(profiles, members[i].profile), share);
  }
}

}  // namespace

double InterleavedSeconds(absl::Span<const JobProfile* const> jobs) {
  // Stages that nobody has are left out, as long as there is one for each job to be at.
  std::array<int, kStages> stages, offsets;
  size_t count = 0;
  for (int stage = 0; stage < kStages; ++stage) {
    const bool used = std::any_of(jobs.begin(), jobs.end(),
                                  [&](const JobProfile* job) { return job->stage_s[stage] > 0; });
    const size_t later = kStages - stage - 1;
    if (used || count + later < jobs.size()) stages[count++] = stage;
  }
  for (size_t i = 0; i < count; ++i) offsets[i] = static_cast<int>(i);
  double least_s = std::numeric_limits<double>::infinity();
  do {
    double total_s = 0;
    for (size_t step = 0; step < count; ++step) {
      double slowest_s = 0;
      for (size_t i = 0; i < jobs.size(); ++i) {
        const int stage = stages[(step + offsets[i]) % count];
        slowest_s = std::max(slowest_s, jobs[i]->stage_s[stage]);
      }
      total_s += slowest_s;
    }
    least_s = std::min(least_s, total_s);
    // Only the order relative to the first job matters.
  } while (std::next_permutation(offsets.begin() + 1, offsets.begin() + count));
  return least_s;
}

std::vector<double> CorunSpeeds(absl::Span<const CorunMember> members, const Profiles& profiles,
                                int type) {
  if (members.size() == 2 && !profiles.pairs.empty()) {
    const int a = members[0].profile, b = members[1].profile;
    const auto found = profiles.pairs.find({std::min(a, b), std::max(a, b), type});
    if (found != profiles.pairs.end()) {
      const auto [low, high] = found->second;
      return a <= b ? std::vector<double>{low, high} : std::vector<double>{high, low};
    }
  }
  const bool stages = std::all_of(members.begin(), members.end(), [&](const CorunMember& member) {
    return member.profile >= 0 && profiles.of[member.profile].has_stages();
  });
  std::vector<double> speeds =
      stages && members.size() > 1 ? Interleaved(members, profiles) : TimeShared(members, profiles);
  SlowByMemory(members, profiles, speeds);
  return speeds;
}

double SpeedWithMemory(const JobProfile& profile, double share) {
  const std::vector<double>& curve = profile.memory_speed;
  if (curve.empty() || share >= 1) return 1;
  // Straight lines between the points; below the first as at the first.
  const double place = share * static_cast<double>(curve.size());
  const auto below = static_cast<size_t>(place);
  if (below < 1) return curve.front();
  const double high = below < curve.size() ? curve[below] : 1;
  return curve[below - 1] + (high - curve[below - 1]) * (place - static_cast<double>(below));
}

}  // namespace tide::sched
