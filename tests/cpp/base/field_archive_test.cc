// What was written reads back, and what is damaged is an error.
#include "base/field_archive.h"

#include <deque>
#include <limits>
#include <map>
#include <set>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "base/random.h"
#include "gtest/gtest.h"

namespace tide {
namespace {

enum class Colour : uint8_t { kRed, kBlue };

struct Inner {
  Id<struct TestTag> id;
  std::string name;
  bool operator==(const Inner&) const = default;
};
void VisitFields(FieldArchive& archive, Inner& inner) { archive(inner.id, inner.name); }

class Everything {
 public:
  void VisitFields(FieldArchive& archive) {
    archive(flag, small, large, unsigned_, colour, real, text, pair, array);
    archive(list, queue, set, tree, map, hash, inners);
  }
  bool operator==(const Everything&) const = default;

  bool flag = false;
  int small = 0;
  int64_t large = 0;
  uint64_t unsigned_ = 0;
  Colour colour = Colour::kRed;
  double real = 0;
  std::string text;
  std::pair<int, double> pair;
  std::array<int, 3> array{};
  std::vector<int> list;
  std::deque<double> queue;
  std::set<std::pair<int, Id<struct TestTag>>> set;
  absl::btree_set<int> tree;
  std::map<std::string, std::vector<int>> map;
  absl::flat_hash_map<std::string, int> hash;
  std::vector<Inner> inners;
};

Everything Sample() {
  Everything value;
  value.flag = true;
  value.small = std::numeric_limits<int>::min();
  value.large = std::numeric_limits<int64_t>::min();
  value.unsigned_ = std::numeric_limits<uint64_t>::max();
  value.colour = Colour::kBlue;
  value.real = -std::numeric_limits<double>::infinity();
  value.text = std::string("a\0b", 3);
  value.pair = {-7, 0.1};
  value.array = {1, 2, 3};
  value.list = {5, -5};
  value.queue = {1.5};
  value.set = {{3, Id<struct TestTag>(4)}};
  value.tree = {9, 8};
  value.map = {{"x", {1}}, {"y", {}}};
  for (int i = 0; i < 100; ++i) value.hash["key" + std::to_string(i)] = i;
  value.inners = {{Id<struct TestTag>(1), "one"}, {}};
  return value;
}

std::string Written(Everything value) {
  FieldArchive archive;
  archive(value);
  return archive.Take();
}

TEST(FieldArchiveTest, WhatWasWrittenReadsBack) {
  const std::string bytes = Written(Sample());
  FieldArchive archive(bytes);
  Everything value;
  value.list = {1, 2, 3, 4};  // what was there before is gone
  value.hash["old"] = 1;
  archive(value);
  EXPECT_TRUE(archive.status().ok()) << archive.status();
  EXPECT_EQ(archive.rest(), 0u);
  EXPECT_TRUE(value == Sample());
}

TEST(FieldArchiveTest, EqualValuesGiveEqualBytesWhateverTheOrderOfTheirHashes) {
  Everything backwards = Sample();
  backwards.hash.clear();
  backwards.hash.reserve(5000);
  for (int i = 99; i >= 0; --i) backwards.hash["key" + std::to_string(i)] = i;
  EXPECT_EQ(Written(backwards), Written(Sample()));
}

TEST(FieldArchiveTest, EveryTruncationIsAnError) {
  const std::string bytes = Written(Sample());
  for (size_t size = 0; size < bytes.size(); ++size) {
    FieldArchive archive(absl::string_view(bytes).substr(0, size));
    Everything value;
    archive(value);
    EXPECT_EQ(archive.status().code(), absl::StatusCode::kDataLoss) << size;
  }
}

TEST(FieldArchiveTest, WrongBytesNeverTakeMoreMemoryThanTheyHaveElements) {
  const std::string good = Written(Sample());
  Random random(1);
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = good;
    for (int i = 0; i < 3; ++i)
      bytes[random.Below(bytes.size())] = static_cast<char>(random.Below(256));
    FieldArchive archive(bytes);
    Everything value;
    archive(value);
    EXPECT_LE(value.list.size() + value.queue.size() + value.text.size(), bytes.size());
  }
}

TEST(FieldArchiveTest, ANumberThatItsFieldCannotHoldIsAnError) {
  FieldArchive writer;
  int64_t large = int64_t{1} << 40;
  writer(large);
  const std::string bytes = writer.Take();
  FieldArchive reader(bytes);
  int small = 5;
  reader(small);
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(small, 5);
}

}  // namespace
}  // namespace tide
