// The backend contract on the host and on plain memory, and what the fake alone refuses.
#include <sys/resource.h>

#include "contract/backend_contract.h"
#include "gmock/gmock.h"
#include "pages/fake_backend.h"
#include "pages/host_backend.h"
#include "spill_folder.h"

namespace tide::pages {
namespace {

struct MakeHost {
  std::unique_ptr<Backend> Make() { return MakeHostBackend(/*huge_pages=*/false); }
};
struct MakeHugeHost {
  std::unique_ptr<Backend> Make() { return MakeHostBackend(/*huge_pages=*/true); }
};
struct MakeFake {
  std::unique_ptr<Backend> Make() { return std::make_unique<FakeBackend>(); }
};

INSTANTIATE_TYPED_TEST_SUITE_P(Host, BackendContract, MakeHost);
INSTANTIATE_TYPED_TEST_SUITE_P(HugeHost, BackendContract, MakeHugeHost);
INSTANTIATE_TYPED_TEST_SUITE_P(Fake, BackendContract, MakeFake);

int64_t Faults() {
  rusage usage = {};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

// A file on a disk, as the spill file is.
class HostFileTest : public ::testing::Test {
 protected:
  /// A file of which nothing is in memory.
  UniqueFd File() {
    UniqueFd file(open(folder_.path().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    EXPECT_EQ(posix_fallocate(file.get(), 0, kSpace.value()), 0);
    return file;
  }
  /// Page faults of writing one page of the file for the first time and of doing so again after it
  /// was dropped; all pages are `x` afterwards.
  int64_t FaultsOfAPage(bool huge_pages) {
    const UniqueFd file = File();
    const std::unique_ptr<Backend> backend = MakeHostBackend(huge_pages);
    char* const base = *backend->Reserve(kSpace);
    int64_t faults = 0;
    for (Bytes offset(0); offset < kSpace; offset += kPage) {
      char* const at = base + offset.value();
      EXPECT_TRUE(backend->MapFile(at, kPage, file.get(), offset).ok());
      const int64_t before = Faults();
      std::memset(at, 'x', kPage.size());
      backend->StartWriteBack(file.get(), offset, kPage);
      backend->DropResident(at, kPage, file.get(), offset);
      backend->ReadAhead(at, kPage);
      EXPECT_EQ(backend->Resident(at, kPage), kPage);
      EXPECT_EQ(std::count(at, at + kPage.value(), 'x'), kPage.value());
      faults = Faults() - before;
    }
    backend->Unreserve(base, kSpace);
    return faults;
  }

  static constexpr Bytes kSpace = MiB(8);
  testing::SpillFolder folder_;
};

TEST_F(HostFileTest, DropsAndReadsBackByHugePagesOfTheFileWhereThereAreSome) {
  const UniqueFd file = File();
  char* const raw = static_cast<char*>(
      mmap(nullptr, kSpace.size(), PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0));
  ASSERT_NE(raw, MAP_FAILED);
  madvise(raw, kSpace.size(), MADV_HUGEPAGE);
  const int64_t before = Faults();
  for (int64_t i = 0; i < kSpace.value(); i += 4096) raw[i] = 'r';
  const int64_t raw_faults = Faults() - before;
  munmap(raw, kSpace.size());
  FaultsOfAPage(false);  // contents are looked at there; how many faults it takes is the system's
  const int64_t huge = FaultsOfAPage(true);
  if (raw_faults > 64) GTEST_SKIP() << "no huge pages of files here: " << raw_faults << " faults";
  EXPECT_LT(huge, 40);
}

class FakeBackendTest : public ::testing::Test {
 protected:
  FakeBackendTest() : file_(memfd_create("fake", MFD_CLOEXEC)) {
    EXPECT_EQ(ftruncate(file_.get(), MiB(8).value()), 0);
    base_ = *backend_.Reserve(MiB(8));
  }
  char* Page(int index) { return base_ + index * kPage.value(); }

  FakeBackend backend_;
  UniqueFd file_;
  char* base_;
};

TEST_F(FakeBackendTest, RefusesToDiscardWhatIsNotPrivate) {
  ASSERT_TRUE(backend_.MapFile(Page(1), kPage, file_.get(), Bytes(0)).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(backend_.Discard(Page(0), kPage * 2)));
  EXPECT_EQ(backend_.TierAt(Page(1)), Tier::kFile);
}

TEST_F(FakeBackendTest, RefusesPublishesThatNobodyMeans) {
  char* scratch = *backend_.MapScratch(kPage);
  EXPECT_TRUE(absl::IsFailedPrecondition(backend_.Publish(scratch, Page(0), kPage))) << "private";
  ASSERT_TRUE(backend_.MapFile(Page(0), kPage, file_.get(), Bytes(0)).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(backend_.Publish(Page(1), Page(0), kPage)));
  EXPECT_TRUE(absl::IsFailedPrecondition(backend_.Publish(scratch, Page(0), KiB(4))));
  EXPECT_EQ(backend_.scratch_count(), 1);
  EXPECT_TRUE(backend_.Publish(scratch, Page(0), kPage).ok());
  EXPECT_EQ(backend_.scratch_count(), 0);
}

TEST_F(FakeBackendTest, RefusesBytesOfAFileAtTwoAddresses) {
  ASSERT_TRUE(backend_.MapFile(Page(0), kPage, file_.get(), kPage).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(backend_.MapFile(Page(1), kPage, file_.get(), kPage)));
  EXPECT_TRUE(backend_.MapFile(Page(1), kPage, file_.get(), Bytes(0)).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(backend_.MapFile(Page(1), kPage, file_.get(), kPage * 2)))
      << "a demoted page is not demoted again";
  EXPECT_TRUE(absl::IsFailedPrecondition(backend_.MapLane(Page(1), kPage, file_.get(), kPage * 2)));
}

TEST_F(FakeBackendTest, RefusesRangesThatAreNotWholePagesOrNotReserved) {
  EXPECT_TRUE(absl::IsInvalidArgument(backend_.MapPrivate(base_ + 1, kPage)));
  EXPECT_TRUE(absl::IsInvalidArgument(backend_.MapPrivate(base_, Bytes(5))));
  EXPECT_TRUE(absl::IsInvalidArgument(backend_.MapPrivate(Page(3), kPage * 2)));
  EXPECT_TRUE(absl::IsInvalidArgument(backend_.MapPrivate(base_ - kPage.value(), kPage)));
}

}  // namespace
}  // namespace tide::pages
