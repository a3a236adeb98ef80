// Orders to one process of an elastic job: a wish of the job, answered when all have followed it.
#include "runtime/job_orders.h"

#include <unistd.h>

#include "gtest/gtest.h"
#include "shm/process.h"

namespace tide::runtime {
namespace {

using elastic::GenerationWord;
using elastic::Group;
using elastic::PauseWord;

class JobOrdersTest : public ::testing::Test {
 protected:
  JobOrdersTest() {
    UniqueFd fd = *Group::Create({1, 4, 2});
    UniqueFd copy(dup(fd.get()));
    group_ = *Group::Attach(std::move(fd));
    orders_ = std::make_unique<JobOrders>(*Group::Attach(std::move(copy)));
    elastic::Geometry geometry;
    geometry.workers = 4;
    geometry.parameters = 1;
    geometry.partials = 1;
    geometry.flat_bytes = geometry.context_bytes = 64;
    EXPECT_TRUE(group_->Seal(geometry, "contract", absl::Seconds(10)).ok());
    for (int slot = 0; slot < 3; ++slot) {
      group_->member(slot).pid.store(getpid());
      group_->member(slot).start_time.store(shm::StartTime(getpid()));
    }
    Generation(0b011);
  }
  void Generation(uint32_t members) {
    elastic::GroupHeader& header = group_->header();
    const uint32_t next = header.latest.load();
    header.generations[next].store(GenerationWord::Make(members, 0, 5));
    header.latest.store(next + 1);
  }
  void Put(JobOrders::Kind kind, uint32_t processes = 0) {
    orders_->Put(
        {.id = ++id_, .kind = kind, .processes = processes, .deadline = kStart + kPatience}, kStart,
        [this](const absl::Status& how, absl::Duration took, const std::string& text) {
          ++answers_;
          how_ = how;
          took_ = took;
          text_ = text;
        });
  }
  bool Pausing() const { return PauseWord::Wanted(group_->header().pause.load()); }

  static constexpr absl::Duration kPatience = absl::Seconds(10);
  const absl::Time kStart = absl::UnixEpoch();
  std::unique_ptr<Group> group_;
  std::unique_ptr<JobOrders> orders_;
  int64_t id_ = 0;
  int answers_ = 0;
  absl::Status how_;
  absl::Duration took_;
  std::string text_;
};

TEST_F(JobOrdersTest, APauseIsDoneWhenAllProcessesWait) {
  Put(JobOrders::Kind::kPause);
  EXPECT_TRUE(Pausing());
  group_->member(0).paused.store(1);
  orders_->Look(kStart + absl::Seconds(1));
  EXPECT_EQ(answers_, 0) << "one of two still trains";
  group_->member(1).paused.store(1);
  orders_->Look(kStart + absl::Seconds(2));
  EXPECT_EQ(answers_, 1);
  EXPECT_TRUE(how_.ok()) << how_;
  EXPECT_EQ(took_, absl::Seconds(2));
  Put(JobOrders::Kind::kResume);
  EXPECT_FALSE(Pausing());
  orders_->Look(kStart + absl::Seconds(3));
  EXPECT_EQ(answers_, 1) << "they have not noticed yet";
  group_->member(0).paused.store(0);
  group_->member(1).paused.store(0);
  orders_->Look(kStart + absl::Seconds(3));
  EXPECT_EQ(answers_, 2);
  EXPECT_TRUE(how_.ok()) << how_;
}

TEST_F(JobOrdersTest, APauseThatIsLateIsTakenBackForAll) {
  Put(JobOrders::Kind::kPause);
  group_->member(0).paused.store(1);
  orders_->Look(kStart + kPatience);
  EXPECT_EQ(answers_, 0);
  orders_->Look(kStart + kPatience + absl::Milliseconds(1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(how_)) << how_;
  EXPECT_FALSE(Pausing());
  orders_->Look(kStart + kPatience + absl::Seconds(1));
  EXPECT_EQ(answers_, 1) << "it is answered once";
}

TEST_F(JobOrdersTest, AResizeIsDoneWithTheGenerationThatHasTheSize) {
  Put(JobOrders::Kind::kResize, 3);
  EXPECT_EQ(group_->header().target.load(), 3u);
  orders_->Look(kStart + absl::Seconds(1));
  EXPECT_EQ(answers_, 0);
  Generation(0b111);
  orders_->Look(kStart + absl::Seconds(2));
  EXPECT_TRUE(how_.ok()) << how_;
  EXPECT_EQ(text_, "before it had 2");
  EXPECT_EQ(orders_->sizes().processes, 3u);
}

TEST_F(JobOrdersTest, AResizeThatIsLateIsTakenBack) {
  Put(JobOrders::Kind::kResize, 4);
  orders_->Look(kStart + kPatience + absl::Milliseconds(1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(how_)) << how_;
  EXPECT_EQ(group_->header().target.load(), 2u);
}

TEST_F(JobOrdersTest, WhatTheJobRefusesIsAnsweredAtOnceAndChangesNothing) {
  Put(JobOrders::Kind::kResize, 5);
  EXPECT_TRUE(absl::IsInvalidArgument(how_)) << how_;
  EXPECT_EQ(group_->header().target.load(), 2u);
  ASSERT_TRUE(group_->Pause(true).ok());
  Put(JobOrders::Kind::kResize, 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(how_)) << how_;
  EXPECT_EQ(group_->header().target.load(), 2u);
  EXPECT_EQ(answers_, 2);
}

TEST_F(JobOrdersTest, ALaterWishOrTheEndOfTheTrainingAnswersWhatWaits) {
  Put(JobOrders::Kind::kResize, 3);
  ASSERT_TRUE(group_->Resize(1).ok());
  orders_->Look(kStart);
  EXPECT_EQ(how_.message(), "a later wish for 1 processes came");
  Put(JobOrders::Kind::kPause);
  group_->header().finished.store(1);
  orders_->Look(kStart);
  EXPECT_EQ(how_.message(), "the training ended first");
  EXPECT_FALSE(orders_->active());
  EXPECT_EQ(answers_, 2);
}

TEST_F(JobOrdersTest, AnOrderThatIsRepeatedCountsOnce) {
  Put(JobOrders::Kind::kPause);
  --id_;
  Put(JobOrders::Kind::kPause);
  group_->member(0).paused.store(1);
  group_->member(1).paused.store(1);
  orders_->Look(kStart);
  EXPECT_EQ(answers_, 1);
}

}  // namespace
}  // namespace tide::runtime
