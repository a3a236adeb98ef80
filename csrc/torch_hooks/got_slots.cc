#include "torch_hooks/got_slots.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace tide::torch_hooks {
namespace {

using Relocation = ElfW(Rela);  // of both machines that PyTorch has CUDA for

#if defined(__x86_64__)
constexpr uint32_t kFunctionSlots[] = {R_X86_64_JUMP_SLOT, R_X86_64_GLOB_DAT, R_X86_64_64};
#elif defined(__aarch64__)
constexpr uint32_t kFunctionSlots[] = {R_AARCH64_JUMP_SLOT, R_AARCH64_GLOB_DAT, R_AARCH64_ABS64};
#else
constexpr uint32_t kFunctionSlots[] = {0};
#endif

/// What the loader reads of a library.
struct DynamicSection {
  uintptr_t base = 0;
  const ElfW(Sym) * symbols = nullptr;
  const char* names = nullptr;
  const Relocation* tables[2] = {nullptr, nullptr};  // of calls, and of everything else
  size_t sizes[2] = {0, 0};
  bool known_format = true;
};

DynamicSection Read(const link_map& library) {
  DynamicSection section;
  section.base = library.l_addr;
  // glibc has made these addresses absolute on most machines.
  auto at = [&](ElfW(Addr) value) { return value < section.base ? value + section.base : value; };
  for (const ElfW(Dyn)* entry = library.l_ld; entry->d_tag != DT_NULL; ++entry) {
    switch (entry->d_tag) {
      case DT_SYMTAB:
        section.symbols = reinterpret_cast<const ElfW(Sym)*>(at(entry->d_un.d_ptr));
        break;
      case DT_STRTAB:
        section.names = reinterpret_cast<const char*>(at(entry->d_un.d_ptr));
        break;
      case DT_JMPREL:
        section.tables[0] = reinterpret_cast<const Relocation*>(at(entry->d_un.d_ptr));
        break;
      case DT_PLTRELSZ:
        section.sizes[0] = entry->d_un.d_val;
        break;
      case DT_RELA:
        section.tables[1] = reinterpret_cast<const Relocation*>(at(entry->d_un.d_ptr));
        break;
      case DT_RELASZ:
        section.sizes[1] = entry->d_un.d_val;
        break;
      case DT_PLTREL:
        section.known_format = section.known_format && entry->d_un.d_val == DT_RELA;
        break;
      case DT_REL:
        section.known_format = false;
        break;
      default:
        break;
    }
  }
  return section;
}

std::vector<void**> SlotsOf(const DynamicSection& section, const char* function) {
  std::vector<void**> found;
  if (section.symbols == nullptr || section.names == nullptr) return found;
  for (int table = 0; table < 2; ++table) {
    const size_t count = section.tables[table] ? section.sizes[table] / sizeof(Relocation) : 0;
    for (size_t i = 0; i < count; ++i) {
      const Relocation& entry = section.tables[table][i];
      const auto type = static_cast<uint32_t>(entry.r_info & 0xffffffff);
      const auto symbol = static_cast<uint32_t>(entry.r_info >> 32);
      bool of_function = false;
      for (uint32_t kind : kFunctionSlots) of_function = of_function || (kind && kind == type);
      if (!of_function || symbol == 0) continue;
      if (std::strcmp(section.names + section.symbols[symbol].st_name, function) != 0) continue;
      found.push_back(reinterpret_cast<void**>(section.base + entry.r_offset));
    }
  }
  return found;
}

struct Mapping {
  uintptr_t begin, end;
  int protection;
};

/// The mapping that an address is in; begin 0 when it is in none.
Mapping MappingOf(const void* address) {
  Mapping found = {0, 0, 0};
  std::FILE* maps = std::fopen("/proc/self/maps", "re");
  if (maps == nullptr) return found;
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  char line[512];
  while (found.begin == 0 && std::fgets(line, sizeof line, maps) != nullptr) {
    uintptr_t begin = 0, end = 0;
    char rights[5] = {};
    if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s", &begin, &end, rights) != 3) continue;
    if (wanted < begin || wanted >= end) continue;
    found = {begin, end,
             (rights[0] == 'r' ? PROT_READ : 0) | (rights[1] == 'w' ? PROT_WRITE : 0) |
                 (rights[2] == 'x' ? PROT_EXEC : 0)};
  }
  std::fclose(maps);
  return found;
}

/// Whether `address` is code of the library at `base`: the stub of a function not bound yet.
bool IsOwnCode(uintptr_t base, const void* address) {
  struct Question {
    uintptr_t base, address;
    bool answer;
  } question = {base, reinterpret_cast<uintptr_t>(address), false};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto* asked = static_cast<Question*>(data);
        if (info->dlpi_addr != asked->base) return 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const ElfW(Phdr)& part = info->dlpi_phdr[i];
          const uintptr_t begin = info->dlpi_addr + part.p_vaddr;
          asked->answer =
              asked->answer || (part.p_type == PT_LOAD && (part.p_flags & PF_X) &&
                                asked->address >= begin && asked->address < begin + part.p_memsz);
        }
        return 1;
      },
      &question);
  return question.answer;
}

}  // namespace

std::string FindGotSlot(const char* library, const char* function,
                        const std::vector<void*>& addresses, GotSlot* slot) {
  void* handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr) return std::string(library) + " is not loaded";
  link_map* map = nullptr;
  const bool known = dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map != nullptr;
  dlclose(handle);  // whoever had loaded it still has
  if (!known) return std::string("the loader says nothing of ") + library;
  const DynamicSection section = Read(*map);
  if (!section.known_format || kFunctionSlots[0] == 0) {
    return std::string(library) + " has relocations of a kind that is not known here";
  }
  const std::vector<void**> found = SlotsOf(section, function);
  if (found.size() != 1) {
    return std::string(library) + " takes " + function + " in " + std::to_string(found.size()) +
           " places, not in one";
  }
  void* const value = __atomic_load_n(found[0], __ATOMIC_ACQUIRE);
  bool expected = IsOwnCode(section.base, value);
  for (const void* address : addresses) {
    expected = expected || (address != nullptr && value == address);
  }
  if (!expected) {
    return std::string("somebody else has redirected ") + function + " in " + library;
  }
  *slot = {found[0], value};
  return "";
}

std::string WriteGotSlot(void** at, void* value) {
  const Mapping mapping = MappingOf(at);
  if (mapping.begin == 0) return "the library's table of functions is not mapped";
  const auto page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  void* const page = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(at) & ~(page_size - 1));
  const bool locked = (mapping.protection & PROT_WRITE) == 0;
  if (locked && mprotect(page, page_size, mapping.protection | PROT_WRITE) != 0) {
    return std::string("the library's table of functions stays read-only: ") + std::strerror(errno);
  }
  // An aligned pointer: a thread that calls meanwhile goes the old way or the new one.
  __atomic_store_n(at, value, __ATOMIC_RELEASE);
  if (locked) mprotect(page, page_size, mapping.protection);
  return "";
}

}  // namespace tide::torch_hooks
