// Bodies as values: null, bool, integer, float, text, array, map; packed as MessagePack with hard
// bounds.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tide::wire {

inline constexpr int kNestingMax = 16;

/// One MessagePack value; maps keep their order and have string keys.
class Value {
 public:
  using Array = std::vector<Value>;
  using Map = std::vector<std::pair<std::string, Value>>;

  Value();
  // Out of line: the inlined moves of the variant are slow to compile and confuse GCC's warnings.
  Value(const Value& other);
  Value(Value&& other) noexcept;
  Value& operator=(const Value& other);
  Value& operator=(Value&& other) noexcept;
  ~Value();
  Value(bool value) : held_(value) {}
  template <std::integral Int>
  requires(!std::same_as<Int, bool>) Value(Int value) : held_(static_cast<int64_t>(value)) {}
  Value(double value) : held_(value) {}
  Value(std::string value) : held_(std::move(value)) {}
  Value(absl::string_view value) : held_(std::string(value)) {}
  Value(const char* value) : held_(std::string(value)) {}
  Value(Array value);
  Value(Map value);

  /// The held alternative, or nullptr when it is another one.
  template <typename T>
  const T* As() const {
    return std::get_if<T>(&held_);
  }
  template <typename T>
  T* As() {
    return std::get_if<T>(&held_);
  }
  bool is_null() const { return std::holds_alternative<std::monostate>(held_); }
  /// "integer", "text", ...: for messages.
  absl::string_view type_name() const;

  /// The value of a key; nullptr when this is no map or has no such key. Of equal keys the first
  /// counts.
  const Value* Find(absl::string_view key) const;
  /// Typed reads with a default for what is absent or of another type; integers read as floats too.
  int64_t Int(absl::string_view key, int64_t otherwise = 0) const;
  double Float(absl::string_view key, double otherwise = 0) const;
  bool Bool(absl::string_view key, bool otherwise = false) const;
  std::string Text(absl::string_view key, absl::string_view otherwise = "") const;

  bool operator==(const Value&) const = default;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Map> held_;
};

/// MessagePack bytes of `value`.
std::string Pack(const Value& value);

/// Reads exactly one value from all of `bytes`. Errors: InvalidArgument for anything else than
/// well-formed MessagePack of at most kNestingMax levels, string keys, UTF-8, finite floats,
/// integers of 63 bits.
absl::StatusOr<Value> Unpack(absl::string_view bytes);

/// Whether `text` is well-formed UTF-8.
bool IsUtf8(absl::string_view text);
/// The longest prefix of `text` of at most `size` bytes that does not cut a UTF-8 character.
absl::string_view Utf8Prefix(absl::string_view text, size_t size);

}  // namespace tide::wire
