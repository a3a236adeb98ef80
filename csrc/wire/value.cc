// Values to MessagePack and back, through the parser's visitor: no length is believed before its
// bytes came.
#include "wire/value.h"

#include <cmath>

#ifndef MSGPACK_NO_BOOST
#define MSGPACK_NO_BOOST
#endif
#include <msgpack.hpp>

#include "absl/strings/str_cat.h"

namespace tide::wire {
namespace {

/// Builds a Value from the parser's calls; returns false, with a reason, at the first thing that is
/// refused.
class Builder : public msgpack::null_visitor {
 public:
  bool visit_nil() { return Put(Value()); }
  bool visit_boolean(bool v) { return Put(Value(v)); }
  bool visit_positive_integer(uint64_t v) {
    if (v > static_cast<uint64_t>(INT64_MAX)) return Refuse("an integer above 2^63-1");
    return Put(Value(v));
  }
  bool visit_negative_integer(int64_t v) { return Put(Value(v)); }
  bool visit_float32(float v) { return visit_float64(v); }
  bool visit_float64(double v) {
    return std::isfinite(v) ? Put(Value(v)) : Refuse("a number that is not finite");
  }
  bool visit_str(const char* text, uint32_t size) {
    const absl::string_view view(text, size);
    if (!IsUtf8(view)) return Refuse("text that is not UTF-8");
    if (!expect_key_) return Put(Value(view));
    keys_.back().assign(text, size);
    return true;
  }
  bool visit_bin(const char*, uint32_t) { return Refuse("binary data"); }
  bool visit_ext(const char*, uint32_t) { return Refuse("an extension type"); }
  bool start_array(uint32_t) { return Open(Value(Value::Array())); }
  bool end_array() { return CloseTop(); }
  bool start_map(uint32_t) { return Open(Value(Value::Map())); }
  bool start_map_key() {
    expect_key_ = true;
    return true;
  }
  bool end_map_key() {
    expect_key_ = false;
    return true;
  }
  bool end_map() { return CloseTop(); }
  void parse_error(size_t offset, size_t) { Refuse(absl::StrCat("a malformed byte at ", offset)); }
  void insufficient_bytes(size_t offset, size_t) {
    Refuse(absl::StrCat("an end at byte ", offset));
  }

  Value& root() { return root_; }
  const std::string& reason() const { return reason_; }

 private:
  bool Refuse(std::string reason) {
    if (reason_.empty()) reason_ = std::move(reason);
    return false;
  }
  bool Put(Value value) {
    if (expect_key_) return Refuse("a key that is not text");
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (auto* array = open_.back().As<Value::Array>()) {
      array->push_back(std::move(value));
    } else {
      open_.back().As<Value::Map>()->emplace_back(std::move(keys_.back()), std::move(value));
    }
    return true;
  }
  bool Open(Value container) {
    if (expect_key_) return Refuse("a key that is not text");
    if (open_.size() >= kNestingMax)
      return Refuse(absl::StrCat("more than ", kNestingMax, " levels"));
    open_.push_back(std::move(container));
    keys_.emplace_back();
    return true;
  }
  bool CloseTop() {
    Value closed = std::move(open_.back());
    open_.pop_back();
    keys_.pop_back();
    return Put(std::move(closed));
  }

