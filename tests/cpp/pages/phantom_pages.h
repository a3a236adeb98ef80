// The phantom driver of a test process, and what every test of pages on it begins and ends with.
#pragma once

#include <unistd.h>

#include <string>

#include "gtest/gtest.h"
#include "pages/device_pages.h"
#include "phantom/control.h"

namespace tide::pages {

/// One driver for all tests of the process, as in a job.
inline const cuda::Driver& PhantomDriver() {
  static const cuda::Driver& driver = *[] {
    phantom::Configure("device-pages-" + std::to_string(getpid()), 4096, 2);
    return cuda::Driver::Open(TIDE_PHANTOM_DRIVER).value().release();
  }();
  return driver;
}

/// A context on a driver that works and waits for nothing. When the pages of the derived fixture
/// are gone, nothing of theirs may be left.
class PhantomPagesTest : public ::testing::Test {
 protected:
  PhantomPagesTest() : driver_(PhantomDriver()), phantom_(driver_), context_(driver_, 0) {
    Calm();
    phantom_.SetHostNuma(true);
    start_ = phantom_.figures();
  }
  ~PhantomPagesTest() override {
    const phantom::Figures end = phantom_.figures();
    EXPECT_EQ(end.handles, start_.handles) << "physical memory was lost";
    EXPECT_EQ(end.mappings, start_.mappings);
    EXPECT_EQ(end.reservations, start_.reservations);
    EXPECT_EQ(phantom_.ledger().used, 0u);
    EXPECT_EQ(accounts_[0].used(), Bytes(0));
  }
  /// Before members of the derived fixture give their memory back.
  void TearDown() override { Calm(); }

  const cuda::Driver& driver_;
  const phantom::Control phantom_;
  const cuda::ScopedContext context_;
  CountingAccount accounts_[2];

 private:
  void Calm() {
    phantom_.DisarmFaults();
    phantom_.SetDelay(0);
  }
  phantom::Figures start_{};
};

}  // namespace tide::pages
