#include "pages/page_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tide::pages {

// Note [Quiet]: Demote copies a page and then replaces what stands behind its address. A write
// between the two would be lost, so pages move only while nobody writes them: at an iteration
// boundary, on the stepping thread, and never when a block on the page was allocated by another
// thread (it is pinned). Copies are made under the arena's lock, two milliseconds a page, so that
// no new block can be placed on a page that is leaving.

PageTable::PageTable(Backend& backend, Account& account, char* base, Bytes size)
    : backend_(backend), account_(account), base_(base), size_(size) {}

PageTable::Run PageTable::PagesOf(Bytes offset, Bytes size) {
  return {offset.value() >> kPageShift, (offset + size - Bytes(1)).value() >> kPageShift};
}

absl::Status PageTable::Occupy(Bytes offset, Bytes size, bool pinned, bool may_spill) {
  const Run run = PagesOf(offset, size);
  if (run.last >= static_cast<int64_t>(pages_.size())) pages_.resize(run.last + 1);
  std::vector<int64_t> free;
  for (int64_t i = run.first; i <= run.last; ++i) {
    if (pages_[i].state == PageState::kFree) free.push_back(i);
  }
  const bool partly = may_spill && spill_ != nullptr;
  absl::Status refused;
  const std::vector<int64_t> paid = Commit(free, run, partly, refused);
  if (!free.empty()) {
    absl::Status spilled = partly ? BirthInFileTier(free) : refused;
    if (!spilled.ok()) {
      Uncommit(paid);
      if (!partly) return refused;
      return absl::Status(refused.code(), absl::StrCat(refused.message(), "; ", spilled.message()));
    }
  }
  for (int64_t i = run.first; i <= run.last; ++i) {
    Page& page = pages_[i];
    if (page.blocks++ == 0 && page.state == PageState::kPrivate)
      counts_.cached = counts_.cached - PageCount(1);
    page.pinned += pinned;
  }
  return absl::OkStatus();
}

std::vector<int64_t> PageTable::Commit(std::vector<int64_t>& free, const Run& run, bool partly,
                                       absl::Status& refused) {
  if (free.empty()) return {};
  const PageCount count(static_cast<int64_t>(free.size()));
  int64_t paid = count.value();
  refused = account_.Reserve(count.bytes());
  if (!refused.ok() && TrimOutside(count, run) > PageCount(0))
    refused = account_.Reserve(count.bytes());
  if (!refused.ok()) {
    for (paid = 0; partly && paid < count.value() && account_.Reserve(kPage).ok(); ++paid) {
    }
  }
  const std::vector<int64_t> committed(free.begin(), free.begin() + paid);
  for (const int64_t i : committed) pages_[i].state = PageState::kPrivate;
  counts_.committed = counts_.committed + PageCount(paid);
  counts_.cached = counts_.cached + PageCount(paid);
  free.erase(free.begin(), free.begin() + paid);
  return committed;
}

void PageTable::Uncommit(const std::vector<int64_t>& pages) {
  // Nobody has touched them: there is nothing to give back to the system.
  const PageCount count(static_cast<int64_t>(pages.size()));
  for (const int64_t i : pages) pages_[i].state = PageState::kFree;
  counts_.committed = counts_.committed - count;
  counts_.cached = counts_.cached - count;
  if (count > PageCount(0)) account_.Release(count.bytes());
}

