// Device pages on chunks of a lane, on the phantom driver: two jobs' pages on the same memory, and
// every driver call failing at every position.
#include <functional>
#include <map>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pages/device_pages.h"
#include "phantom_pages.h"

namespace tide::pages {
namespace {

constexpr size_t kPageSize = size_t{2} << 20;

/// Books of a lane with two members in this process, as the device's table keeps them.
class Books {
 public:
  struct Member final : ChunkSource {
    absl::StatusOr<UniqueFd> Hold(Bytes size, int count) override {
      if (silent) return absl::UnavailableError("nobody answers");
      if (books->limit > 0 && std::max(count, books->Most()) > books->limit)
        return absl::ResourceExhaustedError("full");
      held = count;
      last_size = size;
      for (Member* other : books->members) {
        if (other != this && other->held >= count) return other->chunks->Export(size, count - 1);
      }
      return UniqueFd();
    }
    void Keep(Bytes, int count) override { held = count; }
    Books* books = nullptr;
    LaneChunks* chunks = nullptr;
    int held = 0;
    Bytes last_size;
    bool silent = false;
  };
  int Most() const {
    int most = 0;
    for (const Member* member : members) most = std::max(most, member->held);
    return most;
  }
  std::vector<Member*> members;
  int limit = 0;
};

/// Counts, and refuses with `over` when that is an error.
class RefusingAccount final : public Account {
 public:
  absl::Status Reserve(Bytes bytes) override {
    if (over.ok()) used_ += bytes;
    return over;
  }
  void Release(Bytes bytes) override { used_ -= bytes; }
  void Force(Bytes bytes) override { used_ += bytes; }
  Bytes used() const { return used_; }
  absl::Status over;

 private:
  Bytes used_;
};

/// A job: its pages, its place in the lane, and a segment of its allocator.
class Job {
 public:
  explicit Job(Books& books) {
    source_.books = &books;
    source_.chunks = &chunks_;
    books.members.push_back(&source_);
    pages_.set_chunks(0, &chunks_);
  }
  ~Job() {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      EXPECT_EQ(pages_.Unmap(at_ + i * kPageSize, kPageSize), 0);
      EXPECT_EQ(pages_.Release(tokens_[i]), 0);
    }
    if (at_ != 0) {
      EXPECT_EQ(PhantomDriver().calls().address_free(at_, size()), 0);
    }
    pages_.TrimSpares(0, Bytes(0));
    chunks_.Trim();
    EXPECT_EQ(chunks_.held(), Bytes(0));
    EXPECT_EQ(account_.used(), Bytes(0));
  }
  void Grow(int count) {
    EXPECT_EQ(PhantomDriver().calls().address_reserve(&at_, count * kPageSize, 0, 0, 0), 0);
    const cuda::AllocationProperties properties;
    for (int i = 0; i < count; ++i) {
      cuda::Handle token = 0;
      EXPECT_EQ(pages_.Create(&token, kPageSize, &properties, 0), 0);
      EXPECT_EQ(pages_.Map(at_ + i * kPageSize, kPageSize, 0, token, 0), 0);
      tokens_.push_back(token);
    }
    const cuda::AccessDescriptor access;
    EXPECT_EQ(pages_.SetAccess(at_, size(), &access, 1), 0);
  }
  void Fill(int page, uint32_t seed) {
    std::vector<uint32_t> values(kPageSize / sizeof(uint32_t));
    std::iota(values.begin(), values.end(), seed);
    EXPECT_EQ(
        PhantomDriver().calls().copy_to_device(at_ + page * kPageSize, values.data(), kPageSize),
        0);
  }
  bool Has(int page, uint32_t seed) const {
    std::vector<uint32_t> expected(kPageSize / sizeof(uint32_t)), values(expected.size());
    std::iota(expected.begin(), expected.end(), seed);
    return PhantomDriver().calls().copy_to_host(values.data(), at_ + page * kPageSize, kPageSize) ==
               0 &&
           values == expected;
  }
  DevicePage View(int page) const {
    for (const DevicePage& view : pages_.Snapshot(0)) {
      if (view.token == tokens_[page]) return view;
    }
    return {};
  }
  bool OnLane(int page) const { return View(page).tier == DeviceTier::kLane; }
  absl::Status ToLane(int page) { return pages_.ToLane(tokens_[page]); }
  absl::Status FromLane(int page) { return pages_.FromLane(tokens_[page]); }
  size_t size() const { return tokens_.size() * kPageSize; }

