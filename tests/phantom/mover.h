// Moves bytes between host memory and the memfds that stand behind device addresses.
#pragma once

#include <cstddef>
#include <cstdint>

#include "phantom/memory.h"

namespace phantom {

/// All with the engine's lock held. Errors: kIllegalAddress when a device address is not mapped or
/// not accessible; the caller makes it sticky.
cuda::Result MoveBytes(Memory& memory, Address to, Address from, size_t size);
/// `count` elements of `element` bytes (1, 2 or 4) each set to `value`.
cuda::Result FillBytes(Memory& memory, Address to, uint32_t value, size_t element, size_t count);
/// As if a kernel used the range: checks that it may.
cuda::Result TouchBytes(Memory& memory, Address at, size_t size);

}  // namespace phantom
