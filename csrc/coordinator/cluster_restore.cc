// From the journal to the cluster and back: which snapshot to begin with, and when to take one.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "coordinator/cluster.h"
#include "coordinator/decide.h"

namespace tide::coordinator {
namespace {

constexpr int64_t kLeaseMsMin = 100;

/// The engine of the newest snapshot that can be read, else a new one; `seq` is what it has heard.
absl::StatusOr<std::unique_ptr<ClusterEngine>> Begin(const ClusterOptions& options,
                                                     const ClusterHistory& history, int64_t& seq) {
  for (const ClusterSnapshot& snapshot : history.snapshots) {
    auto engine = ClusterEngine::Restore(options, snapshot.bytes);
    seq = snapshot.seq;
    if (engine.ok() || !absl::IsDataLoss(engine.status())) return engine;
    Log(LogLevel::kError, absl::StrCat("event=cluster_snapshot_damaged inputs=", seq, " reason=\"",
                                       engine.status().message(), "\""));
  }
  seq = 0;
  const bool whole =
      history.inputs.empty() ? history.snapshots.empty() : history.inputs.front().first == 1;
  if (whole) return ClusterEngine::Make(options);
  return absl::DataLossError(
      absl::StrCat("the journal has ", history.snapshots.size(),
                   " snapshots of the cluster, none of which can be read, and not all inputs: move "
                   "tided.db away to begin without jobs, or put a copy of it back"));
}

absl::Status Replay(ClusterEngine& engine, const ClusterHistory& history, int64_t& seq) {
  for (const auto& [number, row] : history.inputs) {
    if (number <= seq) continue;
    if (number != seq + 1)
      return absl::DataLossError(absl::StrCat("the journal has no input ", seq + 1));
    TIDE_ASSIGN_OR_RETURN(const wire::Value value, wire::Unpack(row));
    TIDE_ASSIGN_OR_RETURN(const ClusterInput input, ClusterInputFromValue(value));
    // Under another policy than before a row may not fit any more; then it has no effect.
    const auto applied = engine.Apply(input);
    if (!applied.ok() && !absl::IsNotFound(applied.status())) return applied.status();
    seq = number;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RestoreCluster(Context& context, const ClusterSettings& settings,
                            const ClusterHistory& history) {
  ClusterState& cluster = context.state.cluster;
  cluster.settings = settings;
  cluster.settings.lease_ms = std::max(settings.lease_ms, kLeaseMsMin);
  int64_t seq = 0;
  TIDE_ASSIGN_OR_RETURN(cluster.engine, Begin(settings.options, history, seq));
  const int64_t newest = history.snapshots.empty() ? 0 : history.snapshots.front().seq;
  cluster.snapshot_seq = seq;
  // What was damaged, retold or never there is not to be read again.
  cluster.snapshot_wanted = cluster.engine->retold() || seq != newest || history.upgraded;
  TIDE_RETURN_IF_ERROR(Replay(*cluster.engine, history, seq));
  if (seq < newest) return absl::DataLossError(absl::StrCat("the journal has no input ", seq + 1));
  cluster.engine->TakeLog();
  cluster.next_input = seq + 1;
  cluster.figures.resize(cluster.engine->jobs());
  cluster.base_ns = context.now.mono_ns;
  cluster.base_s = cluster.engine->now_s();
  for (const ClusterDevices::Node& node : cluster.engine->devices().nodes()) {
    if (!node.works) continue;
    cluster.nodes[node.name].lease_until_ns =
        context.now.mono_ns + cluster.settings.lease_ms * 1'000'000;
  }
  Log(LogLevel::kInfo, absl::StrCat("event=cluster_restored snapshot=", cluster.snapshot_seq,
                                    " inputs_after=", seq - cluster.snapshot_seq));
  if (!cluster.engine->has_snapshot() && settings.snapshot_inputs > 0) {
    Log(LogLevel::kWarning,
        absl::StrCat("event=cluster_journal_grows policy=", settings.options.policy,
                     " reason=\"the state of this policy cannot be saved: every input is kept and "
                     "read back at a start\""));
  }
  return absl::OkStatus();
}

std::optional<ClusterSnapshot> TakeClusterSnapshot(ClusterState& cluster) {
  if (!cluster.engine || !cluster.engine->has_snapshot() || cluster.settings.snapshot_inputs <= 0)
    return std::nullopt;
  const int64_t seq = cluster.next_input - 1;
  // A snapshot costs what is open; so an input costs the same however much that is.
  const int64_t wait = std::max(cluster.settings.snapshot_inputs,
                                static_cast<int64_t>(cluster.engine->open_jobs().size()));
  const int64_t since = seq - cluster.snapshot_seq;
  if (since < (cluster.snapshot_wanted ? 1 : wait)) return std::nullopt;
  cluster.snapshot_seq = seq;
  cluster.snapshot_wanted = false;
  return ClusterSnapshot{.seq = seq, .bytes = cluster.engine->Snapshot()};
}

}  // namespace tide::coordinator
