// The one table of tunables: name, environment variable, default, unit and reason; the only getenv.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tide {

/// One tunable as `tide config` prints it.
struct OptionInfo {
  const char* name;           // "memory.block_min_bytes"
  const char* variable;       // "TIDE_BLOCK_MIN_BYTES"
  const char* default_value;  // as text, in the same form as the variable
  const char* unit;           // "bytes", "ms", "bool", "text", "count"
  const char* reason;         // one sentence: why it exists and why this default
};

/// All options, in the order of the table in options.cc.
const std::vector<OptionInfo>& OptionTable();

/// Value as text and where it came from: "call", "environment", "file" or "default".
struct OptionValue {
  std::string text;
  std::string origin;
};

/// Looks an option up: overrides set by SetOption, then the environment, then the default.
/// Errors: NotFound for a name that is not in the table.
absl::StatusOr<OptionValue> GetOption(absl::string_view name);

/// Sets an override, for instance from torchtide.toml (origin "file") or a call argument (origin
/// "call"); "call" beats the environment, "file" does not. Errors: NotFound.
absl::Status SetOption(absl::string_view name, absl::string_view text, absl::string_view origin);

/// Typed reads; an unparsable value falls back to the default and is reported through the log sink.
int64_t IntOption(absl::string_view name);
double DoubleOption(absl::string_view name);
bool BoolOption(absl::string_view name);
int64_t BytesOption(absl::string_view name);
std::string TextOption(absl::string_view name);

/// The environment of the process for what is not ours (XDG_RUNTIME_DIR, HOME); empty when unset.
std::string Environment(const char* variable);

}  // namespace tide
