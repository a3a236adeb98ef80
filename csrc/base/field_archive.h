// One description of a value's fields for both ways, so that what saves and what loads cannot
// differ.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/ids.h"

namespace tide {

class FieldArchive;

/// A type is archived by a member `void VisitFields(FieldArchive&)`, or by a function of that name
/// beside it that takes the archive and the value.
template <typename T>
concept HasVisitMember = requires(T& value, FieldArchive& archive) {
  value.VisitFields(archive);
};
template <typename T>
concept HasVisitFunction = requires(T& value, FieldArchive& archive) {
  VisitFields(archive, value);
};

/// Writes fields to bytes or reads them back, in one order. Integers are zigzag varints, doubles
/// their eight bytes, containers a count and their elements; unordered ones are written in order,
/// so equal values give equal bytes. Not thread-safe.
class FieldArchive {
 public:
  /// Writes.
  FieldArchive() = default;
  /// Reads `bytes`, which are borrowed. What does not fit is an error of status(), after which
  /// fields keep the values that they had.
  explicit FieldArchive(absl::string_view bytes) : reading_(true), rest_(bytes) {}

  bool reading() const { return reading_; }
  /// Of the layout, as far as its owner counts: what is read may lack fields that came later.
  int version() const { return version_; }
  void SetVersion(int version) { version_ = version; }
  /// DataLoss once something could not be read.
  const absl::Status& status() const { return status_; }
  /// Bytes that nobody has read.
  size_t rest() const { return rest_.size(); }
  /// What was written.
  std::string Take() { return std::exchange(bytes_, std::string()); }
  void Fail(absl::string_view what);

  template <typename... T>
  void operator()(T&... fields) {
    (Visit(fields), ...);
  }

 private:
  void Varint(uint64_t& value);
  void Raw(void* data, size_t size);
  void Text(std::string& text);

  template <typename T>
  void Visit(T& field) {
    if constexpr (HasVisitMember<T>) {
      field.VisitFields(*this);
    } else if constexpr (HasVisitFunction<T>) {
      VisitFields(*this, field);
    } else if constexpr (std::is_enum_v<T>) {
      auto number = static_cast<int64_t>(field);
      Integer(number, std::numeric_limits<std::underlying_type_t<T>>::min(),
              std::numeric_limits<std::underlying_type_t<T>>::max());
      field = static_cast<T>(number);
    } else if constexpr (std::is_same_v<T, uint64_t>) {
      Varint(field);
    } else if constexpr (std::integral<T>) {
      auto number = static_cast<int64_t>(field);
      Integer(number, static_cast<int64_t>(std::numeric_limits<T>::min()),
              static_cast<int64_t>(std::numeric_limits<T>::max()));
      field = static_cast<T>(number);
    } else if constexpr (std::floating_point<T>) {
      static_assert(sizeof(T) == 8);
      Raw(&field, sizeof field);
    } else {
      VisitCompound(field);
    }
  }

  void Integer(int64_t& number, int64_t least, int64_t most);

  void VisitCompound(std::string& text) { Text(text); }
  template <typename Tag, typename Int>
  void VisitCompound(Id<Tag, Int>& id) {
    Int value = id.value();
    Visit(value);
    id = Id<Tag, Int>(value);
  }
  template <typename A, typename B>
  void VisitCompound(std::pair<A, B>& pair) {
    Visit(pair.first);
    Visit(pair.second);
  }
  template <typename T, size_t n>
  void VisitCompound(std::array<T, n>& array) {
    for (T& element : array) Visit(element);
  }
  template <typename Container>
  requires requires(Container& c) { c.begin(), c.size(), c.clear(); }
  void VisitCompound(Container& container) {
    if constexpr (requires { container.push_back(*container.begin()); }) {
      Sequence(container);
    } else if constexpr (requires { typename Container::mapped_type; }) {
      Keyed<std::pair<typename Container::key_type, typename Container::mapped_type>>(container);
    } else {
      Keyed<typename Container::key_type>(container);
    }
  }

  /// The number of elements that follow; each takes a byte at least, so a wrong one is found here.
  size_t Count(size_t count);

  template <typename Container>
  void Sequence(Container& container) {
    const size_t count = Count(container.size());
    if (reading_) {
      container.clear();
      container.resize(count);
    }
    for (auto& element : container) Visit(element);
  }

  template <typename Element, typename Container>
  void Keyed(Container& container) {
    const size_t count = Count(container.size());
    if (reading_) {
      container.clear();
      for (size_t i = 0; i < count && status_.ok(); ++i) {
        Element element{};
        Visit(element);
        container.insert(std::move(element));
      }
      if (status_.ok() && container.size() != count) Fail("a key is there twice");
      return;
    }
    std::vector<Element> elements(container.begin(), container.end());
    if constexpr (!requires { typename Container::key_compare; }) {
      std::sort(elements.begin(), elements.end(), [](const Element& a, const Element& b) {
        if constexpr (requires { typename Container::mapped_type; }) return a.first < b.first;
        if constexpr (!requires { typename Container::mapped_type; }) return a < b;
      });
    }
    for (Element& element : elements) Visit(element);
  }

  bool reading_ = false;
  int version_ = 0;
  std::string bytes_;       // written
  absl::string_view rest_;  // to be read
  absl::Status status_;
};

}  // namespace tide
