#include "pages/device_pages.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tide::pages {
namespace {

// Note [Busy pages]
// The metadata lock is never held during a driver call. Instead a page is marked busy, the lock is
// let go, the driver is called, and the page is marked idle. Whoever needs a busy page waits for
// it. That cannot deadlock: a thread of the allocator works on pages of its own range only, and a
// thread that moves pages holds none of the allocator's locks and one page at a time.

/// Tokens have their own range, so that a handle of the driver is hardly ever taken for one; the
/// table of pages decides.
constexpr cuda::Handle kFirstToken = 0x7469'6465'0000'0001;

bool SameKind(const cuda::AllocationProperties& a, const cuda::AllocationProperties& b) {
  return a.handle_types == b.handle_types && std::memcmp(a.flags, b.flags, sizeof a.flags) == 0;
}

}  // namespace

DevicePages::DevicePages(const cuda::Driver& driver, std::vector<Account*> accounts,
                         DevicePagesOptions options)
    : driver_(driver),
      accounts_(std::move(accounts)),
      options_(std::move(options)),
      pinned_(driver),
      chunks_(accounts_.size()),
      spares_(accounts_.size()),
      counts_(accounts_.size()),
      next_token_(kFirstToken) {}

DevicePages::~DevicePages() {
  RetryLeftovers();
  for (size_t i = 0; i < accounts_.size(); ++i) TrimSpares(static_cast<int>(i), Bytes(0));
}

DevicePages::Page* DevicePages::Find(cuda::Handle token) {
  auto it = pages_.find(token);
  return it == pages_.end() ? nullptr : &it->second;
}

Bytes& DevicePages::TierBytes(const Page& page) {
  DeviceCounts& counts = counts_[page.view.device];
  switch (page.view.tier) {
    case DeviceTier::kHostMapped:
      return counts.host_mapped;
    case DeviceTier::kHostCopy:
      return counts.host_copy;
    case DeviceTier::kFile:
      return counts.file;
    case DeviceTier::kDropped:
      return counts.dropped;
    case DeviceTier::kLane:
      return counts.lane;
    case DeviceTier::kDevice:
      break;
  }
  return counts.device;
}

/// Claims every page of ours that overlaps the range, in address order.
std::vector<DevicePages::Page*> DevicePages::ClaimRange(cuda::DevicePointer at, size_t size) {
  absl::MutexLock lock(&mu_);
  while (true) {
    std::vector<Page*> pages;
    bool busy = false;
    auto it = by_address_.upper_bound(at);
    if (it != by_address_.begin()) --it;
    for (; it != by_address_.end() && it->first < at + size; ++it) {
      Page* page = it->second;
      if (page->view.address + page->view.size.size() <= at) continue;
      busy = busy || page->busy;
      pages.push_back(page);
    }
    if (!busy) {
      for (Page* page : pages) page->busy = true;
      return pages;
    }
    not_busy_.Wait(&mu_);
  }
}

void DevicePages::Unclaim(const std::vector<Page*>& pages) {
  absl::MutexLock lock(&mu_);
  for (Page* page : pages) page->busy = false;
  not_busy_.SignalAll();
}

// ---- physical memory ----

bool DevicePages::TakeSpare(const cuda::AllocationProperties& properties, Bytes size,
                            cuda::Handle* real) {
  absl::MutexLock lock(&mu_);
  std::vector<Spare>& spares = spares_[properties.location.id];
  for (size_t i = spares.size(); i-- > 0;) {
    if (spares[i].size != size || !SameKind(spares[i].properties, properties)) continue;
    *real = spares[i].real;
    spares.erase(spares.begin() + static_cast<int64_t>(i));
    counts_[properties.location.id].spare -= size;
    return true;
  }
  return false;
}

bool DevicePages::KeepSpare(const cuda::AllocationProperties& properties, Bytes size,
                            cuda::Handle real) {
  absl::MutexLock lock(&mu_);
  DeviceCounts& counts = counts_[properties.location.id];
  if (counts.spare + size > options_.spare_max) return false;
  spares_[properties.location.id].push_back({properties, size, real});
  counts.spare += size;
  return true;
}

void DevicePages::TrimSpares(int device, Bytes keep) {
  while (true) {
    Spare spare;
    {
      absl::MutexLock lock(&mu_);
      if (spares_[device].empty() || counts_[device].spare <= keep) return;
      spare = spares_[device].front();
      spares_[device].erase(spares_[device].begin());
      counts_[device].spare -= spare.size;
    }
    if (calls().release(spare.real) != cuda::kSuccess) {
      absl::MutexLock lock(&mu_);  // it stays a spare, at the far end
      spares_[device].push_back(spare);
      counts_[device].spare += spare.size;
      return;
    }
    accounts_[device]->Release(spare.size);
    absl::MutexLock lock(&mu_);
    counts_[device].device -= spare.size;
  }
}

