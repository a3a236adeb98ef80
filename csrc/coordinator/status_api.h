// What HTTP clients are told: state and events as JSON, figures as OpenMetrics, one page.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "coordinator/device_view.h"
#include "coordinator/state.h"

namespace tide::coordinator {

struct HttpBody {
  std::string type;
  std::string text;
};

struct HttpQuestion {
  std::string path;
  int64_t since = -1;  // only later: a seq of /api/events, Unix milliseconds of /api/history
};

/// Pure. Nothing for a path that does not exist.
std::optional<HttpBody> StatusAnswer(const State& state, const DeviceView& view, const Moment& now,
                                     const HttpQuestion& question);

/// RFC 8259.
std::string ToJson(const wire::Value& value);

/// The page at `/`: complete in itself, asks /api every second.
extern const char kStatusPage[];

}  // namespace tide::coordinator
