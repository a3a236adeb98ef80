// The one door to the memory of the operating system: what stands behind an address, and in which
// tier.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/bytes.h"

namespace tide::pages {

/// Where the bytes behind a page live.
enum class Tier : uint8_t { kPrivate, kLane, kFile };

/// Maps, moves and drops ranges at fixed addresses. All ranges are multiples of 4 KiB.
/// Implementations are stateless towards the caller: the page table knows what is mapped where.
/// Thread-safe for disjoint ranges.
class Backend {
 public:
  virtual ~Backend() = default;

  /// Reserves `size` of address space aligned to kPage, mapped as fresh private memory (nothing
  /// resident).
  virtual absl::StatusOr<char*> Reserve(Bytes size) = 0;
  /// Undoes Reserve.
  virtual void Unreserve(char* base, Bytes size) = 0;

  /// Replaces the range by zeroed private memory (copy-on-write over fork), huge pages asked for.
  virtual absl::Status MapPrivate(char* at, Bytes size) = 0;
  /// Replaces the range by shared pages of `fd` from `offset`; a forked child does not inherit it.
  virtual absl::Status MapLane(char* at, Bytes size, int fd, Bytes offset) = 0;
  /// Replaces the range by pages of the spill file, shared with it: writes go to the file.
  virtual absl::Status MapFile(char* at, Bytes size, int fd, Bytes offset) = 0;
  /// As MapFile, but writes stay in this process: for a forked child.
  virtual absl::Status MapFilePrivate(char* at, Bytes size, int fd, Bytes offset) = 0;

  /// Gives the physical memory of a private range back; contents become zero.
  virtual absl::Status Discard(char* at, Bytes size) = 0;

  /// Private memory elsewhere, filled by the caller and then moved onto its final address by
  /// Publish.
  virtual absl::StatusOr<char*> MapScratch(Bytes size) = 0;
  /// Atomically replaces the range at `at` by the scratch mapping, which ceases to exist where it
  /// was.
  virtual absl::Status Publish(char* scratch, char* at, Bytes size) = 0;
  virtual void DropScratch(char* scratch, Bytes size) = 0;

  /// Whole-range transfers between memory and the spill file.
  virtual absl::Status WriteFile(int fd, Bytes offset, const char* from, Bytes size) = 0;
  virtual absl::Status ReadFile(int fd, Bytes offset, char* to, Bytes size) = 0;

  /// Hints on a range of the file tier: read ahead (and make writable), or write back and drop from
  /// memory. Never change contents, may do nothing.
  virtual void ReadAhead(char* at, Bytes size) = 0;
  virtual void StartWriteBack(int fd, Bytes offset, Bytes size) = 0;
  virtual void DropResident(char* at, Bytes size, int fd, Bytes offset) = 0;
  /// Bytes of the range that are in memory now.
  virtual Bytes Resident(char* at, Bytes size) = 0;
};

}  // namespace tide::pages
