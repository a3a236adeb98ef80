// Look-ups in the daemon's state, and names.
#include "coordinator/state.h"

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tide::coordinator {
namespace {

constexpr size_t kNameBytesMax = 48;  // the device table holds 63: room for a number
constexpr size_t kHoldersShown = 20;

std::string Clean(absl::string_view wish) {
  std::string name;
  for (char c : wire::Utf8Prefix(wish, kNameBytesMax)) {
    const bool control = static_cast<unsigned char>(c) <= 0x20 || c == 0x7f;
    name += control ? '-' : c;
  }
  return name.empty() ? "job" : name;
}

}  // namespace

Job* State::FindJob(absl::string_view name) {
  return const_cast<Job*>(static_cast<const State*>(this)->FindJob(name));
}

const Job* State::FindJob(absl::string_view name) const {
  const Job* ended = nullptr;
  for (const auto& [id, job] : jobs) {
    if (job.name != name) continue;
    if (job.live()) return &job;
    ended = &job;  // ids grow: the last one wins
  }
  return ended;
}

Job* State::FindJob(JobId id) {
  auto it = jobs.find(id);
  return it == jobs.end() ? nullptr : &it->second;
}

std::string State::KnownNames() const {
  std::vector<absl::string_view> live, ended;
  for (const auto& [id, job] : jobs) (job.live() ? live : ended).push_back(job.name);
  auto& shown = live.empty() ? ended : live;
  const size_t count = shown.size();
  if (count > kHoldersShown) shown.resize(kHoldersShown);
  std::string names = absl::StrJoin(shown, ", ");
  if (count > kHoldersShown) absl::StrAppend(&names, " and ", count - kHoldersShown, " more");
  if (live.empty() && !names.empty()) names += " (ended)";
  return names;
}

size_t State::live_jobs() const {
  size_t count = 0;
  for (const auto& [id, job] : jobs) count += job.live();
  return count;
}

std::string UniqueName(const State& state, absl::string_view wish) {
  const std::string name = Clean(wish);
  absl::flat_hash_set<absl::string_view> taken;  // of the names that could be in the way
  for (const auto& [id, job] : state.jobs) {
    if (absl::StartsWith(job.name, name) && job.live()) taken.insert(job.name);
  }
  if (!taken.contains(name)) return name;
  for (int64_t number = 2;; ++number) {
    std::string numbered = absl::StrCat(name, "-", number);
    if (!taken.contains(numbered)) return numbered;
  }
}

}  // namespace tide::coordinator