cuda::Result DevicePages::Obtain(const cuda::AllocationProperties& properties, Bytes size,
                                 Asking asking, cuda::Handle* real, bool* reused) {
  const int device = properties.location.id;
  *reused = TakeSpare(properties, size, real);
  if (*reused) return cuda::kSuccess;
  // What others gave may be taken by a third: a few times.
  constexpr int kAttempts = 8;
  for (int attempt = 0;; ++attempt) {
    cuda::Result result = cuda::kOutOfMemory;
    absl::Status reserved = accounts_[device]->Reserve(size);
    if (asking == Asking::kSurvivor && absl::IsOutOfRange(reserved)) {
      accounts_[device]->Force(size);
      reserved = absl::OkStatus();
    }
    if (reserved.ok()) {
      result = calls().create(real, size.size(), &properties, 0);
      if (result == cuda::kSuccess) {
        absl::MutexLock lock(&mu_);
        counts_[device].device += size;
        return result;
      }
      accounts_[device]->Release(size);
    }
    if (result != cuda::kOutOfMemory || attempt == kAttempts) return result;
    TrimSpares(device, Bytes(0));  // of other sizes: those that fit have been tried
    if (attempt == 0) continue;
    if (asking != Asking::kOthers || !options_.need_memory) return result;
    // A driver may refuse although as much is free: then more has to be.
    if (!options_.need_memory(device, Bytes(size.value() * attempt))) return result;
  }
}

cuda::Result DevicePages::GiveBack(const cuda::AllocationProperties& properties, Bytes size,
                                   cuda::Handle real) {
  const int device = properties.location.id;
  if (KeepSpare(properties, size, real)) return cuda::kSuccess;
  if (const cuda::Result error = calls().release(real)) return error;
  accounts_[device]->Release(size);
  absl::MutexLock lock(&mu_);
  counts_[device].device -= size;
  return cuda::kSuccess;
}

cuda::Result DevicePages::Create(cuda::Handle* out, size_t size,
                                 const cuda::AllocationProperties* properties,
                                 unsigned long long flags) {
  const cuda::Location& location = properties->location;
  const bool ours = location.type == cuda::kLocationDevice && location.id >= 0 &&
                    location.id < static_cast<int>(accounts_.size()) && flags == 0 &&
                    (properties->handle_types & ~cuda::kHandleFileDescriptor) == 0;
  if (!ours) return calls().create(out, size, properties, flags);  // fabric probes, host memory
  const Bytes bytes(static_cast<int64_t>(size));
  cuda::Handle real = 0;
  bool reused = false;
  const cuda::Result result = Obtain(*properties, bytes, Asking::kOthers, &real, &reused);
  absl::MutexLock lock(&mu_);
  DeviceCounts& counts = counts_[location.id];
  ++counts.creates;
  counts.reused += reused ? 1 : 0;
  counts.refused += result == cuda::kOutOfMemory ? 1 : 0;
  if (result != cuda::kSuccess) return result;
  *out = next_token_++;
  Page& page = pages_[*out];
  page.view.token = *out;
  page.view.device = location.id;
  page.view.size = bytes;
  page.properties = *properties;
  page.real = real;
  return cuda::kSuccess;
}

cuda::Result DevicePages::Release(cuda::Handle token) {
  Page* page = nullptr;
  {
    absl::MutexLock lock(&mu_);
    while ((page = Find(token)) != nullptr && page->busy) not_busy_.Wait(&mu_);
    if (page != nullptr) {
      if (page->view.address != 0) return cuda::kInvalidValue;  // the allocator unmaps first
      page->busy = true;
    }
  }
  if (page == nullptr) return calls().release(token);
  cuda::Result result = cuda::kSuccess;
  if (page->real != 0) {
    // Shared memory is not kept: the other process would see what is put there next.
    const bool shared = page->view.pinned;
    result = shared ? calls().release(page->real)
                    : GiveBack(page->properties, page->view.size, page->real);
    if (shared && result == cuda::kSuccess) accounts_[page->view.device]->Release(page->view.size);
  }
  absl::MutexLock lock(&mu_);
  page->busy = false;
  not_busy_.SignalAll();
  if (result != cuda::kSuccess) return result;
  if (page->real != 0 && page->view.pinned) counts_[page->view.device].device -= page->view.size;
  pages_.erase(token);
  return cuda::kSuccess;
}

