// The spill file: refused in memory, bounded by cap and disk, slots held while a child may map
// them.
#include "pages/spill_file.h"

#include <fcntl.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <limits>
#include <set>

#include "base/fault.h"
#include "cpp/pages/spill_folder.h"
#include "cpp/shm/child_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::pages {
namespace {

using testing::Child;

// A child that stays until it is ended, forked as the arena does it.
class ForkedChild {
 public:
  explicit ForkedChild(SpillFile& spill) {
    spill.BeforeFork();
    child_ = std::make_unique<Child>([&] {
      spill.AfterForkInChild();
      for (;;) pause();
      return 0;
    });
    spill.AfterForkInParent();
  }
  void End() { child_.reset(); }

 private:
  std::unique_ptr<Child> child_;
};

class SpillFileTest : public ::testing::Test {
 protected:
  ~SpillFileTest() override { DisarmFaults(); }
  std::unique_ptr<SpillFile> Open(SpillOptions options = {}) {
    if (options.dir.empty()) options.dir = folder_.path();
    auto opened = SpillFile::Open(options);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return *std::move(opened);
  }
  void Write(SpillFile& spill, SpillSlot slot, char value) {
    const std::string page(kPage.size(), value);
    EXPECT_EQ(pwrite(spill.fd(), page.data(), page.size(), spill.Offset(slot).value()),
              kPage.value());
  }
  std::string Read(SpillFile& spill, SpillSlot slot) {
    std::string page(kPage.size(), '?');
    EXPECT_EQ(pread(spill.fd(), page.data(), page.size(), spill.Offset(slot).value()),
              kPage.value());
    return page;
  }
  testing::SpillFolder folder_;
};

TEST_F(SpillFileTest, AFolderInMemoryIsRefusedWithAdvice) {
  struct statfs info;
  if (statfs("/dev/shm", &info) != 0 || info.f_type != 0x01021994) GTEST_SKIP() << "no tmpfs";
  const auto opened = SpillFile::Open({.dir = "/dev/shm"});
  EXPECT_TRUE(absl::IsFailedPrecondition(opened.status()));
  EXPECT_THAT(opened.status().message(), ::testing::HasSubstr("TIDE_SPILL_DIR"));
}

TEST_F(SpillFileTest, AFolderThatCannotBeMadeIsRefused) {
  const auto opened = SpillFile::Open({.dir = "/proc/no/such"});
  EXPECT_TRUE(absl::IsFailedPrecondition(opened.status())) << opened.status();
}

TEST_F(SpillFileTest, LeavesNoNameBehind) {
  const auto spill = Open();
  ASSERT_TRUE(spill->Allocate().ok());
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

TEST_F(SpillFileTest, SlotsAreDistinctAndNeighboursComeInOrder) {
  const auto spill = Open();
  for (int64_t i = 0; i < 40; ++i) EXPECT_EQ(*spill->Allocate(), SpillSlot(i));
  EXPECT_EQ(spill->used(), kPage * 40);
}

TEST_F(SpillFileTest, TheCapIsNamedAndNothingIsLostAtIt) {
  const auto spill = Open({.size_max = MiB(64)});
  std::vector<SpillSlot> slots;
  for (int i = 0; i < 32; ++i) slots.push_back(*spill->Allocate());
  const auto refused = spill->Allocate();
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status()));
  EXPECT_THAT(refused.status().message(), ::testing::HasSubstr("TIDE_SPILL_MAX"));
  spill->Free(slots[7]);
  EXPECT_EQ(*spill->Allocate(), slots[7]);
}

TEST_F(SpillFileTest, TheDiskKeepsItsFloorForOthers) {
  const auto spill = Open({.disk_free_min = Bytes(std::numeric_limits<int64_t>::max() / 2)});
  const auto refused = spill->Allocate();
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status()));
  EXPECT_THAT(refused.status().message(), ::testing::HasSubstr("for others"));
}

TEST_F(SpillFileTest, AFailureToGrowChangesNothing) {
  const auto spill = Open();
  ArmFault("pages.spill_grow", absl::ResourceExhaustedError("armed"));
  EXPECT_FALSE(spill->Allocate().ok());
  EXPECT_EQ(spill->used(), Bytes(0));
  EXPECT_EQ(*spill->Allocate(), SpillSlot(0));
}

TEST_F(SpillFileTest, AFreedSlotIsForgottenAndKeepsItsPlaceOnTheDisk) {
  const auto spill = Open();
  const SpillSlot slot = *spill->Allocate();
  Write(*spill, slot, 'x');
  struct stat before, after;
  ASSERT_EQ(fstat(spill->fd(), &before), 0);
  spill->Free(slot);
  ASSERT_EQ(fstat(spill->fd(), &after), 0);
  EXPECT_EQ(after.st_size, before.st_size);
  EXPECT_GE(after.st_blocks * 512, before.st_size)
      << "a write through a mapping could find no room";
  const SpillSlot again = *spill->Allocate();
  EXPECT_EQ(again, slot);
  Write(*spill, again, 'y');
  EXPECT_EQ(Read(*spill, again), std::string(kPage.size(), 'y'));
}

TEST_F(SpillFileTest, SlotsThatAChildMayMapAreHeldUntilItHasGone) {
  const auto spill = Open();
  const SpillSlot slot = *spill->Allocate();
  Write(*spill, slot, 'x');
  ForkedChild child(*spill);
  spill->Free(slot);
  EXPECT_EQ(spill->held_count(), 1);
  EXPECT_EQ(spill->used(), Bytes(0));
  for (int i = 0; i < 70; ++i) EXPECT_NE(*spill->Allocate(), slot);
  EXPECT_EQ(Read(*spill, slot), std::string(kPage.size(), 'x'));
  child.End();
  std::set<SpillSlot> seen;
  for (int i = 0; i < 70 && !seen.contains(slot); ++i) seen.insert(*spill->Allocate());
  EXPECT_TRUE(seen.contains(slot)) << "given out again after the child";
  EXPECT_EQ(spill->held_count(), 0);
}

TEST_F(SpillFileTest, SlotsStayHeldUntilTheLastOfSeveralChildrenHasGone) {
  const auto spill = Open();
  const SpillSlot slot = *spill->Allocate();
  const SpillSlot other = *spill->Allocate();
  ForkedChild first(*spill), second(*spill);
  spill->Free(slot);
  first.End();
  spill->Free(other);
  EXPECT_EQ(spill->held_count(), 2);
  second.End();
  spill->Free(*spill->Allocate());
  EXPECT_EQ(spill->held_count(), 0);
}

TEST_F(SpillFileTest, AForkWithNothingSpilledHoldsNothing) {
  const auto spill = Open();
  ForkedChild child(*spill);
  spill->Free(*spill->Allocate());
  EXPECT_EQ(spill->held_count(), 0);
}

}  // namespace
}  // namespace tide::pages
