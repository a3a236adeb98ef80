// What every backend promises, tested on each implementation.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "base/fault.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "pages/backend.h"

namespace tide::pages {

/// `Maker` is default-constructible and has `std::unique_ptr<Backend> Make()`.
template <typename Maker>
class BackendContract : public testing::Test {
 protected:
  static constexpr Bytes kSpace = MiB(8);

  BackendContract() : backend_(Maker().Make()), file_(memfd_create("contract", MFD_CLOEXEC)) {
    EXPECT_EQ(ftruncate(file_.get(), kSpace.value()), 0);
    base_ = *backend_->Reserve(kSpace);
  }
  ~BackendContract() override {
    DisarmFaults();
    backend_->Unreserve(base_, kSpace);
  }

  void Fill(char* at, char value, Bytes size = kPage) { std::memset(at, value, size.size()); }
  bool All(const char* at, char value, Bytes size = kPage) {
    return std::all_of(at, at + size.size(), [value](char byte) { return byte == value; });
  }
  /// The page of the file as a transfer sees it.
  std::string FilePage(Bytes offset) {
    std::unique_ptr<char, decltype(&std::free)> to(
        static_cast<char*>(std::aligned_alloc(4096, kPage.size())), &std::free);
    EXPECT_TRUE(backend_->ReadFile(file_.get(), offset, to.get(), kPage).ok());
    return std::string(to.get(), kPage.size());
  }