// ---- addresses ----

cuda::Result DevicePages::MapPage(Page& page, cuda::Handle real) {
  const cuda::DevicePointer at = page.view.address;
  const size_t size = page.view.size.size();
  cuda::Result result = calls().map(at, size, 0, real, 0);
  if (result != cuda::kSuccess || page.access.empty()) return result;
  result = calls().set_access(at, size, page.access.data(), page.access.size());
  if (result != cuda::kSuccess) calls().unmap(at, size);
  return result;
}

cuda::Result DevicePages::Map(cuda::DevicePointer at, size_t size, size_t offset,
                              cuda::Handle token, unsigned long long flags) {
  Page* page = nullptr;
  {
    absl::MutexLock lock(&mu_);
    while ((page = Find(token)) != nullptr && page->busy) not_busy_.Wait(&mu_);
    if (page != nullptr) page->busy = true;
  }
  if (page == nullptr) return calls().map(at, size, offset, token, flags);
  cuda::Result result = cuda::kSuccess;
  // One address a page, all of it: what the allocator does, and what moving it relies on.
  if (page->view.address != 0 || size != page->view.size.size()) result = cuda::kInvalidValue;
  cuda::Handle fresh = 0;
  bool reused = false;
  if (result == cuda::kSuccess && page->real == 0) {
    // It was unmapped while its contents were away, and those are gone.
    result = Obtain(page->properties, page->view.size, Asking::kOthers, &fresh, &reused);
  }
  if (result == cuda::kSuccess) {
    result = calls().map(at, size, offset, fresh != 0 ? fresh : page->real, flags);
    if (result != cuda::kSuccess && fresh != 0) GiveBack(page->properties, page->view.size, fresh);
  }
  absl::MutexLock lock(&mu_);
  page->busy = false;
  not_busy_.SignalAll();
  if (result != cuda::kSuccess) return result;
  if (fresh != 0) page->real = fresh;
  page->view.address = at;
  page->access.clear();
  by_address_[at] = page;
  return cuda::kSuccess;
}

/// The page's address is empty from here on; what was away is dropped.
void DevicePages::Forget(Page& page) {
  by_address_.erase(page.view.address);
  page.view.address = 0;
  page.access.clear();
  if (page.view.tier == DeviceTier::kDevice) return;
  TierBytes(page) -= page.view.size;
  page.view.tier = DeviceTier::kDevice;
  page.real = 0;
}

cuda::Result DevicePages::UnmapPages(const std::vector<Page*>& pages) {
  size_t done = 0;
  cuda::Result result = cuda::kSuccess;
  for (; done < pages.size() && result == cuda::kSuccess; ++done) {
    if (pages[done]->real == 0) continue;  // away: nothing is mapped
    result = calls().unmap(pages[done]->view.address, pages[done]->view.size.size());
    if (result != cuda::kSuccess) break;
  }
  if (result == cuda::kSuccess) return result;
  while (done-- > 0) {
    if (pages[done]->real != 0) MapPage(*pages[done], pages[done]->real);
  }
  return result;
}

cuda::Result DevicePages::Unmap(cuda::DevicePointer at, size_t size) {
  const std::vector<Page*> pages = ClaimRange(at, size);
  cuda::Result result = cuda::kSuccess;
  size_t covered = 0;
  for (const Page* page : pages) {
    covered += page->view.size.size();
    const bool inside =
        page->view.address >= at && page->view.address + page->view.size.size() <= at + size;
    if (!inside) result = cuda::kInvalidValue;  // part of a page
  }
  if (pages.empty()) return calls().unmap(at, size);
  if (covered != size) result = cuda::kInvalidValue;  // ours and foreign ones in one call
  if (result == cuda::kSuccess) result = UnmapPages(pages);
  std::vector<Page*> returned;
  if (result == cuda::kSuccess) {
    for (Page* page : pages) {
      if (page->view.tier == DeviceTier::kHostMapped) Drop({Leftover::kHandle, page->real, 0});
      DropCopy(*page);
      FreeSlots(*page);
      if (page->view.tier == DeviceTier::kLane && page->real != 0)
        chunks_[page->view.device]->Return(page->view.size, page->chunk);
      LetRoomGoOf(*page);
    }
    absl::MutexLock lock(&mu_);
    for (Page* page : pages) Forget(*page);
  }
  Unclaim(pages);
  return result;
}

