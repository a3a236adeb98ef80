// Finding PyTorch's entries by value, on tables made up here; no PyTorch is needed.
#include "torch_hooks/cuda_slots.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tide::torch_hooks {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CudaSlotsTest : public ::testing::Test {
 protected:
  const void* At(int index) const { return memory_ + index; }
  std::string Find(const std::vector<const void*>& table) {
    return FindCudaSlots(table.data(), static_cast<int>(table.size()), calls_, 2, more_, slots_);
  }

  char memory_[16] = {};
  TideCudaCall calls_[2] = {{"cuMemCreate", nullptr, {memory_ + 1, memory_ + 2, nullptr}},
                            {"cuMemMap", nullptr, {memory_ + 4, nullptr, nullptr}}};
  const void* more_[2] = {memory_ + 3, nullptr};
  int slots_[2] = {-1, -1};
};

TEST_F(CudaSlotsTest, AnyOfACallsAddressesIsFoundWhereverItStands) {
  for (int address : {1, 2, 3}) {
    EXPECT_EQ(Find({nullptr, At(9), At(4), At(8), At(address)}), "");
    EXPECT_THAT(slots_, ElementsAre(4, 2));
  }
}

TEST_F(CudaSlotsTest, ACallThatIsMissingIsNamed) {
  EXPECT_THAT(Find({nullptr, At(1), At(9)}), HasSubstr("cuMemMap 0 times"));
}

TEST_F(CudaSlotsTest, ACallThatStandsTwiceIsNamedEvenUnderTwoAddresses) {
  EXPECT_THAT(Find({At(1), At(4), At(3)}), HasSubstr("cuMemCreate 2 times"));
}

TEST_F(CudaSlotsTest, AnEmptyWordIsNeverTakenForAnAddressThatIsNotKnown) {
  EXPECT_EQ(Find({nullptr, nullptr, At(4), At(1)}), "");
}

TEST(CudaSlotsInstallTest, WithoutPyTorchOrDeviceMemoryItRefusesAndSaysWhy) {
  TideCoreApi api{};
  EXPECT_THAT(InstallCudaSlots(nullptr), HasSubstr("different versions"));
  api.struct_size = sizeof api;
  EXPECT_THAT(InstallCudaSlots(&api), HasSubstr("has not been started"));
  const TideCudaCall call = {"cuMemMap", nullptr, {}};
  api.cuda_calls = &call;
  api.cuda_call_count = 1;
  EXPECT_THAT(InstallCudaSlots(&api), HasSubstr("no CUDA"));
  EXPECT_FALSE(CudaSlotsInstalled());
}

}  // namespace
}  // namespace tide::torch_hooks
