#include "base/log.h"

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tide {
namespace {

struct Holder {
  absl::Mutex mu;
  std::shared_ptr<LogSink> sink
      ABSL_GUARDED_BY(mu);  // shared: a line in flight outlives a replaced sink
};

Holder& CurrentSink() {
  static Holder& holder = *new Holder;
  return holder;
}

}  // namespace

void SetLogSink(LogSink sink) {
  auto replacement = sink ? std::make_shared<LogSink>(std::move(sink)) : nullptr;
  absl::MutexLock lock(&CurrentSink().mu);
  CurrentSink().sink = std::move(replacement);
}

void Log(LogLevel level, absl::string_view line) {
  std::shared_ptr<LogSink> sink;
  {
    absl::MutexLock lock(&CurrentSink().mu);
    sink = CurrentSink().sink;
  }
  if (sink) (*sink)(level, std::string(line));
}

}  // namespace tide