  RefusingAccount account_;
  DevicePages pages_{PhantomDriver(), {&account_}, {}};
  Books::Member source_;
  LaneChunks chunks_{PhantomDriver(), 0, source_};
  cuda::DevicePointer at_ = 0;
  std::vector<cuda::Handle> tokens_;
};

class DeviceLaneTest : public PhantomPagesTest {
 protected:
  DeviceLaneTest() { Begin(); }
  ~DeviceLaneTest() override { End(); }
  void Begin() {
    books_ = {};
    left_ = std::make_unique<Job>(books_);
    right_ = std::make_unique<Job>(books_);
  }
  void End() {
    right_.reset();
    left_.reset();
  }
  uint64_t used() const { return phantom_.ledger().used / kPageSize; }
  bool Valid() const {
    return left_->pages_.Validate().ok() && right_->pages_.Validate().ok() &&
           left_->pages_.counts(0).device == left_->account_.used();
  }

  /// Runs `step` with the i-th driver call failing, for every i, until it makes fewer calls. Each
  /// time the scene is built anew by `build`, and `check` looks at what is left; the step repeated
  /// must then work.
  void Sweep(const std::function<void()>& build, const std::function<absl::Status()>& step,
             const std::function<void()>& check) {
    int failures = 0;
    for (int position = 0;; ++position) {
      ASSERT_LT(position, 200) << "the step never ends";
      SCOPED_TRACE(::testing::Message() << "driver call " << position);
      build();
      const uint64_t before = phantom_.CallCount("*");
      phantom_.ArmFault("*", position, 1, 999);
      const absl::Status status = step();
      const bool reached = phantom_.CallCount("*") - before > static_cast<uint64_t>(position);
      phantom_.DisarmFaults();
      failures += status.ok() ? 0 : 1;
      EXPECT_TRUE(Valid());
      check();
      if (!status.ok()) {
        const absl::Status again = step();
        EXPECT_TRUE(again.ok() || absl::IsFailedPrecondition(again)) << again;
      }
      EXPECT_TRUE(Valid());
      check();
      End();
      Begin();
      if (::testing::Test::HasFailure() || !reached) break;
    }
    EXPECT_GT(failures, 0) << "no fault was felt";
  }

