// In which order an iteration touches what it has.
#include "runtime/touch_order.h"

#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::runtime {
namespace {

using Addresses = std::vector<uint64_t>;

class TouchOrderTest : public ::testing::Test {
 protected:
  Addresses Ordered() const {
    Addresses addresses;
    for (const pages::ColdRange& range : order_.Ordered(ranges_)) addresses.push_back(range.at);
    return addresses;
  }
  void Touch(const Addresses& addresses) {
    for (uint64_t at : addresses) order_.Touch(at);
  }
  const std::vector<pages::ColdRange> ranges_ = {
      {100, Bytes(10)}, {200, Bytes(10)}, {300, Bytes(10)}};
  TouchOrder order_;
};

TEST_F(TouchOrderTest, NothingIsKnownBeforeAForwardWasWatchedToItsEnd) {
  EXPECT_FALSE(order_.watching());
  Touch({100});
  EXPECT_FALSE(order_.EndForward());
  order_.Watch(ranges_);
  Touch({300, 100});
  EXPECT_EQ(Ordered(), Addresses());
  order_.Forget();
  EXPECT_FALSE(order_.watching());
  EXPECT_EQ(Ordered(), Addresses());
}

TEST_F(TouchOrderTest, TheFirstTouchOfEachCountsAndWhatWasNotSeenIsLeftOut) {
  order_.Watch(ranges_);
  Touch({300, 17, 100, 300, 105});
  EXPECT_TRUE(order_.EndForward());
  EXPECT_FALSE(order_.EndForward()) << "the second backward of an iteration ends nothing";
  Touch({200});
  EXPECT_EQ(Ordered(), Addresses({300, 100}));
}

TEST_F(TouchOrderTest, ALaterForwardReplacesTheOrderUnlessItTouchedNothing) {
  order_.Watch(ranges_);
  Touch({300, 100});
  order_.EndForward();
  order_.Watch(ranges_);
  order_.EndForward();
  EXPECT_EQ(Ordered(), Addresses({300, 100}));
  order_.Watch(ranges_);
  Touch({100, 200});
  order_.EndForward();
  EXPECT_EQ(Ordered(), Addresses({100, 200}));
}

TEST_F(TouchOrderTest, AnotherRangeAtTheSameAddressIsNotKnown) {
  order_.Watch(ranges_);
  Touch({100, 200});
  order_.EndForward();
  EXPECT_EQ(order_.Ordered({{100, Bytes(11)}, {200, Bytes(10)}}).size(), 1u);
}

TEST_F(TouchOrderTest, ThreadsTouchAtOnce) {
  std::vector<pages::ColdRange> many;
  for (uint64_t at = 1; at <= 1000; ++at) many.push_back({at, Bytes(1)});
  order_.Watch(many);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this] {
      for (uint64_t at = 1; at <= 1000; ++at) order_.Touch(at);
      order_.EndForward();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(order_.Ordered(many).size(), 1000u);
}

}  // namespace
}  // namespace tide::runtime
