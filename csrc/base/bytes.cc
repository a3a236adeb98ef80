#include "base/bytes.h"

#include <cmath>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tide {
namespace {

struct Unit {
  const char* name;  // lower case
  double factor;
};

constexpr Unit kUnits[] = {
    {"", 1},
    {"b", 1},
    {"k", 1024.0},
    {"kib", 1024.0},
    {"kb", 1e3},
    {"m", 1048576.0},
    {"mib", 1048576.0},
    {"mb", 1e6},
    {"g", 1073741824},
    {"gib", 1073741824},
    {"gb", 1e9},
    {"t", 1099511627776.0},
    {"tib", 1099511627776.0},
    {"tb", 1e12},
};

absl::Status Refuse(absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("size \"", text, "\" ", why,
                   "; write bytes as an integer or a number with a unit, such as 1.5GiB, "
                   "300MiB or 2g"));
}

}  // namespace

std::string FormatBytes(Bytes bytes) {
  const double value = static_cast<double>(bytes.value());
  const double magnitude = std::fabs(value);
  const struct {
    double factor;
    const char* unit;
  } scales[] = {
      {1099511627776.0, "TiB"}, {1073741824.0, "GiB"}, {1048576.0, "MiB"}, {1024.0, "KiB"}};
  for (const auto& scale : scales) {
    if (magnitude >= scale.factor) {
      const double scaled = value / scale.factor;
      return std::fabs(scaled) >= 100 ? absl::StrFormat("%.0f %s", scaled, scale.unit)
                                      : absl::StrFormat("%.3g %s", scaled, scale.unit);
    }
  }
  return absl::StrCat(bytes.value(), " B");
}

absl::StatusOr<Bytes> ParseBytes(absl::string_view text) {
  const std::string trimmed(absl::StripAsciiWhitespace(text));
  size_t digits = 0;
  while (digits < trimmed.size() &&
         (absl::ascii_isdigit(trimmed[digits]) || trimmed[digits] == '.' ||
          trimmed[digits] == '-' || trimmed[digits] == '+' ||
          (trimmed[digits] == 'e' && digits > 0))) {
    ++digits;
  }
  double number = 0;
  if (digits == 0 || !absl::SimpleAtod(trimmed.substr(0, digits), &number)) {
    return Refuse(text, "is not a size");
  }
  const std::string unit =
      absl::AsciiStrToLower(absl::StripAsciiWhitespace(trimmed.substr(digits)));
  for (const Unit& known : kUnits) {
    if (unit != known.name) continue;
    const double value = number * known.factor;
    if (!std::isfinite(value)) return Refuse(text, "is not finite");
    if (value < 0) return Refuse(text, "is negative");
    if (value >= 9.2e18) return Refuse(text, "is larger than any memory");
    return Bytes(static_cast<int64_t>(std::llround(value)));
  }
  return Refuse(text, absl::StrCat("has the unknown unit \"", unit, "\""));
}

}  // namespace tide
