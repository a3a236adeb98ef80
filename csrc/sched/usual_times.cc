#include "sched/usual_times.h"

#include <algorithm>
#include <cmath>

namespace tide::sched {
namespace {

constexpr int kSeenMost = 8;  // from here on the newest counts an eighth

}  // namespace

void UsualTimes::Begin(int kind) {
  index_ = 0;
  const auto found = kinds_.find(kind);
  if (found != kinds_.end()) {
    current_ = &found->second;
  } else {
    current_ = kinds_.size() < kKindsMax ? &kinds_[kind] : nullptr;
  }
}

double UsualTimes::Usual() const {
  if (current_ == nullptr || index_ >= current_->size()) return 0;
  const Entry& entry = (*current_)[index_];
  return entry.seen >= kSeenMin ? entry.mean_ns : 0;
}

double UsualTimes::WithoutOutlier(double took_ns, double usual_ns) {
  return usual_ns > 0 ? std::min(took_ns, kOutlier * usual_ns + kOutlierNs) : took_ns;
}

UsualTimes::Stretch UsualTimes::End(double took_ns, bool undisturbed) {
  if (!std::isfinite(took_ns) || took_ns <= 0) took_ns = 0;
  Stretch stretch{.usual_ns = Usual()};
  stretch.took_ns = WithoutOutlier(took_ns, stretch.usual_ns);
  if (current_ != nullptr && index_ < kStretchesMax) {
    if (index_ >= current_->size()) current_->resize(index_ + 1);
    if (undisturbed && took_ns > 0) {
      Entry& entry = (*current_)[index_];
      entry.seen = std::min(entry.seen + 1, kSeenMost);
      entry.mean_ns += (stretch.took_ns - entry.mean_ns) / entry.seen;
    }
  }
  ++index_;
  return stretch;
}

}  // namespace tide::sched