absl::Status PageTable::BirthInFileTier(const std::vector<int64_t>& fresh) {
  size_t done = 0;
  absl::Status status;
  for (; done < fresh.size(); ++done) {
    auto slot = spill_->Allocate();
    if (!slot.ok()) {
      status = slot.status();
      break;
    }
    status = backend_.MapFile(Address(fresh[done]), kPage, spill_->fd(), spill_->Offset(*slot));
    if (!status.ok()) {
      spill_->Free(*slot);
      break;
    }
    pages_[fresh[done]].state = PageState::kFile;
    pages_[fresh[done]].slot = *slot;
    NoteInMemory(PageIndex(fresh[done]), INT64_MAX);  // about to be written
    counts_.file = counts_.file + PageCount(1);
  }
  if (status.ok()) return status;
  while (done-- > 0) {  // give the pages before the failing one back
    Page& page = pages_[fresh[done]];
    // A page that cannot be unmapped keeps its slot, as in Vacate: another page on that slot would
    // share its bytes.
    if (!backend_.MapPrivate(Address(fresh[done]), kPage).ok()) continue;
    LeaveFileTier(page);
    page.state = PageState::kFree;
  }
  return status;
}

void PageTable::Vacate(Bytes offset, Bytes size, bool pinned) {
  const Run run = PagesOf(offset, size);
  for (int64_t i = run.first; i <= run.last; ++i) {
    Page& page = pages_[i];
    page.pinned -= pinned;
    if (--page.blocks > 0) continue;
    page.use = PageUse();
    page.recording = PageUse();
    if (page.state == PageState::kPrivate) {
      counts_.cached = counts_.cached + PageCount(1);
    } else if (page.state == PageState::kFile) {
      // A page that cannot be unmapped keeps its slot: it is reused as it is by the next block.
      if (!backend_.MapPrivate(Address(i), kPage).ok()) continue;
      LeaveFileTier(page);
      page.state = PageState::kFree;
    }
  }
}

void PageTable::LeaveFileTier(Page& page) {
  if (page.in_memory) counts_.streamed = counts_.streamed - PageCount(1);
  page.in_memory = false;
  page.recent = -1;
  spill_->Free(page.slot);
  page.slot = SpillSlot();
  counts_.file = counts_.file - PageCount(1);
}

void PageTable::NoteInMemory(PageIndex index, int64_t recent) {
  Page& page = pages_[index.value()];
  if (page.state != PageState::kFile) return;
  if (!page.in_memory) counts_.streamed = counts_.streamed + PageCount(1);
  page.in_memory = true;
  page.recent = recent;
}

std::vector<PageIndex> PageTable::TakeFarthest(int count, const DropRule& rule) {
  struct Candidate {
    int32_t next_use;
    int64_t recent;
    int64_t index;
  };
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < pages_.size() && counts_.streamed.value() > 0; ++i) {
    const Page& page = pages_[i];
    if (page.state != PageState::kFile || !page.in_memory || page.recent >= rule.protect_from)
      continue;
    int32_t next_use = TicksToNextUse(page.use, rule.tick, iteration_ticks_);
    // A block born in this iteration: gone by its end, if it is like most.
    if (page.use.bursts == 0 && page.recording.bursts > 0)
      next_use = std::max(0, iteration_ticks_ - rule.tick);
    if (next_use > rule.beyond)
      candidates.push_back({next_use, page.recent, static_cast<int64_t>(i)});
  }
  const size_t take = std::min<size_t>(count, candidates.size());
  std::partial_sort(candidates.begin(), candidates.begin() + static_cast<int64_t>(take),
                    candidates.end(), [](const Candidate& a, const Candidate& b) {
                      if (a.next_use != b.next_use) return a.next_use > b.next_use;
                      if (a.recent != b.recent) return a.recent < b.recent;
                      return a.index < b.index;
                    });
  std::vector<PageIndex> taken;
  for (size_t i = 0; i < take; ++i) {
    pages_[candidates[i].index].in_memory = false;
    counts_.streamed = counts_.streamed - PageCount(1);
    taken.push_back(PageIndex(candidates[i].index));
  }
  return taken;
}

PageCount PageTable::Trim(PageCount keep) {
  return TrimOutside(PageCount(counts_.cached.value() - keep.value()), {-1, -1});
}

