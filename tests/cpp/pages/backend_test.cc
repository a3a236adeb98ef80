// The backend contract on the host and on plain memory, and what the fake alone refuses.
#include "contract/backend_contract.h"
#include "gmock/gmock.h"
#include "pages/fake_backend.h"
#include "pages/host_backend.h"

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
