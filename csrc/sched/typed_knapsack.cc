// A table over mixed-radix states; or a depth-first search that fixes the item the relaxation
// splits most.
#include "sched/typed_knapsack.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "sched/linear_program.h"

namespace tide::sched {
namespace {

// What is left of each type as one number.
class States {
 public:
  States(const std::vector<TypedItem>& items, absl::Span<const int> gpus) {
    std::vector<int64_t> wanted(gpus.size(), 0);
    for (const TypedItem& item : items) {
      std::vector<int> most(gpus.size(), 0);
      for (const TypedChoice& choice : item) {
        most[choice.type] = std::max(most[choice.type], choice.weight);
      }
      for (size_t type = 0; type < gpus.size(); ++type) wanted[type] += most[type];
    }
    for (size_t type = 0; type < gpus.size(); ++type) {
      strides_.push_back(count_);
      sizes_.push_back(std::min<int64_t>(wanted[type], std::max(0, gpus[type])) + 1);
      count_ = std::min<int64_t>(count_ * sizes_[type], int64_t{1} << 40);
    }
  }
  int64_t count() const { return count_; }
  bool Has(int64_t state, const TypedChoice& choice) const {
    return state / strides_[choice.type] % sizes_[choice.type] >= choice.weight;
  }
  int64_t After(int64_t state, const TypedChoice& choice) const {
    return state - choice.weight * strides_[choice.type];
  }

 private:
  std::vector<int64_t> strides_, sizes_;
  int64_t count_ = 1;
};

std::vector<int> SolveByTable(const std::vector<TypedItem>& items, const States& states) {
  const auto count = static_cast<size_t>(states.count());
  std::vector<double> best(count, 0), next(count);
  std::vector<std::vector<int16_t>> taken(items.size(), std::vector<int16_t>(count, -1));
  for (size_t i = 0; i < items.size(); ++i) {
    next = best;
    for (size_t choice = 0; choice < items[i].size(); ++choice) {
      for (size_t state = 0; state < count; ++state) {
        const auto from = static_cast<int64_t>(state);
        if (!states.Has(from, items[i][choice])) continue;
        const double with = best[static_cast<size_t>(states.After(from, items[i][choice]))] +
                            items[i][choice].value;
        if (with <= next[state]) continue;
        next[state] = with;
        taken[i][state] = static_cast<int16_t>(choice);
      }
    }
    best.swap(next);
  }
  std::vector<int> chosen(items.size(), -1);
  int64_t left = states.count() - 1;
  for (size_t i = items.size(); i-- > 0;) {
    chosen[i] = taken[i][static_cast<size_t>(left)];
    if (chosen[i] >= 0) left = states.After(left, items[i][chosen[i]]);
  }
  return chosen;
}

class Branching {
 public:
  Branching(const std::vector<TypedItem>& items, absl::Span<const int> gpus,
            const TypedLimits& limits)
      : items_(items), limits_(limits), gpus_(gpus.begin(), gpus.end()) {
    int column = 0;
    for (const TypedItem& item : items_) {
      first_column_.push_back(column);
      column += static_cast<int>(item.size());
    }
    columns_ = column;
  }

  std::vector<int> Run() {
    const std::vector<double> none(static_cast<size_t>(columns_), 0);
    std::vector<double> density;
    for (const TypedItem& item : items_) {
      for (const TypedChoice& choice : item) density.push_back(choice.value / choice.weight);
    }
    std::vector<int> fixed(items_.size(), kOpen);
    Offer(fixed, density);
    Search(fixed);
    return best_;
  }

 private:
  static constexpr int kOpen = -2;  // -1: fixed to nothing

  // Fills what `fixed` leaves open in descending order of `wish`, equal ones by value a GPU; then
  // each item takes the best choice that fits in place of its own.
  void Offer(const std::vector<int>& fixed, const std::vector<double>& wish) {
    struct Wish {
      double wish;
      size_t item;
      int choice;
    };
    std::vector<Wish> order;
    std::vector<int> chosen(items_.size(), -1);
    std::vector<int> left = gpus_;
    double value = 0;
    const auto take = [&](size_t item, int choice) {
      const TypedChoice& taken = items_[item][choice];
      if (chosen[item] >= 0 || taken.weight > left[taken.type]) return;
      chosen[item] = choice;
      left[taken.type] -= taken.weight;
      value += taken.value;
    };
    for (size_t item = 0; item < items_.size(); ++item) {
      if (fixed[item] >= 0) take(item, fixed[item]);
      for (int choice = 0; choice < static_cast<int>(items_[item].size()); ++choice) {
        if (fixed[item] != kOpen) break;
        order.push_back({wish[first_column_[item] + choice], item, choice});
      }
    }
    std::stable_sort(order.begin(), order.end(), [&](const Wish& a, const Wish& b) {
      if (a.wish != b.wish) return a.wish > b.wish;
      const TypedChoice& first = items_[a.item][a.choice];
      const TypedChoice& second = items_[b.item][b.choice];
      return first.value * second.weight > second.value * first.weight;
    });
    for (const Wish& next : order) take(next.item, next.choice);
    for (size_t item = 0; item < items_.size(); ++item) {
      if (fixed[item] == kOpen) value += Improve(item, chosen[item], left);
    }
    if (best_.empty() || value > best_value_) {
      best_ = chosen;
      best_value_ = value;
    }
  }