  std::unique_ptr<Backend> backend_;
  UniqueFd file_;
  char* base_ = nullptr;
};

TYPED_TEST_SUITE_P(BackendContract);

TYPED_TEST_P(BackendContract, AReservedRangeIsAlignedZeroedAndWritable) {
  EXPECT_EQ(reinterpret_cast<uintptr_t>(this->base_) % kPage.size(), 0u);
  EXPECT_TRUE(this->All(this->base_, 0, this->kSpace));
  this->Fill(this->base_, 'x', this->kSpace);
  EXPECT_TRUE(this->All(this->base_, 'x', this->kSpace));
}

TYPED_TEST_P(BackendContract, DiscardMakesZeroesAndTouchesNothingElse) {
  this->Fill(this->base_, 'x', kPage * 3);
  ASSERT_TRUE(this->backend_->Discard(this->base_ + kPage.size(), kPage).ok());
  EXPECT_TRUE(this->All(this->base_, 'x'));
  EXPECT_TRUE(this->All(this->base_ + kPage.size(), 0));
  EXPECT_TRUE(this->All(this->base_ + 2 * kPage.size(), 'x'));
}

TYPED_TEST_P(BackendContract, DemotionKeepsContentsAtTheSameAddress) {
  const int fd = this->file_.get();
  this->Fill(this->base_, 'x');
  ASSERT_TRUE(this->backend_->WriteFile(fd, kPage, this->base_, kPage).ok());
  ASSERT_TRUE(this->backend_->MapFile(this->base_, kPage, fd, kPage).ok());
  EXPECT_TRUE(this->All(this->base_, 'x'));
  EXPECT_EQ(this->FilePage(Bytes(0)), std::string(kPage.size(), '\0'));
}

TYPED_TEST_P(BackendContract, AWriteThroughAFileMappingReachesTransfersAndTheOtherWayRound) {
  const int fd = this->file_.get();
  ASSERT_TRUE(this->backend_->MapFile(this->base_, kPage, fd, kPage).ok());
  this->Fill(this->base_, 'y');
  EXPECT_EQ(this->FilePage(kPage), std::string(kPage.size(), 'y'));
  char* scratch = *this->backend_->MapScratch(kPage);
  this->Fill(scratch, 'z');
  ASSERT_TRUE(this->backend_->WriteFile(fd, kPage, scratch, kPage).ok());
  this->backend_->DropScratch(scratch, kPage);
  EXPECT_TRUE(this->All(this->base_, 'z'));
}

TYPED_TEST_P(BackendContract, AFileSurvivesTheEndOfItsMapping) {
  const int fd = this->file_.get();
  ASSERT_TRUE(this->backend_->MapFile(this->base_, kPage, fd, kPage).ok());
  this->Fill(this->base_, 'y');
  ASSERT_TRUE(this->backend_->MapPrivate(this->base_, kPage).ok());
  EXPECT_TRUE(this->All(this->base_, 0));
  EXPECT_EQ(this->FilePage(kPage), std::string(kPage.size(), 'y'));
}

TYPED_TEST_P(BackendContract, WritesThroughAPrivateFileMappingStayHere) {
  const int fd = this->file_.get();
  ASSERT_TRUE(this->backend_->MapFile(this->base_, kPage, fd, kPage).ok());
  this->Fill(this->base_, 'y');
  ASSERT_TRUE(this->backend_->MapFilePrivate(this->base_, kPage, fd, kPage).ok());
  EXPECT_TRUE(this->All(this->base_, 'y'));
  this->Fill(this->base_, 'z');
  EXPECT_EQ(this->FilePage(kPage), std::string(kPage.size(), 'y'));
}

TYPED_TEST_P(BackendContract, PublishMovesScratchOntoAFilePageAndLeavesTheFile) {
  const int fd = this->file_.get();
  ASSERT_TRUE(this->backend_->MapFile(this->base_, kPage, fd, kPage).ok());
  this->Fill(this->base_, 'y');
  char* scratch = *this->backend_->MapScratch(kPage);
  ASSERT_TRUE(this->backend_->ReadFile(fd, kPage, scratch, kPage).ok());
  ASSERT_TRUE(this->backend_->Publish(scratch, this->base_, kPage).ok());
  EXPECT_TRUE(this->All(this->base_, 'y'));
  this->Fill(this->base_, 'z');
  EXPECT_EQ(this->FilePage(kPage), std::string(kPage.size(), 'y'));
}

TYPED_TEST_P(BackendContract, PublishMovesASmallBlockOutOfLanePagesAndLeavesItsNeighbours) {
  ASSERT_TRUE(this->backend_->MapLane(this->base_, this->kSpace, this->file_.get(), Bytes(0)).ok());
  this->Fill(this->base_, 'l');
  const Bytes small = KiB(12);
  char* const at = this->base_ + KiB(8).size();
  char* scratch = *this->backend_->MapScratch(small);
  std::memcpy(scratch, at, small.size());
  ASSERT_TRUE(this->backend_->Publish(scratch, at, small).ok());
  this->Fill(at, 'p', small);
  const std::string lane = this->FilePage(Bytes(0));
  EXPECT_EQ(lane, std::string(kPage.size(), 'l'));
  EXPECT_TRUE(this->All(this->base_, 'l', KiB(8)));
  EXPECT_TRUE(this->All(at + small.size(), 'l', KiB(100)));
}

TYPED_TEST_P(BackendContract, HintsNeverChangeContents) {
  const int fd = this->file_.get();
  ASSERT_TRUE(this->backend_->MapFile(this->base_, kPage, fd, kPage).ok());
  this->Fill(this->base_, 'y');
  this->backend_->StartWriteBack(fd, kPage, kPage);
  this->backend_->DropResident(this->base_, kPage, fd, kPage);
  EXPECT_LE(this->backend_->Resident(this->base_, kPage), kPage);
  this->backend_->ReadAhead(this->base_, kPage);
  EXPECT_EQ(this->backend_->Resident(this->base_, kPage), kPage);
  EXPECT_TRUE(this->All(this->base_, 'y'));
}

TYPED_TEST_P(BackendContract, AFailedOperationLeavesWhatWasThere) {
  const int fd = this->file_.get();
  this->Fill(this->base_, 'x');
  const absl::Status error = absl::UnavailableError("armed");
  ArmFault("pages.map", error, 0, 4);
  EXPECT_EQ(this->backend_->MapPrivate(this->base_, kPage), error);
  EXPECT_EQ(this->backend_->MapFile(this->base_, kPage, fd, Bytes(0)), error);
  EXPECT_EQ(this->backend_->MapFilePrivate(this->base_, kPage, fd, Bytes(0)), error);
  EXPECT_EQ(this->backend_->MapLane(this->base_, kPage, fd, Bytes(0)), error);
  ArmFault("pages.spill_write", error);
  EXPECT_EQ(this->backend_->WriteFile(fd, Bytes(0), this->base_, kPage), error);
  ArmFault("pages.spill_read", error);
  EXPECT_EQ(this->backend_->ReadFile(fd, Bytes(0), this->base_, kPage), error);
  ArmFault("pages.scratch", error);
  EXPECT_EQ(this->backend_->MapScratch(kPage).status(), error);
  char* scratch = *this->backend_->MapScratch(kPage);
  ArmFault("pages.publish", error);
  EXPECT_EQ(this->backend_->Publish(scratch, this->base_, kPage), error);
  this->backend_->DropScratch(scratch, kPage);
  EXPECT_TRUE(this->All(this->base_, 'x'));
}

REGISTER_TYPED_TEST_SUITE_P(BackendContract, AReservedRangeIsAlignedZeroedAndWritable,
                            DiscardMakesZeroesAndTouchesNothingElse,
                            DemotionKeepsContentsAtTheSameAddress,
                            AWriteThroughAFileMappingReachesTransfersAndTheOtherWayRound,
                            AFileSurvivesTheEndOfItsMapping,
                            WritesThroughAPrivateFileMappingStayHere,
                            PublishMovesScratchOntoAFilePageAndLeavesTheFile,
                            PublishMovesASmallBlockOutOfLanePagesAndLeavesItsNeighbours,
                            HintsNeverChangeContents, AFailedOperationLeavesWhatWasThere);

}  // namespace tide::pages
