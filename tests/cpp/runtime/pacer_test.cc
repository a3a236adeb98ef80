// The token bucket and the meter against a table in which the test plays the other job.
#include "runtime/pacer.h"

#include <stdlib.h>

#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/step_meter.h"

namespace tide::runtime {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kStart = 1'000'000 * kMs;

// A guaranteed and an opportunistic job on one table, and a clock that the test moves.
class PacerTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string folder = testing::TempDir() + "pacer-XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    device_ = shm::DeviceFile::Open(folder).value();
    guaranteed_ = device_->Claim("paper").value();
    opportunistic_ = device_->Claim("sweep").value();
    device_->slot(guaranteed_).priority.store(2);
    device_->slot(opportunistic_).priority.store(0);
    meter_ = std::make_unique<StepMeter>(*device_, guaranteed_);
    Make({});
  }
  void TearDown() override {
    device_.reset();
    std::filesystem::remove_all(folder_);
  }
  void Make(const sched::PaceOptions& options) {
    pacer_ = std::make_unique<Pacer>(*device_, opportunistic_, options);
  }
  // An iteration of the guaranteed job in ten stretches; the other one looks after each.
  void Iterate(int64_t stretch_ns) {
    meter_->Ask(2, /*operators=*/true, /*settled=*/true, now_);
    meter_->Begin(now_);
    for (int i = 0; i < 10; ++i) {
      now_ += stretch_ns;
      if (meter_->Due()) meter_->Operator(now_);
      looked_ = pacer_->MayRun(now_);
    }
    meter_->End(now_);
    device_->slot(guaranteed_).iterations.fetch_add(1);
  }
  // Undisturbed iterations until the meter knows what is usual.
  void Learn() {
    for (int i = 0; i < 12; ++i) Iterate(3 * kMs);
  }

  std::string folder_;
  std::unique_ptr<shm::DeviceFile> device_;
  SlotId guaranteed_, opportunistic_;
  std::unique_ptr<StepMeter> meter_;
  std::unique_ptr<Pacer> pacer_;
  int64_t now_ = kStart;
  bool looked_ = false;
};

TEST_F(PacerTest, WithoutAGuaranteedJobThatTrainsAJobRunsFreely) {
  pacer_->Run(now_);
  for (int i = 0; i < 100; ++i) {
    now_ += 10 * kMs;
    ASSERT_TRUE(pacer_->MayRun(now_));
  }
  EXPECT_EQ(pacer_->pace(), 1);
}

