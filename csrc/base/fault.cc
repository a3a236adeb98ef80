#include "base/fault.h"

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace tide {
namespace {

struct Armed {
  absl::Status error;
  int skip = 0;
  int times = 0;
};

struct Table {
  absl::Mutex mu;
  absl::flat_hash_map<std::string, Armed> points ABSL_GUARDED_BY(mu);
};

Table& Faults() {
  static Table& table = *new Table;
  return table;
}

}  // namespace

namespace fault_internal {

std::atomic<int> armed_count{0};

absl::Status Check(absl::string_view point) {
  Table& table = Faults();
  absl::MutexLock lock(&table.mu);
  auto it = table.points.find(point);
  if (it == table.points.end()) return absl::OkStatus();
  if (it->second.skip > 0) {
    --it->second.skip;
    return absl::OkStatus();
  }
  if (it->second.times == 0) return absl::OkStatus();
  --it->second.times;
  return it->second.error;
}

}  // namespace fault_internal

void ArmFault(absl::string_view point, absl::Status error, int skip, int times) {
  Table& table = Faults();
  absl::MutexLock lock(&table.mu);
  table.points[std::string(point)] = Armed{std::move(error), skip, times};
  fault_internal::armed_count.store(static_cast<int>(table.points.size()),
                                    std::memory_order_relaxed);
}

void DisarmFaults() {
  Table& table = Faults();
  absl::MutexLock lock(&table.mu);
  table.points.clear();
  fault_internal::armed_count.store(0, std::memory_order_relaxed);
}

}  // namespace tide