  double Improve(size_t item, int& chosen, std::vector<int>& left) const {
    const double before = chosen < 0 ? 0 : items_[item][chosen].value;
    if (chosen >= 0) left[items_[item][chosen].type] += items_[item][chosen].weight;
    for (int choice = 0; choice < static_cast<int>(items_[item].size()); ++choice) {
      const TypedChoice& other = items_[item][choice];
      if (other.weight > left[other.type]) continue;
      if (chosen < 0 || other.value > items_[item][chosen].value) chosen = choice;
    }
    if (chosen < 0) return 0;
    left[items_[item][chosen].type] -= items_[item][chosen].weight;
    return items_[item][chosen].value - before;
  }

  LinearProgram Relaxed(const std::vector<int>& fixed) const {
    LinearProgram program;
    std::vector<LinearProgram::Row> limits(gpus_.size());
    for (size_t type = 0; type < gpus_.size(); ++type) {
      limits[type] = {.low = -std::numeric_limits<double>::infinity(),
                      .high = static_cast<double>(gpus_[type])};
    }
    for (size_t item = 0; item < items_.size(); ++item) {
      LinearProgram::Row one{.low = fixed[item] >= 0 ? 1.0 : 0.0,
                             .high = fixed[item] == -1 ? 0.0 : 1.0};
      for (int choice = 0; choice < static_cast<int>(items_[item].size()); ++choice) {
        const int column = first_column_[item] + choice;
        const bool out = fixed[item] != kOpen && fixed[item] != choice;
        program.objective.push_back(items_[item][choice].value);
        program.bounds.push_back(out ? 0 : 1);
        one.terms.emplace_back(column, 1);
        limits[items_[item][choice].type].terms.emplace_back(column, items_[item][choice].weight);
      }
      program.rows.push_back(std::move(one));
    }
    for (LinearProgram::Row& limit : limits) program.rows.push_back(std::move(limit));
    return program;
  }

  // The open item whose largest part is the smallest, when it is not whole.
  int MostSplit(const std::vector<int>& fixed, const std::vector<double>& x) const {
    int split = -1;
    double least = 1 - 1e-6;
    for (size_t item = 0; item < items_.size(); ++item) {
      if (fixed[item] != kOpen) continue;
      double most = 0, sum = 0;
      for (size_t choice = 0; choice < items_[item].size(); ++choice) {
        most = std::max(most, x[first_column_[item] + choice]);
        sum += x[first_column_[item] + choice];
      }
      most = std::max(most, 1 - sum);
      if (most >= least) continue;
      least = most;
      split = static_cast<int>(item);
    }
    return split;
  }

  void Search(std::vector<int>& fixed) {
    if (nodes_++ >= limits_.nodes_max) return;
    const auto solution = Solve(Relaxed(fixed));
    if (!solution.ok() || solution->value <= best_value_ * (1 + limits_.gap) + 1e-12) return;
    Offer(fixed, solution->x);
    const int item = MostSplit(fixed, solution->x);
    if (item < 0) return;
    std::vector<std::pair<double, int>> parts;
    double none = 1;
    for (int choice = 0; choice < static_cast<int>(items_[item].size()); ++choice) {
      parts.emplace_back(-solution->x[first_column_[item] + choice], choice);
      none += parts.back().first;
    }
    parts.emplace_back(-none, -1);
    std::sort(parts.begin(), parts.end());
    for (const auto& [part, choice] : parts) {
      fixed[item] = choice;
      Search(fixed);
    }
    fixed[item] = kOpen;
  }

  const std::vector<TypedItem>& items_;
  const TypedLimits limits_;
  const std::vector<int> gpus_;
  std::vector<int> first_column_;
  int columns_ = 0, nodes_ = 0;
  std::vector<int> best_;
  double best_value_ = 0;
};

}  // namespace

std::vector<int> SolveTyped(const std::vector<TypedItem>& items, absl::Span<const int> gpus,
                            const TypedLimits& limits) {
  const States states(items, gpus);
  const bool small = states.count() * static_cast<int64_t>(items.size()) <= limits.cells_max;
  return small ? SolveByTable(items, states) : Branching(items, gpus, limits).Run();
}

}  // namespace tide::sched
