// What operators touch, reported to the core while it records: RecordFunction with inputs, armed
// only then.
#pragma once

#include "runtime/core_api.h"

namespace tide::torch_hooks {

/// Adds or removes the callback; idempotent. While armed every operator costs about a microsecond.
void ArmOpGate(const TideCoreApi* api, bool on);

}  // namespace tide::torch_hooks
