// Our minimal declarations of the driver against NVIDIA's own header, where the machine has one.
#if __has_include(<cuda.h>)
#include <cuda.h>
#define TIDE_HAVE_CUDA_H 1
#endif

#include <cstddef>

#include "gtest/gtest.h"
#include "pages/cuda_driver.h"

namespace tide::pages::cuda {
namespace {

#ifdef TIDE_HAVE_CUDA_H
static_assert(sizeof(DevicePointer) == sizeof(CUdeviceptr));
static_assert(sizeof(Handle) == sizeof(CUmemGenericAllocationHandle));
static_assert(sizeof(AllocationProperties) == sizeof(CUmemAllocationProp));
static_assert(offsetof(AllocationProperties, handle_types) ==
              offsetof(CUmemAllocationProp, requestedHandleTypes));
static_assert(offsetof(AllocationProperties, location) == offsetof(CUmemAllocationProp, location));
static_assert(offsetof(AllocationProperties, flags) == offsetof(CUmemAllocationProp, allocFlags));
static_assert(sizeof(AllocationProperties::flags) == sizeof(CUmemAllocationProp::allocFlags));
static_assert(sizeof(AccessDescriptor) == sizeof(CUmemAccessDesc));
static_assert(offsetof(AccessDescriptor, flags) == offsetof(CUmemAccessDesc, flags));
static_assert(sizeof(DeviceResource) == sizeof(CUdevResource));
static_assert(offsetof(DeviceResource, multiprocessors) == offsetof(CUdevResource, sm));
#endif

TEST(CudaAbiTest, NumbersAreThoseOfTheHeader) {
#ifdef TIDE_HAVE_CUDA_H
  EXPECT_EQ(kInvalidValue, CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(kOutOfMemory, CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(kNotInitialized, CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(kNoDevice, CUDA_ERROR_NO_DEVICE);
  EXPECT_EQ(kInvalidDevice, CUDA_ERROR_INVALID_DEVICE);
  EXPECT_EQ(kInvalidContext, CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_EQ(kOperatingSystem, CUDA_ERROR_OPERATING_SYSTEM);
  EXPECT_EQ(kInvalidHandle, CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(kNotFound, CUDA_ERROR_NOT_FOUND);
  EXPECT_EQ(kNotReady, CUDA_ERROR_NOT_READY);
  EXPECT_EQ(kIllegalAddress, CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(kNotPermitted, CUDA_ERROR_NOT_PERMITTED);
  EXPECT_EQ(kNotSupported, CUDA_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(kCaptureUnsupported, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  EXPECT_EQ(kLocationDevice, CU_MEM_LOCATION_TYPE_DEVICE);
  EXPECT_EQ(kLocationHostNuma, CU_MEM_LOCATION_TYPE_HOST_NUMA);
  EXPECT_EQ(kTypePinned, CU_MEM_ALLOCATION_TYPE_PINNED);
  EXPECT_EQ(kHandleFileDescriptor, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  EXPECT_EQ(kAccessReadWrite, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  EXPECT_EQ(kEventWithoutTime, static_cast<unsigned>(CU_EVENT_DISABLE_TIMING));
  EXPECT_EQ(kStreamWaitsForNoOther, static_cast<unsigned>(CU_STREAM_NON_BLOCKING));
  EXPECT_EQ(kAttributeHostNumaId, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID);
#else
  GTEST_SKIP() << "no cuda.h here";
#endif
}

}  // namespace
}  // namespace tide::pages::cuda
