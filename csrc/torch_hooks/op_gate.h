// Operators reported to the core while it wants them: what they touch (RecordFunction with inputs),
// and that one begins, where a job may be slowed.
#pragma once

#include "runtime/core_api.h"

namespace tide::torch_hooks {

/// Adds or removes the callbacks; idempotent. While armed every operator costs about a microsecond
/// (recording) or 0.2 us (pace). `may_wait` is asked in the thread of each operator: false where it
/// holds a lock that others need.
void ArmOpGate(const TideCoreApi* api, int wanted, bool (*may_wait)());

/// The same for what operators use on devices and where a backward begins. An operator is told to
/// the core before its kernels start, an autograd.Function of the program before its code runs;
/// what starts kernels past the dispatcher is not seen.
void ArmUseGate(const TideCoreApi* api, bool on);

}  // namespace tide::torch_hooks
