#include "base/options.h"

#include <cstdlib>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/bytes.h"
#include "base/log.h"

namespace tide {
namespace {

struct Overrides {
  absl::Mutex mu;
  absl::flat_hash_map<std::string, OptionValue> values ABSL_GUARDED_BY(mu);
};

Overrides& CurrentOverrides() {
  static Overrides& overrides = *new Overrides;
  return overrides;
}

const OptionInfo* Find(absl::string_view name) {
  for (const OptionInfo& option : OptionTable()) {
    if (name == option.name) return &option;
  }
  return nullptr;
}

template <typename Parse>
auto Typed(absl::string_view name, Parse parse) -> decltype(*parse(std::string())) {
  auto value = GetOption(name);
  const std::string text = value.ok() ? value->text : "";
  auto parsed = parse(text);
  if (parsed) return *parsed;
  const OptionInfo* info = Find(name);
  Log(LogLevel::kWarning, absl::StrCat("event=option_unreadable name=", name, " value=\"", text,
                                       "\" used_default=", info ? info->default_value : ""));
  return *parse(info ? info->default_value : "0");
}

template <typename T>
struct Maybe {
  bool ok = false;
  T value{};
  explicit operator bool() const { return ok; }
  T operator*() const { return value; }
};

}  // namespace

absl::StatusOr<OptionValue> GetOption(absl::string_view name) {
  const OptionInfo* info = Find(name);
  if (info == nullptr) return absl::NotFoundError(absl::StrCat("no option named \"", name, "\""));
  OptionValue from_file;
  {
    absl::MutexLock lock(&CurrentOverrides().mu);
    auto it = CurrentOverrides().values.find(name);
    if (it != CurrentOverrides().values.end()) {
      if (it->second.origin == "call") return it->second;
      from_file = it->second;
    }
  }
  const std::string variable = Environment(info->variable);
  if (!variable.empty()) return OptionValue{variable, "environment"};
  if (!from_file.origin.empty()) return from_file;
  return OptionValue{info->default_value, "default"};
}

absl::Status SetOption(absl::string_view name, absl::string_view text, absl::string_view origin) {
  if (Find(name) == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("no option named \"", name, "\"; `tide config` lists them"));
  }
  absl::MutexLock lock(&CurrentOverrides().mu);
  CurrentOverrides().values[std::string(name)] =
      OptionValue{std::string(text), std::string(origin)};
  return absl::OkStatus();
}

int64_t IntOption(absl::string_view name) {
  return Typed(name, [](const std::string& text) {
    Maybe<int64_t> result;
    result.ok = absl::SimpleAtoi(text, &result.value);
    return result;
  });
}

double DoubleOption(absl::string_view name) {
  return Typed(name, [](const std::string& text) {
    Maybe<double> result;
    result.ok = absl::SimpleAtod(text, &result.value);
    return result;
  });
}

bool BoolOption(absl::string_view name) {
  return Typed(name, [](const std::string& text) {
    Maybe<bool> result;
    result.ok = absl::SimpleAtob(text, &result.value);
    return result;
  });
}

int64_t BytesOption(absl::string_view name) {
  return Typed(name, [](const std::string& text) {
    Maybe<int64_t> result;
    auto bytes = ParseBytes(text);
    if (bytes.ok()) result = {true, bytes->value()};
    return result;
  });
}

std::string TextOption(absl::string_view name) {
  auto value = GetOption(name);
  return value.ok() ? value->text : "";
}

std::string Environment(const char* variable) {
  const char* value = std::getenv(variable);
  return value == nullptr ? "" : value;
}

}  // namespace tide
