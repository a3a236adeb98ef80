// An arena on a chosen backend with accounts, a spill file and lane pages, and blocks that know
// their pattern.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "arena/arena.h"
#include "base/fault.h"
#include "base/unique_fd.h"
#include "cpp/pages/spill_folder.h"
#include "gtest/gtest.h"
#include "pages/fake_backend.h"
#include "pages/host_backend.h"

namespace tide::arena {

inline UniqueFd LaneFile(Bytes size) {
  UniqueFd fd(memfd_create("lane", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(fd.get(), size.value()), 0);
  return fd;
}

struct Patterned {
  char* at = nullptr;
  Bytes size;
  char value = 0;
  void Fill(char with) { std::memset(at, value = with, size.size()); }
  bool Intact() const { return Holds(value); }
  bool Holds(char what) const {
    return std::all_of(at, at + size.size(), [what](char byte) { return byte == what; });
  }
};

/// Everything an arena borrows; the arena itself is never freed, its address space is.
class World {
 public:
  explicit World(bool host, Bytes space = MiB(256), ArenaOptions options = {}) {
    if (host) backend = pages::MakeHostBackend(/*huge_pages=*/false);
    if (!host) backend = std::make_unique<pages::FakeBackend>();
    spill = *pages::SpillFile::Open({.dir = folder.path()});
    options.address_space = space;
    arena =
        *Arena::Create(options, *backend, account, lane_account,
                       [this](Bytes bytes, bool last) { return need ? need(bytes, last) : false; });
    arena->SetSpill(spill.get());
  }
  ~World() {
    DisarmFaults();
    EXPECT_TRUE(arena->Validate().ok()) << arena->Validate();
    EXPECT_EQ(account.used(), arena->Stats().committed_bytes);
  }

  Patterned Make(Bytes size, char value) {
    const auto at = arena->Allocate(size.size());
    if (!at.ok()) return {};
    Patterned block{static_cast<char*>(*at), size, value};
    block.Fill(value);
    return block;
  }
  void Free(Patterned& block) { arena->Free(std::exchange(block.at, nullptr)); }

  /// Iterations that teach the arena that the next `count` blocks of `size` are ephemeral.
  void Teach(int count, Bytes size, int iterations = 6) {
    for (int i = 0; i < iterations; ++i) {
      arena->BeginIteration(0, false);
      std::vector<Patterned> blocks;
      for (int b = 0; b < count; ++b) blocks.push_back(Make(size, 't'));
      for (Patterned& block : blocks) Free(block);
      EXPECT_TRUE(arena->EndIteration().ok());
    }
  }

  testing::SpillFolder folder;
  pages::CountingAccount account, lane_account;
  std::unique_ptr<pages::Backend> backend;
  std::unique_ptr<pages::SpillFile> spill;
  std::function<bool(Bytes, bool)> need;
  Arena* arena = nullptr;
};

}  // namespace tide::arena
