// Redirecting a function in libraries that are linked in the ways that PyTorch's may be.
#include "torch_hooks/got_slots.h"

#include <dlfcn.h>

#include <cstdio>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::torch_hooks {
namespace {

using ::testing::HasSubstr;

int Hundred(int value) { return value + 100; }

/// "r--p" of the page that an address is in.
std::string RightsOf(const void* address) {
  std::FILE* maps = std::fopen("/proc/self/maps", "re");
  char line[512];
  std::string found;
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    unsigned long begin = 0, end = 0;
    char rights[5] = {};
    std::sscanf(line, "%lx-%lx %4s", &begin, &end, rights);
    const auto at = reinterpret_cast<unsigned long>(address);
    if (at >= begin && at < end) found = rights;
  }
  std::fclose(maps);
  return found;
}

struct Toy {
  const char* name;
  const char* path;
  const char* rights;  // of its table
};

class GotSlotsTest : public ::testing::TestWithParam<Toy> {
 protected:
  void SetUp() override {
    library_ = dlopen(GetParam().path, RTLD_LAZY | RTLD_LOCAL);
    ASSERT_NE(library_, nullptr) << dlerror();
    call_ = reinterpret_cast<int (*)(int)>(dlsym(library_, "toy_call"));
    target_ = dlsym(library_, "toy_target");
  }
  void TearDown() override { dlclose(library_); }

  void* library_ = nullptr;
  int (*call_)(int) = nullptr;
  void* target_ = nullptr;
};

TEST_P(GotSlotsTest, AFunctionIsRedirectedAndPutBackAndThePageKeepsItsRights) {
  GotSlot slot;
  ASSERT_EQ(FindGotSlot(GetParam().path, "toy_target", {nullptr, target_}, &slot), "");
  EXPECT_EQ(RightsOf(slot.at), GetParam().rights);
  ASSERT_EQ(WriteGotSlot(slot.at, reinterpret_cast<void*>(&Hundred)), "");
  EXPECT_EQ(RightsOf(slot.at), GetParam().rights);
  EXPECT_EQ(call_(1), 1010);
  ASSERT_EQ(WriteGotSlot(slot.at, slot.previous), "");
  EXPECT_EQ(call_(1), 20);
  EXPECT_EQ(call_(2), 30);  // a library that binds lazily has bound it by now
  GotSlot again;
  EXPECT_EQ(FindGotSlot(GetParam().path, "toy_target", {target_}, &again), "");
  EXPECT_EQ(again.at, slot.at);
  EXPECT_EQ(again.previous, target_);
}

TEST_P(GotSlotsTest, WhatSomebodyElseHasRedirectedIsLeftAlone) {
  GotSlot slot;
  ASSERT_EQ(FindGotSlot(GetParam().path, "toy_target", {target_}, &slot), "");
  ASSERT_EQ(WriteGotSlot(slot.at, reinterpret_cast<void*>(&Hundred)), "");
  GotSlot other;
  EXPECT_THAT(FindGotSlot(GetParam().path, "toy_target", {target_}, &other),
              HasSubstr("somebody else has redirected toy_target"));
  EXPECT_EQ(other.at, nullptr);
  ASSERT_EQ(WriteGotSlot(slot.at, slot.previous), "");
}

TEST_P(GotSlotsTest, AFunctionThatTheLibraryDoesNotTakeIsNamed) {
  GotSlot slot;
  EXPECT_THAT(FindGotSlot(GetParam().path, "toy_other", {target_}, &slot),
              HasSubstr("takes toy_other in 0 places"));
}

INSTANTIATE_TEST_SUITE_P(Toys, GotSlotsTest,
                         ::testing::Values(Toy{"FullRelro", TIDE_TOY_RELRO, "r--p"},
                                           Toy{"Lazy", TIDE_TOY_LAZY, "rw-p"},
                                           Toy{"NoPlt", TIDE_TOY_NOPLT, "r--p"}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(GotSlotsRefusalTest, AFunctionThatIsTakenInTwoPlacesIsNotRedirectedInOne) {
  void* library = dlopen(TIDE_TOY_TWO_PLACES, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << dlerror();
  GotSlot slot;
  EXPECT_THAT(FindGotSlot(TIDE_TOY_TWO_PLACES, "toy_target", {dlsym(library, "toy_target")}, &slot),
              HasSubstr("takes toy_target in 2 places"));
  dlclose(library);
}

TEST(GotSlotsRefusalTest, ALibraryThatIsNotLoadedIsNamed) {
  GotSlot slot;
  EXPECT_EQ(FindGotSlot("libnowhere.so.7", "toy_target", {}, &slot),
            "libnowhere.so.7 is not loaded");
}

}  // namespace
}  // namespace tide::torch_hooks
