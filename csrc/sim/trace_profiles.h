// What a trace says of the programs of its jobs, beyond gang and duration.
#pragma once

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sched/job_profile.h"

namespace tide::sim {

/// Columns of programs, by name in the header; all optional:
/// `speedup`: throughput by number of GPUs, "1:1;2:1.9;4:3.6", straight lines between;
/// `type_speed`: "1;0.5;0.2" on each type of GPU; `stage_io_ms`, `stage_cpu_ms`, `stage_gpu_ms`,
/// `stage_net_ms`: of an iteration; `busy`: share of the time that the GPUs work; `memory_gib`,
/// `scratch_gib`: of each GPU; `memory_speed`: "0.4;0.8;1" with that many equal parts of the
/// memory; `batch_size`, `batch_max`, `noise_scale`: examples of a step, as asked for, at most, and
/// the gradient noise scale; `step_ms`, `example_ms`, `sync_ms`, `sync_gpu_ms`, `overlap`: of
/// sched::BatchModel; `cpu_speed`, `host_speed`: "1:0.4;3:1" by CPUs, by GiB of the machine's
/// memory, of each GPU; without `example_ms` the eight say nothing.
class ProfileReader {
 public:
  explicit ProfileReader(absl::string_view header);
  /// The number of the row's profile in `profiles`; -1 when the row says nothing. Equal rows share
  /// one. Errors: InvalidArgument with line and column.
  absl::StatusOr<int> Read(int line, const std::vector<absl::string_view>& cells,
                           sched::Profiles& profiles);

 private:
  static constexpr int kColumns = 20;
  std::vector<int> places_;  // of each column; -1: not there
  absl::flat_hash_map<std::string, int> known_;
};

}  // namespace tide::sim
