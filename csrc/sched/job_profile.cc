// The best batch has a closed form when nothing overlaps; else a grid and then a golden section.
#include "sched/job_profile.h"

#include <cmath>

namespace tide::sched {

double BatchModel::Throughput(int gpus, double batch) const {
  const double computing_s = step_s + example_s * batch / gpus;
  const double exchange_s = gpus > 1 ? sync_s + sync_gpu_s * (gpus - 2) : 0;
  if (overlap == 1 || exchange_s <= 0) return batch / (computing_s + exchange_s);
  // Scaled by the longer of the two, so that no power is too large.
  const double longer_s = std::max(computing_s, exchange_s);
  const double sum =
      std::pow(computing_s / longer_s, overlap) + std::pow(exchange_s / longer_s, overlap);
  return batch / (longer_s * std::pow(sum, 1 / overlap));
}

double BatchModel::BestBatch(int gpus) const {
  if (most <= own) return own;
  if (overlap == 1) {
    // batch / ((fixed + slope batch) (noise + batch)) is largest at slope batch^2 = fixed noise.
    const double fixed_s = step_s + (gpus > 1 ? sync_s + sync_gpu_s * (gpus - 2) : 0);
    return std::clamp(std::sqrt(fixed_s * noise * gpus / example_s), own, most);
  }
  constexpr int kGrid = 32;
  constexpr double kGolden = 0.6180339887498949;
  const double ratio = std::pow(most / own, 1.0 / kGrid);
  int best = 0;
  for (int i = 1; i <= kGrid; ++i) {
    const double batch = own * std::pow(ratio, i);
    if (Goodput(gpus, batch) > Goodput(gpus, own * std::pow(ratio, best))) best = i;
  }
  double low = own * std::pow(ratio, std::max(0, best - 1));
  double high = std::min(most, own * std::pow(ratio, best + 1));
  while (high - low > 1e-6 * low) {
    const double left = high - kGolden * (high - low), right = low + kGolden * (high - low);
    (Goodput(gpus, left) < Goodput(gpus, right) ? low : high) =
        Goodput(gpus, left) < Goodput(gpus, right) ? left : right;
  }
  return std::clamp((low + high) / 2, own, most);
}

double SpeedAt(const SpeedCurve& curve, double amount) {
  double before = 0, speed_before = 0;
  for (const auto& [at, speed] : curve) {
    if (amount < at) {
      return speed_before + (speed - speed_before) * (amount - before) / (at - before);
    }
    before = at;
    speed_before = speed;
  }
  return curve.empty() ? 1 : speed_before;
}

double EnoughOf(const SpeedCurve& curve) {
  double enough = 0, most = 0;
  for (const auto& [at, speed] : curve) {
    if (speed <= most) continue;
    most = speed;
    enough = at;
  }
  return enough;
}

}  // namespace tide::sched