  Value root_;
  std::vector<Value> open_;
  std::vector<std::string> keys_;  // the key being filled of each open container
  bool expect_key_ = false;
  std::string reason_;
};

using Packer = msgpack::packer<msgpack::sbuffer>;

void PackInto(const Value& value, Packer& out) {
  if (const bool* flag = value.As<bool>()) {
    *flag ? out.pack_true() : out.pack_false();
  } else if (const int64_t* integer = value.As<int64_t>()) {
    out.pack_int64(*integer);
  } else if (const double* number = value.As<double>()) {
    out.pack_double(*number);
  } else if (const std::string* text = value.As<std::string>()) {
    out.pack_str(text->size()).pack_str_body(text->data(), text->size());
  } else if (const auto* array = value.As<Value::Array>()) {
    out.pack_array(array->size());
    for (const Value& item : *array) PackInto(item, out);
  } else if (const auto* map = value.As<Value::Map>()) {
    out.pack_map(map->size());
    for (const auto& [key, item] : *map) {
      out.pack_str(key.size()).pack_str_body(key.data(), key.size());
      PackInto(item, out);
    }
  } else {
    out.pack_nil();
  }
}

/// Length of the well-formed character at the start of `text`; 0 when there is none.
size_t CharacterSize(absl::string_view text) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = at(0);
  if (lead < 0x80) return 1;
  const size_t size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < size) return 0;
  for (size_t i = 1; i < size; ++i) {
    if ((at(i) & 0xc0) != 0x80) return 0;
  }
  // overlong forms, surrogates, above U+10FFFF
  const uint8_t second = at(1);
  if (lead == 0xe0 && second < 0xa0) return 0;
  if (lead == 0xed && second > 0x9f) return 0;
  if (lead == 0xf0 && second < 0x90) return 0;
  if (lead == 0xf4 && second > 0x8f) return 0;
  return size;
}

}  // namespace

Value::Value() = default;
Value::Value(const Value& other) = default;
Value::Value(Value&& other) noexcept = default;
Value& Value::operator=(const Value& other) = default;
Value& Value::operator=(Value&& other) noexcept = default;
Value::~Value() = default;
Value::Value(Array value) : held_(std::move(value)) {}
Value::Value(Map value) : held_(std::move(value)) {}

absl::string_view Value::type_name() const {
  constexpr absl::string_view kNames[] = {"null", "bool",  "integer", "float",
                                          "text", "array", "map"};
  return kNames[held_.index()];
}

const Value* Value::Find(absl::string_view key) const {
  const Map* map = As<Map>();
  if (map == nullptr) return nullptr;
  for (const auto& [name, value] : *map) {
    if (name == key) return &value;
  }
  return nullptr;
}

int64_t Value::Int(absl::string_view key, int64_t otherwise) const {
  const Value* found = Find(key);
  const int64_t* value = found ? found->As<int64_t>() : nullptr;
  return value ? *value : otherwise;
}

double Value::Float(absl::string_view key, double otherwise) const {
  const Value* found = Find(key);
  if (found == nullptr) return otherwise;
  if (const double* value = found->As<double>()) return *value;
  if (const int64_t* value = found->As<int64_t>()) return static_cast<double>(*value);
  return otherwise;
}

bool Value::Bool(absl::string_view key, bool otherwise) const {
  const Value* found = Find(key);
  const bool* value = found ? found->As<bool>() : nullptr;
  return value ? *value : otherwise;
}

std::string Value::Text(absl::string_view key, absl::string_view otherwise) const {
  const Value* found = Find(key);
  const std::string* value = found ? found->As<std::string>() : nullptr;
  return value ? *value : std::string(otherwise);
}

std::string Pack(const Value& value) {
  msgpack::sbuffer buffer;
  Packer packer(buffer);
  PackInto(value, packer);
  return std::string(buffer.data(), buffer.size());
}

absl::StatusOr<Value> Unpack(absl::string_view bytes) {
  Builder builder;
  size_t offset = 0;
  bool parsed = false;
  try {
    parsed = msgpack::parse(bytes.data(), bytes.size(), offset, builder);
  } catch (const std::exception& error) {  // msgpack throws for an extension of 2^32-1 bytes
    return absl::InvalidArgumentError(absl::StrCat("body is not MessagePack: ", error.what()));
  }
  if (!parsed || !builder.reason().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("body has ", builder.reason().empty() ? "no whole value" : builder.reason()));
  }
  if (offset != bytes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("body has ", bytes.size() - offset, " bytes after its value"));
  }
  return std::move(builder.root());
}

bool IsUtf8(absl::string_view text) {
  while (!text.empty()) {
    const size_t size = CharacterSize(text);
    if (size == 0) return false;
    text.remove_prefix(size);
  }
  return true;
}

absl::string_view Utf8Prefix(absl::string_view text, size_t size) {
  if (text.size() <= size) return text;
  while (size > 0 && (static_cast<uint8_t>(text[size]) & 0xc0) == 0x80) --size;
  return text.substr(0, size);
}

}  // namespace tide::wire
