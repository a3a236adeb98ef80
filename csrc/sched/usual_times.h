// What each stretch of an iteration takes while nobody disturbs it, learnt as it goes; no clock.
#pragma once

#include <cstddef>
#include <map>
#include <vector>

namespace tide::sched {

/// An iteration is a row of stretches (from one look at the clock to the next); those of equal
/// place in iterations of equal kind do equal work. Only stretches that were undisturbed teach what
/// is usual, so a neighbour that slows the job for hours does not become its usual; an older mean
/// is forgotten with each of them by an eighth. A mean and not a median: sums of it are compared
/// with sums of what was taken.
class UsualTimes {
 public:
  static constexpr size_t kStretchesMax = 1 << 16;  // of an iteration; later ones are not known
  static constexpr size_t kKindsMax = 64;
  static constexpr int kSeenMin = 2;  // before a stretch counts as known
  /// A stretch that was interrupted by something else counts with this many times its usual time
  /// and kOutlierNs at most.
  static constexpr double kOutlier = 4;
  static constexpr double kOutlierNs = 1e6;

  /// Begins an iteration of that kind.
  void Begin(int kind);
  /// Usual nanoseconds of the stretch that is under way; 0: not known.
  double Usual() const;

  struct Stretch {
    double usual_ns = 0;  // 0: not known
    double took_ns = 0;   // outliers cut
  };
  /// Ends the stretch under way and begins the next. Times that are not positive say nothing.
  Stretch End(double took_ns, bool undisturbed);
  /// Nothing is known any more: the job does something else now.
  void Forget() { kinds_.clear(), current_ = nullptr; }

  /// `took_ns` as a stretch of that usual time counts it.
  static double WithoutOutlier(double took_ns, double usual_ns);

 private:
  struct Entry {
    double mean_ns = 0;
    int seen = 0;
  };
  std::map<int, std::vector<Entry>> kinds_;
  std::vector<Entry>* current_ = nullptr;  // of the iteration under way
  size_t index_ = 0;
};

}  // namespace tide::sched
