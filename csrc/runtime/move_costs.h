// What moves of a device's pages have taken, to say what the next one will take.
#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/bytes.h"

namespace tide::runtime {

/// What one move has to do.
struct MoveWork {
  Bytes pinned;  // copied to pinned memory, or from it
  Bytes file;    // the same with the spill file
  Bytes made;    // pinned memory that has to be made first
  Bytes total() const { return pinned + file; }
};

/// The costs of one direction on one device. A move takes a fixed time, and seconds a byte for each
/// kind of work. The first measurement of a kind replaces its guess. Thread-safe.
class MoveCosts {
 public:
  MoveCosts() = default;
  /// With another guess of what a copy takes.
  explicit MoveCosts(double seconds_per_byte) : copy_{.seconds_per_byte = seconds_per_byte} {}
  /// In seconds; 0 for no work.
  double Predict(const MoveWork& work) const;
  /// A move took so many seconds. They say what most of its bytes went through: making pinned
  /// memory, the file, or a copy and nothing else.
  void Note(const MoveWork& work, double seconds);

 private:
  /// A time that grows with the bytes: the mean of what was known and of each measurement, half
  /// and half. Of times and not of rates, since what is predicted is a time.
  struct Slope {
    double seconds_per_byte;
    bool measured = false;
    double Of(Bytes bytes) const { return seconds_per_byte * static_cast<double>(bytes.value()); }
    void Learn(Bytes bytes, double seconds);
  };
  /// The line through the measurements that has the least squares of relative errors, each older
  /// one counting less; from the origin while all have about one size or it would fall.
  struct Line {
    double seconds_per_byte;
    double fixed_s = 0;
    bool measured = false;
    double weight = 0, x = 0, y = 0, xx = 0, xy = 0;  // sums over measurements, in bytes and s
    double Of(Bytes bytes) const;
    void Learn(Bytes bytes, double seconds);
  };

  // Guesses until something was measured. Copies run at 39 to 44 GiB/s on an H200 with its driver
  // (docs/decisions/0021) and at 1 to 4 GiB/s where a machine of two cores stands in for a device;
  // devices on older buses are between these, so 10. Making pinned memory: 3.7 GiB/s on that H200,
  // copies included, and 0.3 on two cores, so 2. A file: as the host's pages, 1 GB/s.
  static constexpr double kGiB = 1 << 30;
  mutable absl::Mutex mu_;
  Line copy_ ABSL_GUARDED_BY(mu_) = {.seconds_per_byte = 1 / (10 * kGiB)};
  Slope made_ ABSL_GUARDED_BY(mu_) = {1 / (2 * kGiB)};
  Slope file_ ABSL_GUARDED_BY(mu_) = {1e-9};
};

}  // namespace tide::runtime