PageCount PageTable::TrimOutside(PageCount count, const Run& run) {
  int64_t trimmed = 0;
  int64_t left = std::min(count.value(), counts_.cached.value());
  for (int64_t i = static_cast<int64_t>(pages_.size()) - 1; i >= 0 && left > 0; --i) {
    Page& page = pages_[i];
    if (page.state != PageState::kPrivate || page.blocks > 0) continue;
    if (i >= run.first && i <= run.last) continue;
    if (!backend_.Discard(Address(i), kPage).ok()) continue;
    page.state = PageState::kFree;
    ++trimmed;
    --left;
  }
  counts_.committed = counts_.committed - PageCount(trimmed);
  counts_.cached = counts_.cached - PageCount(trimmed);
  if (trimmed > 0) account_.Release(PageCount(trimmed).bytes());
  return PageCount(trimmed);
}

absl::Status PageTable::Demote(PageIndex index) {
  Page& page = pages_[index.value()];
  if (page.state != PageState::kPrivate || page.pinned > 0 || page.blocks == 0) {
    return absl::FailedPreconditionError("the page is not one that can be demoted");
  }
  if (spill_ == nullptr)
    return absl::FailedPreconditionError("there is no spill file to demote to");
  TIDE_ASSIGN_OR_RETURN(const SpillSlot slot, spill_->Allocate());
  char* const at = Address(index.value());
  absl::Status status = backend_.WriteFile(spill_->transfer_fd(), spill_->Offset(slot), at, kPage);
  if (status.ok()) status = backend_.MapFile(at, kPage, spill_->fd(), spill_->Offset(slot));
  if (!status.ok()) {
    spill_->Free(slot);
    return status;
  }
  page.state = PageState::kFile;
  page.slot = slot;
  page.in_memory = false;
  counts_.committed = counts_.committed - PageCount(1);
  counts_.file = counts_.file + PageCount(1);
  account_.Release(kPage);
  return absl::OkStatus();
}

absl::Status PageTable::Promote(PageIndex index) {
  Page& page = pages_[index.value()];
  if (page.state != PageState::kFile)
    return absl::FailedPreconditionError("the page is not demoted");
  // Another thread may write its block at any time: Note [Quiet].
  if (page.pinned > 0)
    return absl::FailedPreconditionError("a block of another thread lives on the page");
  TIDE_RETURN_IF_ERROR(account_.Reserve(kPage));
  auto scratch = backend_.MapScratch(kPage);
  absl::Status status = scratch.status();
  if (status.ok()) {
    status = backend_.ReadFile(spill_->transfer_fd(), spill_->Offset(page.slot), *scratch, kPage);
    if (status.ok()) status = backend_.Publish(*scratch, Address(index.value()), kPage);
    if (!status.ok()) backend_.DropScratch(*scratch, kPage);
  }
  if (!status.ok()) {
    account_.Release(kPage);
    return status;
  }
  LeaveFileTier(page);
  page.state = PageState::kPrivate;
  counts_.committed = counts_.committed + PageCount(1);
  if (page.blocks == 0) counts_.cached = counts_.cached + PageCount(1);
  return absl::OkStatus();
}

std::vector<PageUse> PageTable::DemotionCandidates() const {
  std::vector<PageUse> result;
  for (size_t i = 0; i < pages_.size(); ++i) {
    const Page& page = pages_[i];
    if (page.state != PageState::kPrivate || page.blocks == 0 || page.pinned > 0) continue;
    result.push_back(page.use);
    result.back().page = PageIndex(static_cast<int64_t>(i));
  }
  return result;
}

std::vector<PageUse> PageTable::FilePages() const {
  std::vector<PageUse> result;
  if (counts_.file.value() == 0) return result;
  for (size_t i = 0; i < pages_.size(); ++i) {
    if (pages_[i].state != PageState::kFile) continue;
    result.push_back(pages_[i].use);
    result.back().page = PageIndex(static_cast<int64_t>(i));
  }
  std::stable_sort(result.begin(), result.end(),
                   [](const PageUse& a, const PageUse& b) { return a.first_tick < b.first_tick; });
  return result;
}

