// What the machine looked like while jobs ran, so that a page can be made of a run that is over.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/device_view.h"
#include "wire/value.h"

namespace tide::coordinator {

struct State;

/// Samples of all live jobs, one a second; older ones are farther apart, in proportion to
/// their age, so that their number is bounded.
class History {
 public:
  struct JobSample {
    int64_t id = 0;  // of the job; minus its process number where the daemon does not know it
    std::string state;
    int64_t memory_bytes = 0;  // resident and outside of pages
    int64_t demoted_bytes = 0;
    int64_t iterations = 0;
    bool operator==(const JobSample&) const = default;
  };
  struct Sample {
    int64_t unix_ms = 0;
    int64_t used_bytes = 0;
    std::vector<JobSample> jobs;
    bool operator==(const Sample&) const = default;
  };
  struct Names {
    std::string name, script;
    bool operator==(const Names&) const = default;
  };

  /// `points_max`: samples and job samples together; 64 bytes each.
  explicit History(size_t points_max = 100'000) : points_max_(points_max) {}

  /// Whether a look is due: a second after the last, and a millisecond more for each job of it.
  bool Due(int64_t unix_ms) const;
  /// Takes a sample when jobs live, or lived at the last look.
  void Look(const State& state, const DeviceView& view, int64_t unix_ms);
  void Add(Sample sample);

  const std::deque<Sample>& samples() const { return samples_; }
  const std::map<int64_t, Names>& names() const { return names_; }
  /// Changes at each sample.
  int64_t version() const { return version_; }

  /// The answer to the query `history`: samples after `since_ms`, at most `count` and as many as
  /// fit an answer, the names of their jobs, and whether there are more.
  wire::Value::Map Answer(int64_t since_ms, int64_t count) const;
  /// All of it, for a file.
  std::string Packed() const;
  /// Takes over what Packed has written. Errors: InvalidArgument for anything else; then nothing
  /// has changed.
  absl::Status Restore(const std::string& packed);

 private:
  void Thin();

  size_t points_max_;
  size_t points_ = 0;
  int64_t version_ = 0;
  std::deque<Sample> samples_;
  std::map<int64_t, Names> names_;  // of the jobs in samples_
};

}  // namespace tide::coordinator
