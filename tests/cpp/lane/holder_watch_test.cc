// Patience with a holder: short with a stopped one, long with one that only runs slowly.
#include "lane/holder_watch.h"

#include <memory>

#include "cpp/shm/child_process.h"
#include "gtest/gtest.h"

namespace tide::lane {
namespace {

constexpr absl::Duration kGrace = absl::Seconds(1);

class HolderPatienceTest : public ::testing::Test {
 protected:
  HolderPatienceTest() : child_([] { return pause(); }) {
    holder_->pid.store(child_.pid());
    holder_->start_time.store(shm::StartTime(child_.pid()));
  }
  testing::Child child_;
  std::unique_ptr<shm::JobSlot> holder_ = std::make_unique<shm::JobSlot>();
};

TEST_F(HolderPatienceTest, AStoppedHolderHasTheGraceAndNoMore) {
  holder_->last_iteration_ns.store(10'000'000'000);
  child_.Signal(SIGSTOP);
  child_.AwaitStopped();
  EXPECT_EQ(HolderPatience(*holder_, kGrace), kGrace);
}

TEST_F(HolderPatienceTest, ASlowHolderHasSeveralOfItsIterations) {
  holder_->last_iteration_ns.store(10'000'000'000);
  EXPECT_EQ(HolderPatience(*holder_, kGrace), absl::Seconds(80));
  holder_->last_iteration_ns.store(1'000'000);
  EXPECT_EQ(HolderPatience(*holder_, kGrace), kGrace) << "never less than the grace";
}

TEST_F(HolderPatienceTest, AHolderInItsFirstIterationHasTime) {
  EXPECT_EQ(HolderPatience(*holder_, kGrace), absl::Seconds(30));
}

}  // namespace
}  // namespace tide::lane
