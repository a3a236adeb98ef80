// Makes a driver call fail at a chosen position, and counts calls.
#pragma once

#include <cstdint>

namespace phantom {

/// In place of an error: the call says that it has worked, and has done nothing.
constexpr int kNothingDone = -1;

/// Counts one call of `name`; returns the error it has to fail with, or 0.
int EnterCall(const char* name);
/// The next `times` calls of `name` after `skip` good ones fail with `error`. "*" is any call.
void ArmFault(const char* name, int skip, int times, int error);
void DisarmFaults();
/// Calls of `name` wait until they are let go; one name at a time, null lets all go.
void HoldCall(const char* name);
/// Lets so many calls of the name that is held pass.
void LetThrough(int calls);
uint64_t CallCount(const char* name);

}  // namespace phantom
