// Random operations on an arena against a shadow of every block's contents; a failure replays from
// its seed.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "base/random.h"
#include "cpp/arena/arena_fixture.h"

namespace tide::arena {

/// One run; `steps` operations on at most kLiveMax blocks of 1 to 8 MiB. Contents are checked
/// through words spread over each block and derived from its own number, so that a byte of another
/// block never fits.
class ArenaFuzz {
 public:
  ArenaFuzz(uint64_t seed, bool host, bool forks)
      : world_(host, MiB(96)), random_(seed), forks_(forks), lane_(LaneFile(MiB(96))) {
    world_.account.set_limit(MiB(40));
  }
  ~ArenaFuzz() {
    for (const Shadow& block : blocks_) world_.arena->Free(block.at);
    EXPECT_TRUE(world_.arena->EndIteration().ok());
    EXPECT_TRUE(world_.arena->DetachLane().ok());
  }

  void Run(int steps) {
    world_.arena->BeginIteration(0, false);
    for (int step = 1; step <= steps; ++step) {
      Step();
      if (step % 100 == 0) CheckAll(step);
      if (::testing::Test::HasFatalFailure()) return;
    }
    CheckAll(steps);
  }
  int64_t done(int kind) const { return done_[kind]; }

 private:
  static constexpr size_t kLiveMax = 8;
  static constexpr size_t kStride = 4096 * 5;
  struct Shadow {
    char* at;
    size_t size;
    uint64_t key;
  };

  static uint64_t Word(uint64_t key, size_t offset) { return Random(key + offset).Next(); }
  void Write(Shadow& block) {
    block.key = random_.Next();
    ForWords(block, [&](char* at, uint64_t word) { std::memcpy(at, &word, sizeof(word)); });
  }
  bool Intact(const Shadow& block) {
    bool same = true;
    ForWords(block, [&](const char* at, uint64_t word) {
      same = same && std::memcmp(at, &word, sizeof(word)) == 0;
    });
    return same;
  }
  template <typename Visit>
  void ForWords(const Shadow& block, Visit visit) {
    for (size_t at = 0; at + 8 <= block.size; at += kStride)
      visit(block.at + at, Word(block.key, at));
    visit(block.at + block.size - 8, Word(block.key, block.size));
  }
  void CheckAll(int step) {
    ASSERT_TRUE(world_.arena->Validate().ok()) << world_.arena->Validate() << " at step " << step;
    for (const Shadow& block : blocks_) ASSERT_TRUE(Intact(block)) << "at step " << step;
    const ArenaStats stats = world_.arena->Stats();
    ASSERT_EQ(stats.committed_bytes, world_.account.used()) << "at step " << step;
    ASSERT_EQ(stats.demoted_bytes, world_.spill->used()) << "at step " << step;
  }

  void Step() {
    const uint64_t kind = random_.Below(1000);
    if (kind < 350) return Allocate();
    if (kind < 650) return Free();
    if (kind < 900) return Rewrite();
    if (kind < 940) return Boundary();
    if (kind < 942) return Count(1), void(world_.arena->Demote(PageCount(1 + random_.Below(3))));
    if (kind < 945) return Count(2), void(world_.arena->Promote(PageCount(1 + random_.Below(3))));
    if (kind < 946)
      return Count(3), void(world_.arena->Demote(PageCount(1000)));  // as a suspension
    if (kind < 960) return Count(4), void(world_.arena->Trim(PageCount(random_.Below(4))));
    if (kind < 963) return SwitchLane();
    if (kind < 999) return Rewrite();
    if (forks_) Fork();
  }
  void Count(int kind) { ++done_[kind]; }

  void Allocate() {
    if (blocks_.size() >= kLiveMax) return Free();
    static constexpr int64_t kSizes[] = {1 << 20, 1 << 20,          1 << 20,
                                         3 << 20, (1 << 20) + 4096, 4 << 20};
    const size_t size = kSizes[random_.Below(6)] - 8 * random_.Below(4);
    const auto at = world_.arena->Allocate(size);
    if (!at.ok()) return;
    blocks_.push_back({static_cast<char*>(*at), size, 0});
    Write(blocks_.back());
  }
  void Free() {
    if (blocks_.empty()) return;
    std::swap(blocks_[random_.Below(blocks_.size())], blocks_.back());
    ASSERT_TRUE(Intact(blocks_.back()));
    world_.arena->Free(blocks_.back().at);
    blocks_.pop_back();
  }
  void Rewrite() {
    if (blocks_.empty()) return;
    Shadow& block = blocks_[random_.Below(blocks_.size())];
    ASSERT_TRUE(Intact(block));
    Write(block);
    world_.arena->Touch(block.at, block.size);
    world_.arena->NextOperator();
  }
  void Boundary() {
    Count(0);
    ASSERT_TRUE(world_.arena->EndIteration().ok());
    world_.arena->set_recording(random_.Below(2) == 0);
    world_.arena->BeginIteration(static_cast<int32_t>(random_.Below(2)), random_.Below(4) != 0);
  }
  void SwitchLane() {
    Count(5);
    ASSERT_TRUE(world_.arena->EndIteration().ok());
    if (random_.Below(3) == 0) {
      ASSERT_TRUE(world_.arena->DetachLane().ok());
    } else {
      UniqueFd fresh = LaneFile(MiB(96));
      ASSERT_TRUE(world_.arena->AttachLane(fresh.get()).ok());
      lane_ = std::move(fresh);
    }
    world_.arena->BeginIteration(0, true);
  }
  void Fork() {
    Count(6);
    world_.arena->BeforeFork();
    const pid_t child = fork();
    if (child == 0) {
      world_.arena->AfterForkInChild();
      bool good = true;
      for (Shadow& block : blocks_) good = good && Intact(block);
      for (Shadow& block : blocks_) std::memset(block.at, 0x5a, block.size);
      for (Shadow& block : blocks_) world_.arena->Free(block.at);
      _exit(good ? 0 : 1);
    }
    world_.arena->AfterForkInParent();
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0) << "the child saw other contents";
  }

  World world_;
  Random random_;
  const bool forks_;
  UniqueFd lane_;
  std::vector<Shadow> blocks_;
  int64_t done_[7] = {};
};

}  // namespace tide::arena