cuda::Result DevicePages::SetAccess(cuda::DevicePointer at, size_t size,
                                    const cuda::AccessDescriptor* access, size_t count) {
  const std::vector<Page*> pages = ClaimRange(at, size);
  cuda::Result result = cuda::kSuccess;
  // Runs of addresses that are mapped go to the driver; pages that are away get it on return.
  cuda::DevicePointer run = at;
  const cuda::DevicePointer end = at + size;
  for (size_t i = 0; i <= pages.size() && result == cuda::kSuccess; ++i) {
    const Page* page = i < pages.size() ? pages[i] : nullptr;
    if (page != nullptr && page->real != 0) continue;
    const cuda::DevicePointer stop = page != nullptr ? page->view.address : end;
    if (stop > run) result = calls().set_access(run, stop - run, access, count);
    if (page != nullptr) run = page->view.address + page->view.size.size();
  }
  if (result == cuda::kSuccess) {
    absl::MutexLock lock(&mu_);
    for (Page* page : pages) page->access.assign(access, access + count);
  }
  Unclaim(pages);
  return result;
}

cuda::Result DevicePages::Export(void* out, cuda::Handle token, int type,
                                 unsigned long long flags) {
  cuda::Handle real = token;
  {
    absl::MutexLock lock(&mu_);
    Page* page = nullptr;
    while ((page = Find(token)) != nullptr && page->busy) not_busy_.Wait(&mu_);
    if (page != nullptr) {
      if (page->view.tier != DeviceTier::kDevice) return cuda::kNotPermitted;
      real = page->real;
      page->busy = true;
    }
  }
  const cuda::Result result = calls().export_handle(out, real, type, flags);
  absl::MutexLock lock(&mu_);
  if (Page* page = Find(token)) {
    page->busy = false;
    page->view.pinned = page->view.pinned || result == cuda::kSuccess;
    not_busy_.SignalAll();
  }
  return result;
}

// ---- reports ----

std::vector<DevicePage> DevicePages::Snapshot(int device) const {
  absl::MutexLock lock(&mu_);
  std::vector<DevicePage> views;
  for (const auto& [token, page] : pages_) {
    if (page.view.device == device) views.push_back(page.view);
  }
  std::sort(views.begin(), views.end(), [](const DevicePage& a, const DevicePage& b) {
    return std::pair(a.address, a.token) < std::pair(b.address, b.token);
  });
  return views;
}

DeviceCounts DevicePages::counts(int device) const {
  absl::MutexLock lock(&mu_);
  return counts_[device];
}

absl::Status DevicePages::Validate() const {
  absl::MutexLock lock(&mu_);
  for (size_t device = 0; device < counts_.size(); ++device) {
    Bytes by_tier[6];
    for (const auto& [token, page] : pages_) {
      if (page.view.device != static_cast<int>(device)) continue;
      const bool backed = page.real != 0 || page.view.tier != DeviceTier::kDevice;
      if (backed) by_tier[static_cast<int>(page.view.tier)] += page.view.size;
    }
    Bytes spare;
    for (const Spare& entry : spares_[device]) spare += entry.size;
    Bytes room;
    for (const auto& [token, page] : pages_) {
      if (page.view.device == static_cast<int>(device) && page.room != 0) room += page.view.size;
    }
    const DeviceCounts& counts = counts_[device];
    if (spare != counts.spare || room != counts.room ||
        by_tier[0] + spare + room != counts.device || by_tier[1] != counts.host_mapped ||
        by_tier[2] != counts.host_copy || by_tier[3] != counts.file ||
        by_tier[4] != counts.dropped || by_tier[5] != counts.lane) {
      return absl::InternalError(absl::StrCat(
          "device ", device, ": pages say ", FormatBytes(by_tier[0]), " on the device, ",
          FormatBytes(spare), " spare, ", FormatBytes(by_tier[1]), " mapped, ",
          FormatBytes(by_tier[2]), " copied, ", FormatBytes(by_tier[3]), " in the file, ",
          FormatBytes(by_tier[4]), " dropped, ", FormatBytes(by_tier[5]),
          " on the lane; counts say ", FormatBytes(counts.device), ", ", FormatBytes(counts.spare),
          ", ", FormatBytes(counts.host_mapped), ", ", FormatBytes(counts.host_copy), ", ",
          FormatBytes(counts.file), ", ", FormatBytes(counts.dropped), ", ",
          FormatBytes(counts.lane)));
    }
  }
  return absl::OkStatus();
}

}  // namespace tide::pages
