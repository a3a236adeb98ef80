// The state of every page of one address range: free, private or in the file tier, and how it
// moves.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/bytes.h"
#include "base/ids.h"
#include "pages/account.h"
#include "pages/backend.h"
#include "pages/plan.h"
#include "pages/spill_file.h"

namespace tide::pages {

enum class PageState : uint8_t { kFree, kPrivate, kFile };

struct Page {
  PageState state = PageState::kFree;
  uint16_t blocks = 0;  // live blocks that overlap it
  uint16_t pinned = 0;  // of those, blocks that must not move
  SpillSlot slot;       // when state is kFile
  bool in_memory =
      false;            // when state is kFile: operators have touched it since it was dropped last
  int64_t recent = -1;  // when in memory: operator that touched it last, or will touch it first,
                        // over all iterations
  PageUse use;          // of the last recorded iteration; use.page is unset
  PageUse recording;    // of the iteration being recorded
  int64_t touched_at = 0;  // bytes that operators had used when this page was touched last
};

/// Where the bytes are.
struct PageCounts {
  PageCount committed;  // private, paid for
  PageCount cached;     // of those, with no live block
  PageCount file;       // demoted
  PageCount streamed;   // of those, in memory as far as operators have been seen to touch them
};

/// Externally synchronised: every call under the arena's lock. Addresses never change; contents
/// never change except that a page with no live block may lose its contents.
class PageTable {
 public:
  /// `backend`, `account` are borrowed and outlive the table; `base` was reserved with `backend`.
  PageTable(Backend& backend, Account& account, char* base, Bytes size);

  /// Without one, nothing can be demoted. Borrowed.
  void set_spill(SpillFile* spill) { spill_ = spill; }
  SpillFile* spill() const { return spill_; }

  char* base() const { return base_; }
  Bytes size() const { return size_; }
  PageCounts counts() const { return counts_; }
  const Page& page(PageIndex index) const { return pages_[index.value()]; }
  char* Address(PageIndex index) const { return Address(index.value()); }

  /// A block begins to live on [offset, offset + size): commits the free pages under it. When the
  /// account refuses, cached pages elsewhere are given back for them; what it still refuses is born
  /// in the file tier (nothing is there yet, so no byte has to move) if `may_spill`. Errors: the
  /// account's; nothing changed but that cached pages may be gone.
  absl::Status Occupy(Bytes offset, Bytes size, bool pinned, bool may_spill);
  /// The block is gone. Demoted pages with no block left become free.
  void Vacate(Bytes offset, Bytes size, bool pinned);

  /// Gives cached pages back to the system and the account, highest addresses first, until `keep`
  /// are left.
  PageCount Trim(PageCount keep);

  /// Moves one private page with live blocks to the file tier or back. The caller guarantees that
  /// nobody writes it meanwhile (Note [Quiet]). Errors leave the page as it was.
  absl::Status Demote(PageIndex index);
  absl::Status Promote(PageIndex index);

  /// Private pages that may move, with what is known of their use.
  std::vector<PageUse> DemotionCandidates() const;
  /// File-tier pages in the learnt order of first touch.
  std::vector<PageUse> FilePages() const;

  /// Records that an operator uses [offset, offset + size): `tick` counts within the iteration,
  /// `now` over all. Returns those of its file-tier pages that were not in memory.
  std::vector<PageIndex> Touch(Bytes offset, Bytes size, int32_t tick, int64_t now);

  /// Streaming of demoted pages. A page that was read ahead is in memory until it is taken to be
  /// dropped.
  void NoteInMemory(PageIndex index, int64_t recent);
  /// Which pages in memory may be dropped.
  struct DropRule {
    int64_t protect_from;  // none that an operator used since
    int32_t tick;          // of the iteration that runs
    int32_t beyond;        // only pages whose next use is more than so many operators away
  };
  /// At most `count` of them, farthest next use first (Belady's choice, by the learnt visits), and
  /// least recently used first among equals. They count as dropped from here on.
  std::vector<PageIndex> TakeFarthest(int count, const DropRule& rule);
  /// The recorded iteration becomes the learnt one.
  void FinishRecording();
  /// Counts a block that the operator `now` has made.
  void CountOperator(Bytes size, int64_t now);
  /// Most bytes that one operator of a recorded iteration used, since its blocks have to be in
  /// memory.
  Bytes largest_operator() const { return largest_operator_; }

  /// Brackets of fork.
  void AfterForkInChild();

  /// Recomputes every count from the pages. Errors: Internal naming the first difference.
  absl::Status Validate() const;

 private:
  struct Run {
    int64_t first;
    int64_t last;  // inclusive
  };
  static Run PagesOf(Bytes offset, Bytes size);
  char* Address(int64_t index) const { return base_ + (index << kPageShift); }
  /// Pays for all pages of `free`, or with `partly` for as many as the account grants; takes those
  /// off `free` and returns them. `refused`: why some are left.
  std::vector<int64_t> Commit(std::vector<int64_t>& free, const Run& run, bool partly,
                              absl::Status& refused);
  void Uncommit(const std::vector<int64_t>& pages);
  PageCount TrimOutside(PageCount count, const Run& run);
  absl::Status BirthInFileTier(const std::vector<int64_t>& fresh);
  void LeaveFileTier(Page& page);

  Backend& backend_;
  Account& account_;
  char* const base_;
  const Bytes size_;
  SpillFile* spill_ = nullptr;
  std::vector<Page> pages_;  // up to the highest page ever occupied
  PageCounts counts_;
  int64_t touched_bytes_ = 0;    // by all operators, for distances between uses
  int32_t iteration_ticks_ = 0;  // operators of the learnt iteration
  int32_t recording_ticks_ = 0;  // of the one being recorded
  int64_t operator_now_ = -1;    // the operator that touches at the moment
  Bytes operator_bytes_;         // and what it has touched so far
  Bytes largest_operator_;
};

}  // namespace tide::pages