  Books books_;
  std::unique_ptr<Job> left_, right_;
};

TEST_F(DeviceLaneTest, PagesOfTwoJobsAreOnOneMemory) {
  left_->Grow(3);
  right_->Grow(2);
  EXPECT_EQ(used(), 5u);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(left_->ToLane(i).ok());
  EXPECT_EQ(left_->account_.used(), Bytes(0)) << "the lane is charged, not the job";
  EXPECT_EQ(books_.Most(), 3);
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(right_->ToLane(i).ok());
  EXPECT_EQ(used(), 3u) << "the larger of both";
  EXPECT_EQ(left_->pages_.counts(0).lane, MiB(6));
  EXPECT_EQ(left_->pages_.counts(0).reserved(), MiB(6));
  left_->Fill(1, 7);
  EXPECT_TRUE(right_->Has(1, 7)) << "the same chunk, though each has its own address";
  EXPECT_TRUE(Valid());
}

TEST_F(DeviceLaneTest, WhatLeavesTheLaneKeepsItsContentsWhateverTheOtherWrites) {
  left_->Grow(2);
  right_->Grow(2);
  for (Job* job : {left_.get(), right_.get()}) {
    for (int i = 0; i < 2; ++i) ASSERT_TRUE(job->ToLane(i).ok());
  }
  left_->Fill(0, 100);
  left_->Fill(1, 200);
  ASSERT_TRUE(left_->FromLane(1).ok());
  EXPECT_EQ(left_->account_.used(), MiB(2));
  right_->Fill(0, 1);
  right_->Fill(1, 2);
  EXPECT_TRUE(left_->Has(1, 200));
  EXPECT_TRUE(left_->Has(0, 1)) << "page 0 is scratch: the control";
  EXPECT_TRUE(Valid());
}

TEST_F(DeviceLaneTest, ASurvivorGetsMemoryWhateverTheJobsLimitSays) {
  left_->Grow(1);
  ASSERT_TRUE(left_->ToLane(0).ok());
  left_->Fill(0, 60);
  left_->account_.over = absl::OutOfRangeError("over the job's limit");
  EXPECT_TRUE(left_->FromLane(0).ok());
  EXPECT_TRUE(left_->Has(0, 60));
  EXPECT_EQ(left_->account_.used(), MiB(2));
}

TEST_F(DeviceLaneTest, OnAFullDeviceASurvivorStaysWhereItIs) {
  left_->Grow(1);
  ASSERT_TRUE(left_->ToLane(0).ok());
  left_->Fill(0, 61);
  left_->account_.over = absl::ResourceExhaustedError("the device is full");
  EXPECT_EQ(left_->FromLane(0).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(left_->OnLane(0) && left_->Has(0, 61));
}

TEST_F(DeviceLaneTest, AChunkThatNobodyHasBehindAPageGoesAndLaterOnesTakeItsPlace) {
  left_->Grow(4);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(left_->ToLane(i).ok());
  left_->Fill(0, 50);
  ASSERT_TRUE(left_->FromLane(0).ok());
  EXPECT_EQ(books_.Most(), 4);
  left_->pages_.TrimLane(0);
  EXPECT_EQ(books_.Most(), 3);
  EXPECT_EQ(used(), 4u);
  EXPECT_TRUE(left_->Has(0, 50));
  for (int i = 1; i < 4; ++i) left_->Fill(i, static_cast<uint32_t>(i));
  for (int i = 1; i < 4; ++i) EXPECT_TRUE(left_->Has(i, static_cast<uint32_t>(i)));
}

TEST_F(DeviceLaneTest, DroppedPagesHaveMemoryAgainBeforeTheNextIteration) {
  left_->Grow(3);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(left_->ToLane(i).ok());
  ASSERT_TRUE(left_->pages_.DropLane(0).ok());
  EXPECT_EQ(used(), 0u);
  EXPECT_EQ(books_.Most(), 0);
  EXPECT_EQ(left_->pages_.Unmapped(0), MiB(6));
  EXPECT_EQ(left_->pages_.counts(0).reserved(), MiB(6)) << "the allocator's pages all the same";
  ASSERT_TRUE(left_->pages_.MapLane(0).ok());
  EXPECT_EQ(left_->pages_.Unmapped(0), Bytes(0));
  left_->Fill(2, 9);
  EXPECT_TRUE(left_->Has(2, 9));
}

TEST_F(DeviceLaneTest, TheAllocatorGivesPagesOfTheLaneBackMappedOrNot) {
  left_->Grow(3);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(left_->ToLane(i).ok());
  EXPECT_EQ(left_->pages_.Unmap(left_->at_ + kPageSize, kPageSize), 0);
  EXPECT_EQ(left_->pages_.Map(left_->at_ + kPageSize, kPageSize, 0, left_->tokens_[1], 0), 0)
      << "the allocator maps it again: private";
  const cuda::AccessDescriptor access;
  EXPECT_EQ(left_->pages_.SetAccess(left_->at_ + kPageSize, kPageSize, &access, 1), 0);
  EXPECT_FALSE(left_->OnLane(1));
  left_->Fill(1, 3);
  EXPECT_TRUE(left_->Has(1, 3));
  ASSERT_TRUE(left_->pages_.DropLane(0).ok());  // the end of the test gives them back so
  EXPECT_TRUE(Valid());
}

TEST_F(DeviceLaneTest, APageOfTheLaneIsNotExportedNorMovedAnyOtherWay) {
  left_->Grow(1);
  ASSERT_TRUE(left_->ToLane(0).ok());
  int fd = -1;
  EXPECT_EQ(left_->pages_.Export(&fd, left_->tokens_[0], cuda::kHandleFileDescriptor, 0),
            cuda::kNotPermitted);
  EXPECT_EQ(left_->pages_.Demote(left_->tokens_[0], DeviceTier::kHostCopy).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(left_->ToLane(0).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(DeviceLaneTest, WhereAMemberDoesNotAnswerThePageIsPrivate) {
  left_->Grow(1);
  left_->source_.silent = true;
  ASSERT_TRUE(left_->ToLane(0).ok());
  EXPECT_FALSE(left_->OnLane(0));
  EXPECT_EQ(left_->account_.used(), MiB(2));
  left_->Fill(0, 4);
  EXPECT_TRUE(left_->Has(0, 4));
}

TEST_F(DeviceLaneTest, OnAFullDeviceAPageWaitsEmptyForItsChunk) {
  left_->Grow(2);
  books_.limit = 1;
  ASSERT_TRUE(left_->ToLane(0).ok());
  EXPECT_EQ(left_->ToLane(1).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(left_->OnLane(1));
  EXPECT_EQ(left_->pages_.Unmapped(0), MiB(2));
  EXPECT_EQ(left_->pages_.MapLane(0).code(), absl::StatusCode::kResourceExhausted);
  books_.limit = 0;
  ASSERT_TRUE(left_->pages_.MapLane(0).ok());
  left_->Fill(1, 5);
  EXPECT_TRUE(left_->Has(1, 5));
}

TEST_F(DeviceLaneTest, EnteringWithAnyDriverCallFailingLosesNoOtherPage) {
  Sweep(
      [&] {
        left_->Grow(2);
        left_->Fill(1, 11);
      },
      [&] {
        if (!left_->OnLane(0)) return left_->ToLane(0);
        return left_->pages_.MapLane(0);
      },
      [&] { EXPECT_TRUE(left_->Has(1, 11)); });
}

TEST_F(DeviceLaneTest, EnteringWithAChunkOfTheOtherAndAnyDriverCallFailing) {
  Sweep(
      [&] {
        left_->Grow(1);
        right_->Grow(1);
        ASSERT_TRUE(right_->ToLane(0).ok());
        right_->Fill(0, 12);
      },
      [&] {
        if (!left_->OnLane(0)) return left_->ToLane(0);
        return left_->pages_.MapLane(0);
      },
      [&] { EXPECT_TRUE(right_->Has(0, 12)); });
}

TEST_F(DeviceLaneTest, LeavingWithAnyDriverCallFailingKeepsAllContents) {
  Sweep(
      [&] {
        left_->Grow(2);
        for (int i = 0; i < 2; ++i) ASSERT_TRUE(left_->ToLane(i).ok());
        left_->Fill(0, 21);
        left_->Fill(1, 22);
      },
      [&] { return left_->FromLane(0); },
      [&] { EXPECT_TRUE(left_->Has(0, 21) && left_->Has(1, 22)); });
}

TEST_F(DeviceLaneTest, DroppingAndMappingWithAnyDriverCallFailingCanBeRepeated) {
  const auto build = [&] {
    left_->Grow(3);
    left_->Fill(2, 31);
    for (int i = 0; i < 2; ++i) ASSERT_TRUE(left_->ToLane(i).ok());
  };
  const auto check = [&] { EXPECT_TRUE(left_->Has(2, 31)); };
  Sweep(
      build, [&] { return left_->pages_.DropLane(0); }, check);
  Sweep(
      [&] {
        build();
        ASSERT_TRUE(left_->pages_.DropLane(0).ok());
      },
      [&] { return left_->pages_.MapLane(0); }, check);
}

TEST_F(DeviceLaneTest, TrimmingWithAnyDriverCallFailingLeavesPagesUsable) {
  Sweep(
      [&] {
        left_->Grow(3);
        for (int i = 0; i < 3; ++i) ASSERT_TRUE(left_->ToLane(i).ok());
        left_->Fill(0, 41);
        ASSERT_TRUE(left_->FromLane(0).ok());
      },
      [&] {
        left_->pages_.TrimLane(0);
        return left_->pages_.Unmapped(0) == Bytes(0) && books_.Most() == 2
                   ? absl::OkStatus()
                   : absl::FailedPreconditionError("not all of it");
      },
      [&] {
        EXPECT_TRUE(left_->Has(0, 41));
        EXPECT_TRUE(left_->pages_.MapLane(0).ok());
        for (int i = 1; i < 3; ++i) left_->Fill(i, static_cast<uint32_t>(i));
        for (int i = 1; i < 3; ++i) EXPECT_TRUE(left_->Has(i, static_cast<uint32_t>(i)));
      });
}

}  // namespace
}  // namespace tide::pages