std::vector<PageIndex> PageTable::Touch(Bytes offset, Bytes size, int32_t tick, int64_t now) {
  // A visit ends when neither a few operators nor as many bytes as a window holds lie between two
  // touches: within less, no transfer out and in would fit.
  constexpr int32_t kGapTicks = 32;
  constexpr int64_t kGapBytes = int64_t{64} << 20;
  const Run run = PagesOf(offset, size);
  CountOperator(size, now);
  recording_ticks_ = std::max(recording_ticks_, tick + 1);
  std::vector<PageIndex> missing;
  for (int64_t i = run.first; i <= run.last && i < static_cast<int64_t>(pages_.size()); ++i) {
    PageUse& use = pages_[i].recording;
    if (use.first_tick < 0) use.first_tick = tick;
    const bool gap =
        tick - use.last_tick > kGapTicks && touched_bytes_ - pages_[i].touched_at > kGapBytes;
    if (use.bursts == 0 || gap) {
      ++use.bursts;
      if (use.bursts <= PageUse::kVisitsKept) use.visits[use.bursts - 1].first = tick;
    }
    use.visits[use.visits_known() - 1].last = tick;
    use.last_tick = tick;
    pages_[i].touched_at = touched_bytes_ + size.value();
    if (pages_[i].state != PageState::kFile) continue;
    if (!pages_[i].in_memory) missing.push_back(PageIndex(i));
    NoteInMemory(PageIndex(i), now);
  }
  touched_bytes_ += size.value();
  return missing;
}

void PageTable::CountOperator(Bytes size, int64_t now) {
  if (now != operator_now_) operator_bytes_ = Bytes(0);
  operator_now_ = now;
  operator_bytes_ += size;
  largest_operator_ = std::max(largest_operator_, operator_bytes_);
}

void PageTable::FinishRecording() {
  for (Page& page : pages_) {
    if (page.blocks > 0) page.use = page.recording;
    page.recording = PageUse();
  }
  iteration_ticks_ = recording_ticks_;
  recording_ticks_ = 0;
}

void PageTable::AfterForkInChild() {
  for (size_t i = 0; i < pages_.size() && counts_.file.value() > 0; ++i) {
    const Page& page = pages_[i];
    if (page.state != PageState::kFile) continue;
    backend_
        .MapFilePrivate(Address(static_cast<int64_t>(i)), kPage, spill_->fd(),
                        spill_->Offset(page.slot))
        .IgnoreError();
  }
}

absl::Status PageTable::Validate() const {
  PageCounts seen;
  for (size_t i = 0; i < pages_.size(); ++i) {
    const Page& page = pages_[i];
    if (page.pinned > page.blocks)
      return absl::InternalError(absl::StrCat("page ", i, " has more pins than blocks"));
    if (page.state == PageState::kFree && page.blocks > 0) {
      return absl::InternalError(
          absl::StrCat("page ", i, " is free under ", page.blocks, " blocks"));
    }
    if (page.state == PageState::kPrivate) {
      seen.committed = seen.committed + PageCount(1);
      if (page.blocks == 0) seen.cached = seen.cached + PageCount(1);
    }
    if (page.state == PageState::kFile) {
      seen.file = seen.file + PageCount(1);
      if (page.in_memory) seen.streamed = seen.streamed + PageCount(1);
      if (page.slot.value() < 0)
        return absl::InternalError(absl::StrCat("page ", i, " is demoted to no slot"));
    }
  }
  if (seen.committed != counts_.committed || seen.cached != counts_.cached ||
      seen.file != counts_.file || seen.streamed != counts_.streamed) {
    return absl::InternalError("page counts differ from the pages");
  }
  return absl::OkStatus();
}

}  // namespace tide::pages
