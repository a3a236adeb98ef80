// The state of record: jobs and events that survive a kill of the daemon at any instant.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/state.h"

namespace tide::coordinator {

/// What a batch of decisions changes; committed whole or not at all.
struct JournalBatch {
  std::vector<Job> jobs;  // in order: a later one of the same id wins
  std::vector<JobId> forgotten;
  std::vector<wire::Event> events;
  std::vector<std::pair<int64_t, std::string>> inputs;  // of the cluster's engine, by number
  std::optional<ClusterSnapshot> snapshot;              // after these inputs
  int64_t log_bytes = -1;                               // of the decision log; negative: as before
  int64_t generation = 0;
  int64_t next_job_id = 0;
  int64_t next_order_id = 0;
  bool empty() const {
    return jobs.empty() && forgotten.empty() && events.empty() && inputs.empty() && !snapshot;
  }
};

/// What the last run left.
struct JournalContent {
  int64_t generation = 0;
  int64_t next_job_id = 1;
  int64_t next_order_id = 1;
  int64_t next_seq = 1;
  std::vector<Job> jobs;
  ClusterHistory cluster;
  int64_t log_bytes = 0;
  std::vector<wire::Event> events;  // the newest kEventsInMemory, in order
};

class Journal {
 public:
  virtual ~Journal() = default;
  virtual absl::StatusOr<JournalContent> Load() = 0;
  /// Returns once a kill cannot lose the batch any more. A snapshot takes the place of all but the
  /// one before it and of the inputs that both of them cover. Errors: as of the storage; then
  /// nothing of it holds.
  virtual absl::Status Commit(const JournalBatch& batch) = 0;
};

struct JournalOptions {
  int64_t events_kept = 10'000;  // the newest; older ones go as new ones come
};

/// SQLite at `path` (0600), WAL, synchronous=NORMAL. A file of the layout before is brought to this
/// one. A file that is damaged, no database or of a layout that is not known is set aside as
/// `path`.broken and a new one begun: jobs re-attach and tell their limits. Errors: of the storage,
/// such as a full disk; then the file stays as it is.
absl::StatusOr<std::unique_ptr<Journal>> OpenSqliteJournal(const std::string& path,
                                                           const JournalOptions& options = {});

/// The journalled part of a job as a value, and back. Fields that are missing read as their
/// defaults.
wire::Value::Map JobToValue(const Job& job);
Job JobFromValue(const wire::Value& value);

}  // namespace tide::coordinator
