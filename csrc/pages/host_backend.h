// The CPU backend: the kernel's own mappings, always valid, no fault handlers.
#pragma once

#include <memory>

#include "pages/backend.h"

namespace tide::pages {

/// Linux mmap. `huge_pages` asks for MADV_HUGEPAGE on private memory, and on mappings of the spill
/// file where its file system has huge pages (tried with the first one).
std::unique_ptr<Backend> MakeHostBackend(bool huge_pages);

/// Makes touched 2 MiB pages of a shared mapping huge (MADV_COLLAPSE); a hint.
void CollapseShared(char* at, Bytes size);

}  // namespace tide::pages
