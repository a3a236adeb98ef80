// Where a loaded library keeps the address of a function that it takes from another one.
#pragma once

#include <string>
#include <vector>

namespace tide::torch_hooks {

/// A word that the loader has filled in: the library calls the function through it.
struct GotSlot {
  void** at = nullptr;
  void* previous = nullptr;  // what stood there when it was found
};

/// Finds the one relocation slot of `library` (as the loader knows it: a file name or a path) for
/// `function`. It must hold one of `addresses` (where dlsym finds the function; null: none) or, in
/// a library that is bound lazily and has not called it yet, an address of its own code. Returns an
/// empty string or why not: the library is not loaded or does not take this function, takes it in
/// more than one place, or somebody else has changed the slot.
std::string FindGotSlot(const char* library, const char* function,
                        const std::vector<void*>& addresses, GotSlot* slot);

/// Writes `value` there. A page that may not be written (full RELRO) may be for that moment, and
/// has its own protection afterwards: a lazily bound library writes to it later. Returns an empty
/// string or why nothing has changed.
std::string WriteGotSlot(void** at, void* value);

}  // namespace tide::torch_hooks
