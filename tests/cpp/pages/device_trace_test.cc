// The calls of PyTorch's CUDA allocator while models trained, GPT-2 and ResNet-50 among them,
// recorded once (tests/cuda/record_trace.py), replayed without PyTorch while pages leave and
// return.
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "gtest/gtest.h"
#include "pages/device_pages.h"
#include "phantom/control.h"
#include "spill_folder.h"

namespace tide::pages {
namespace {

constexpr size_t kPage = size_t{2} << 20;

/// A call: reserve, free, create, release, map, unmap or set access (record_trace.py).
struct Call {
  char what = 0;
  int reservation = 0, handle = 0;
  size_t offset = 0, size = 0;
};

std::vector<Call> Read(const std::string& name) {
  std::ifstream file(absl::StrCat(TIDE_TEST_DATA "/cuda_allocator", name, ".trace"));
  std::vector<Call> calls;
  for (char what; file >> what;) {
    Call& call = calls.emplace_back(Call{what});
    file >> std::dec;
    switch (call.what) {
      case 'R':
        file >> call.reservation >> std::hex >> call.size;
        break;
      case 'F':
        file >> call.reservation;
        break;
      case 'C':
        file >> call.handle >> std::hex >> call.size;
        break;
      case 'L':
        file >> call.handle;
        break;
      case 'M':
        file >> call.reservation >> std::hex >> call.offset >> call.size >> std::dec >> call.handle;
        break;
      default:
        file >> call.reservation >> std::hex >> call.offset >> call.size;
    }
  }
  return calls;
}

class Replay {
 public:
  Replay(const cuda::Driver& driver, DevicePages& pages, const std::vector<Call>& calls)
      : driver_(driver), pages_(pages) {
    // Pages of 20 MiB are replayed as pages of the smallest size: calls matter here, not bytes.
    for (const Call& call : calls) {
      if (call.what == 'M') scale_[call.reservation] = std::max<size_t>(1, call.size / kPage);
    }
  }
  ~Replay() {
    while (!mapped_.empty()) Unmap(mapped_.begin()->first);
    for (const auto& [handle, token] : tokens_) EXPECT_EQ(pages_.Release(token), 0);
    for (const auto& [number, range] : ranges_)
      EXPECT_EQ(driver_.calls().address_free(range.first, range.second), 0);
  }

  void Do(const Call& call) {
    const size_t scale = scale_.contains(call.reservation) ? scale_[call.reservation] : 1;
    const size_t size = call.size / scale;
    const auto range = ranges_.find(call.reservation);
    const cuda::DevicePointer at =
        range == ranges_.end() ? 0 : range->second.first + call.offset / scale;
    switch (call.what) {
      case 'R': {
        auto& [begin, bytes] = ranges_[call.reservation];
        bytes = (size + kPage - 1) / kPage * kPage;
        ASSERT_EQ(driver_.calls().address_reserve(&begin, bytes, 0, 0, 0), 0);
        break;
      }
      case 'F':
        ASSERT_EQ(driver_.calls().address_free(at, range->second.second), 0);
        ranges_.erase(range);
        break;
      case 'C': {
        cuda::AllocationProperties properties;
        ASSERT_EQ(pages_.Create(&tokens_[call.handle], kPage, &properties, 0), 0);
        break;
      }
      case 'L':
        ASSERT_EQ(pages_.Release(tokens_[call.handle]), 0);
        tokens_.erase(call.handle);
        break;
      case 'M':
        ASSERT_EQ(pages_.Map(at, kPage, 0, tokens_[call.handle], 0), 0);
        mapped_[at] = {tokens_[call.handle], 0};
        break;
      case 'A': {
        const cuda::AccessDescriptor access;
        ASSERT_EQ(pages_.SetAccess(at, size, &access, 1), 0);
        for (auto& [address, page] : mapped_) {
          if (address >= at && address < at + size && page.value == 0) Stamp(address, page);
        }
        break;
      }
      default:
        for (size_t done = 0; done < size; done += kPage) Unmap(at + done);
    }
  }

  /// Some pages leave for one of the tiers, about `count`; those that nothing may touch return at
  /// once. Every page is looked at then.
  void MoveSome(Random& random, int count) {
    constexpr DeviceTier kTiers[] = {DeviceTier::kHostMapped, DeviceTier::kHostCopy,
                                     DeviceTier::kFile};
    std::vector<cuda::Handle> back;
    for (const auto& [at, page] : mapped_) {
      if (page.value == 0 || random.Below(mapped_.size()) >= static_cast<uint64_t>(count)) continue;
      const DeviceTier tier = kTiers[random.Below(3)];
      const absl::Status status = pages_.Demote(page.token, tier);
      if (!status.ok()) {
        EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;  // is away
      }
      if (tier != DeviceTier::kHostMapped || random.Below(2) == 0) back.push_back(page.token);
      ++moves_;
    }
    for (cuda::Handle token : back) ASSERT_TRUE(pages_.Promote(token).ok());
    for (const auto& [at, page] : mapped_) EXPECT_TRUE(Exact(at, page));
  }
  int moves() const { return moves_; }

