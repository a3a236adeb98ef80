// The command line of tided.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "coordinator/server.h"

namespace tide::coordinator {

struct Arguments {
  ServerOptions server;
  bool foreground = false;
  bool help = false;
};

extern const char kUsage[];

/// Errors: InvalidArgument with the word that cannot be read and the usage.
absl::StatusOr<Arguments> ParseArguments(int count, char** words);

}  // namespace tide::coordinator