TEST_F(PacerTest, WhoComesToAGuaranteedJobBeginsAtTheLeastPace) {
  Learn();
  Make({});
  EXPECT_TRUE(pacer_->MayRun(now_));
  meter_->Ask(2, true, true, now_);
  Make({});
  pacer_->MayRun(now_);
  EXPECT_EQ(pacer_->pace(), 0.02);
  EXPECT_EQ(device_->slot(opportunistic_).pace_ppm.load(), 20'000u);
  EXPECT_EQ(device_->slot(opportunistic_).pace_for.load(), guaranteed_.value());
}

TEST_F(PacerTest, ASlowedJobRunsItsShareOfTheTime) {
  sched::PaceOptions options;
  options.pace_min = 0.1;
  Make(options);
  meter_->Ask(2, true, false, now_);  // nothing is known of it: the least pace
  int64_t ran_ns = 0;
  for (int64_t ms = 0; ms < 9000; ++ms) {
    now_ += kMs;
    if (pacer_->MayRun(now_)) {
      pacer_->Run(now_);
      ran_ns += kMs;
    } else {
      pacer_->Stop(now_);
      ASSERT_LE(pacer_->Wait(), absl::Milliseconds(20));
    }
  }
  EXPECT_NEAR(static_cast<double>(ran_ns) / (9000 * kMs), 0.1, 0.01);
}

// Story: two ranks were slowed. One waited in a collective for the other, which stood still for its
// pace; it was charged with that wait and stood still for fifty times as long, and so on.
TEST_F(PacerTest, WhatARankWaitsForOthersIsNotCharged) {
  meter_->Ask(2, true, false, now_);
  ASSERT_TRUE(pacer_->MayRun(now_));
  pacer_->Run(now_);
  now_ += 5000 * kMs;
  EXPECT_FALSE(pacer_->MayRun(now_));
  pacer_->Excuse(5000 * kMs);
  EXPECT_TRUE(pacer_->MayRun(now_));
  now_ += 100 * kMs;
  EXPECT_FALSE(pacer_->MayRun(now_)) << "no credit comes of a wait";
}

TEST_F(PacerTest, ADisturbanceIsAnsweredWithinTwoHundredMillisecondsInsideOfAnIteration) {
  Learn();
  while (pacer_->pace() < 1) Iterate(3 * kMs);
  const int64_t begin = now_;
  pacer_->Run(now_);
  Iterate(5 * kMs);
  for (int i = 0; i < 3 && pacer_->pace() == 1; ++i) Iterate(5 * kMs);
  EXPECT_LT(pacer_->pace(), 0.5);
  EXPECT_LE(device_->slot(opportunistic_).pace_cut_ns.load() - begin, 200 * kMs);
}

TEST_F(PacerTest, AStretchThatDoesNotEndIsJudgedWhileItRuns) {
  // No operators are reported: an iteration of 100 ms is one stretch.
  const auto iterate = [&](int looks) {
    meter_->Ask(2, false, true, now_);
    meter_->Begin(now_);
    for (int i = 0; i < looks; ++i) {
      now_ += 20 * kMs;
      pacer_->MayRun(now_);
    }
  };
  for (int i = 0; i < 200; ++i) {
    iterate(5);
    meter_->End(now_);
  }
  ASSERT_EQ(pacer_->pace(), 1);
  iterate(9);
  EXPECT_LT(pacer_->pace(), 0.5);
}

TEST_F(PacerTest, AGuaranteedJobThatHasLeftIsGivenWayToForASecondAtMost) {
  meter_->Ask(2, true, false, now_);
  pacer_->MayRun(now_);
  ASSERT_EQ(pacer_->pace(), 0.02);
  meter_->Begin(now_);
  meter_->Leave();
  now_ += 1100 * kMs;
  EXPECT_TRUE(pacer_->MayRun(now_));
  EXPECT_EQ(pacer_->pace(), 1);
  EXPECT_EQ(device_->slot(opportunistic_).pace_for.load(), -1);
}

TEST_F(PacerTest, AGuaranteedJobThatHangsIsGivenWayToForTenSecondsAtMost) {
  meter_->Ask(2, true, false, now_);
  pacer_->MayRun(now_);
  ASSERT_EQ(pacer_->pace(), 0.02);
  now_ += 10'100 * kMs;
  pacer_->MayRun(now_);
  EXPECT_EQ(pacer_->pace(), 1);
}

TEST_F(PacerTest, AnotherPriorityIsHeededAtOnceWhileItWaits) {
  sched::PaceOptions options;
  options.pace_min = 0.001;
  Make(options);
  meter_->Ask(2, true, false, now_);
  pacer_->MayRun(now_);
  pacer_->Run(now_);
  now_ += 100 * kMs;
  ASSERT_FALSE(pacer_->MayRun(now_));
  pacer_->Stop(now_);
  device_->slot(opportunistic_).priority.store(1);
  now_ += kMs;
  EXPECT_TRUE(pacer_->MayRun(now_));
  EXPECT_EQ(device_->slot(opportunistic_).pace_ppm.load(), shm::kPaceWhole);
  EXPECT_FALSE(pacer_->WantsOperators(now_));
}

TEST_F(PacerTest, TheLawOffSlowsNobodyAndWantsNoOperators) {
  Make({.law = sched::PaceLawId::kOff});
  meter_->Ask(2, true, false, now_);
  EXPECT_TRUE(pacer_->MayRun(now_));
  EXPECT_EQ(pacer_->pace(), 1);
  EXPECT_FALSE(pacer_->WantsOperators(now_));
}

TEST_F(PacerTest, WithoutAnOpportunisticJobAGuaranteedOneWantsNoOperators) {
  Learn();
  now_ += 100 * kMs;
  EXPECT_TRUE(meter_->WantsOperators(now_));
  device_->slot(opportunistic_).priority.store(1);
  now_ += 100 * kMs;
  EXPECT_FALSE(meter_->WantsOperators(now_));
}

TEST_F(PacerTest, WhatANeighbourDisturbsIsNotLearnt) {
  Learn();
  const int64_t usual = device_->slot(guaranteed_).step_usual_ns.load();
  EXPECT_NEAR(usual, 30 * kMs, kMs / 10);
  pacer_->Run(now_);  // and never stops
  for (int i = 0; i < 100; ++i) Iterate(4 * kMs);
  EXPECT_NEAR(device_->slot(guaranteed_).step_usual_ns.load(), usual, kMs / 10);
  EXPECT_EQ(device_->slot(guaranteed_).step_took_ns.load(), 40 * kMs);
}

TEST_F(PacerTest, AJobThatHasBecomeFasterIsLearntAnew) {
  Learn();
  pacer_->Run(now_);
  for (int i = 0; i < 6; ++i) Iterate(2 * kMs);
  EXPECT_EQ(device_->slot(guaranteed_).step_usual_ns.load(), 0);
}

}  // namespace
}  // namespace tide::runtime