 private:
  struct Page {
    cuda::Handle token = 0;
    uint64_t value = 0;  // at its begin and its end; 0: not accessible yet
  };

  void Stamp(cuda::DevicePointer at, Page& page) {
    page.value = ++stamps_ * 0x9e3779b97f4a7c15;
    ASSERT_EQ(driver_.calls().copy_to_device(at, &page.value, 8), 0);
    ASSERT_EQ(driver_.calls().copy_to_device(at + kPage - 8, &page.value, 8), 0);
  }
  bool Exact(cuda::DevicePointer at, const Page& page) const {
    if (page.value == 0) return true;
    uint64_t first = 0, last = 0;
    return driver_.calls().copy_to_host(&first, at, 8) == 0 &&
           driver_.calls().copy_to_host(&last, at + kPage - 8, 8) == 0 && first == page.value &&
           last == page.value;
  }
  void Unmap(cuda::DevicePointer at) {
    EXPECT_TRUE(Exact(at, mapped_[at]));
    EXPECT_EQ(pages_.Unmap(at, kPage), 0);
    mapped_.erase(at);
  }

  const cuda::Driver& driver_;
  DevicePages& pages_;
  std::map<int, size_t> scale_;
  std::map<int, std::pair<cuda::DevicePointer, size_t>> ranges_;
  std::map<int, cuda::Handle> tokens_;
  std::map<cuda::DevicePointer, Page> mapped_;
  uint64_t stamps_ = 0;
  int moves_ = 0;
};

struct Recorded {
  std::string name;
  size_t calls;    // at least
  size_t between;  // calls from one move to the next
  bool spares;
};

class DeviceTraceTest : public ::testing::TestWithParam<Recorded> {};

TEST_P(DeviceTraceTest, EveryByteIsThereWhateverMovesBetweenTheAllocatorsCalls) {
  phantom::Configure(absl::StrCat("device-trace-", getpid()), 4096, 2);
  static const cuda::Driver& driver = *cuda::Driver::Open(TIDE_PHANTOM_DRIVER).value().release();
  const phantom::Control phantom(driver);
  phantom.SetHostNuma(true);
  const cuda::ScopedContext context(driver, 0);
  CountingAccount accounts[2];
  tide::testing::SpillFolder folder;
  auto spill = SpillFile::Open({.dir = folder.path()});
  ASSERT_TRUE(spill.ok()) << spill.status();
  const phantom::Figures start = phantom.figures();
  const std::vector<Call> calls = Read(GetParam().name);
  ASSERT_GT(calls.size(), GetParam().calls);
  {
    DevicePagesOptions options;
    options.spare_max = Bytes(GetParam().spares ? 16 << 20 : 0);
    DevicePages pages(driver, {&accounts[0], &accounts[1]}, std::move(options));
    pages.set_spill(spill->get());
    Replay replay(driver, pages, calls);
    Random random(7);
    for (size_t i = 0; i < calls.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << "call " << i << ": " << calls[i].what);
      replay.Do(calls[i]);
      if (i % GetParam().between == GetParam().between - 1) replay.MoveSome(random, 8);
      ASSERT_TRUE(pages.Validate().ok()) << pages.Validate();
      if (HasFailure()) return;
    }
    EXPECT_GT(replay.moves(), 150);
  }
  const phantom::Figures end = phantom.figures();
  EXPECT_EQ(end.handles, start.handles) << "physical memory was lost";
  EXPECT_EQ(end.mappings, start.mappings);
  EXPECT_EQ(phantom.ledger().used, 0u);
  EXPECT_EQ(accounts[0].used(), Bytes(0));
}

INSTANTIATE_TEST_SUITE_P(Traces, DeviceTraceTest,
                         ::testing::Values(Recorded{"", 400, 5, false}, Recorded{"", 400, 5, true},
                                           Recorded{"_resnet50", 350, 5, false},
                                           Recorded{"_resnet50", 350, 5, true},
                                           Recorded{"_gpt2", 2500, 40, false},
                                           Recorded{"_gpt2", 2500, 40, true}),
                         [](const auto& info) {
                           const Recorded& one = info.param;
                           const std::string name = one.name.empty() ? "Small" : one.name.substr(1);
                           return absl::StrCat(name, one.spares ? "SparesKept" : "SparesGivenBack");
                         });

}  // namespace
}  // namespace tide::pages
