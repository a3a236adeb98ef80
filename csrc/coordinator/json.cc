// Values as JSON.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/status_api.h"

namespace tide::coordinator {
namespace {

void AppendText(absl::string_view text, std::string& out) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppendFormat(&out, "\\u%04x", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  out += '"';
}

void Append(const wire::Value& value, std::string& out) {
  if (const bool* flag = value.As<bool>()) {
    out += *flag ? "true" : "false";
  } else if (const int64_t* integer = value.As<int64_t>()) {
    absl::StrAppend(&out, *integer);
  } else if (const double* number = value.As<double>()) {
    out += std::isfinite(*number) ? absl::StrFormat("%.17g", *number) : "null";
  } else if (const std::string* text = value.As<std::string>()) {
    AppendText(*text, out);
  } else if (const auto* array = value.As<wire::Value::Array>()) {
    out += '[';
    for (size_t i = 0; i < array->size(); ++i) {
      if (i > 0) out += ',';
      Append((*array)[i], out);
    }
    out += ']';
  } else if (const auto* map = value.As<wire::Value::Map>()) {
    out += '{';
    for (size_t i = 0; i < map->size(); ++i) {
      if (i > 0) out += ',';
      AppendText((*map)[i].first, out);
      out += ':';
      Append((*map)[i].second, out);
    }
    out += '}';
  } else {
    out += "null";
  }
}

}  // namespace

std::string ToJson(const wire::Value& value) {
  std::string out;
  Append(value, out);
  return out;
}

}  // namespace tide::coordinator
