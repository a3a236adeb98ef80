// The law of the room: every division of the workers among processes gives one process's bits.
#include "elastic/reducer.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "base/random.h"
#include "gtest/gtest.h"

namespace tide::elastic {
namespace {

using Buffer = std::vector<std::byte>;

/// Gradients of `workers` workers for one layout; now and then a parameter is unused, a number NaN.
struct Job {
  Job(int workers, uint64_t seed)
      : workers(workers),
        layout({{ElementType::kFloat32, 37},
                {ElementType::kBfloat16, 21},
                {ElementType::kFloat64, 5},
                {ElementType::kFloat32, 1}}),
        gradients(static_cast<size_t>(workers)) {
    Random random(seed);
    for (auto& worker : gradients) {
      for (const Parameter& parameter : layout.parameters()) {
        Buffer bytes(parameter.count * ElementBytes(parameter.type));
        for (size_t i = 0; i < parameter.count; ++i) Fill(random, parameter.type, bytes, i);
        if (random.Below(8) == 0) bytes.clear();
        worker.push_back(std::move(bytes));
      }
    }
  }

  static void Fill(Random& random, ElementType type, Buffer& bytes, size_t i) {
    double value = (random.Unit() - 0.5) * std::pow(2.0, static_cast<double>(random.Below(30)));
    if (random.Below(64) == 0) value = std::numeric_limits<double>::quiet_NaN();
    if (random.Below(32) == 0) value = -0.0;
    const auto narrow = static_cast<float>(value);
    const std::byte* from = type == ElementType::kFloat64
                                ? reinterpret_cast<const std::byte*>(&value)
                                : reinterpret_cast<const std::byte*>(&narrow);
    if (type == ElementType::kBfloat16) from += 2;  // the upper half of a float32
    std::memcpy(bytes.data() + i * ElementBytes(type), from, ElementBytes(type));
  }

  /// Bits of the mean over a division.
  Buffer Mean(const Plan& plan, bool by_shards) const {
    std::vector<Buffer> areas;
    for (const Range range : plan.carried) {
      areas.emplace_back(layout.bytes() * static_cast<size_t>(LivePartials(workers, range)));
      Buffer used(layout.parameters().size());
      PartialSums sums(workers, layout);
      sums.Begin(areas.back().data(), used.data());
      for (int worker = range.begin; worker < range.end; ++worker) {
        std::vector<const void*> pointers;
        for (const Buffer& gradient : gradients[static_cast<size_t>(worker)])
          pointers.push_back(gradient.empty() ? nullptr : gradient.data());
        sums.Fold(worker, pointers);
      }
    }
    std::vector<const std::byte*> sources;
    for (const Source& source : plan.sources) {
      sources.push_back(areas[static_cast<size_t>(source.rank)].data() +
                        static_cast<size_t>(source.index) * layout.bytes());
    }
    Buffer mean(layout.bytes());
    const int parts = by_shards ? static_cast<int>(plan.carried.size()) : 1;
    for (int part = 0; part < parts; ++part) {
      const auto [begin, end] = Shard(layout, part, parts);
      SumTree(plan, layout, sources, mean.data(), begin, end, workers);
    }
    return mean;
  }

  const int workers;
  const FlatLayout layout;
  std::vector<std::vector<Buffer>> gradients;
};

/// Ranges of the division whose bit i says that a new process begins at worker i + 1.
std::vector<Range> Division(int workers, uint32_t cuts) {
  std::vector<Range> ranges;
  int begin = 0;
  for (int end = 1; end <= workers; ++end) {
    if (end < workers && (cuts >> (end - 1) & 1) == 0) continue;
    ranges.push_back({begin, end});
    begin = end;
  }
  return ranges;
}

TEST(ReducerTest, EveryDivisionOfUpToSixteenWorkersGivesTheBitsOfOneProcess) {
  for (int workers = 1; workers <= 16; ++workers) {
    const Job job(workers, 100 + static_cast<uint64_t>(workers));
    const Buffer alone = job.Mean(*MakePlan(workers, 1), false);
    for (uint32_t cuts = 0; cuts < 1u << (workers - 1); ++cuts) {
      const Plan plan = *PlanFor(workers, Division(workers, cuts));
      ASSERT_EQ(job.Mean(plan, cuts % 2 == 0), alone) << "workers " << workers << " cuts " << cuts;
    }
  }
}

TEST(ReducerTest, AdditionInSequenceDoesNotGiveTheseBits) {
  // What `grad +=` followed by an all-reduce does: its result depends on the number of processes.
  const Job job(8, 7);
  const Plan plan = *MakePlan(8, 1);
  const Buffer tree = job.Mean(plan, false);
  std::vector<float> sequence(37);
  for (const auto& worker : job.gradients) {
    if (worker[0].empty()) continue;
    Add(ElementType::kFloat32, sequence.data(), worker[0].data(), sequence.data(), 37);
  }
  Finish(ElementType::kFloat32, sequence.data(), 1.0 / 8, 37);
  EXPECT_NE(std::memcmp(tree.data() + job.layout.offset(0), sequence.data(), 37 * 4), 0);
}

TEST(ReducerTest, EachGradientBeginsAtACacheLine) {
  const Job job(1, 1);
  for (size_t i = 0; i < job.layout.parameters().size(); ++i)
    EXPECT_EQ(job.layout.offset(i) % 64, 0u);
}

TEST(ReducerTest, UsedParametersAreMarked) {
  const FlatLayout layout({{ElementType::kFloat32, 3}, {ElementType::kFloat32, 3}});
  PartialSums sums(2, layout);
  Buffer area(layout.bytes() * 2), used(2, std::byte{9});
  sums.Begin(area.data(), used.data());
  const float ones[] = {1, 1, 1};
  for (int worker = 0; worker < 2; ++worker) {
    const void* gradients[] = {nullptr, worker == 1 ? ones : nullptr};
    sums.Fold(worker, gradients);
  }
  EXPECT_EQ(used, (Buffer{std::byte{0}, std::byte{1}}));
}

}  // namespace
}  // namespace tide::elastic
