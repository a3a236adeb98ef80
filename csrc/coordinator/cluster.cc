// Messages of nodes and submitters become inputs of the engine; its changes become allocations.
#include "coordinator/cluster.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/decide.h"
#include "coordinator/text.h"

namespace tide::coordinator {
namespace {

using sched::JobState;

constexpr int64_t kRepeatNs = 2'000'000'000;

absl::string_view Code(const absl::Status& status) {
  if (absl::IsNotFound(status)) return "not_found";
  if (absl::IsAlreadyExists(status) || absl::IsFailedPrecondition(status)) return "conflict";
  if (absl::IsResourceExhausted(status)) return "too_many";
  if (absl::IsUnavailable(status)) return "unavailable";
  return "invalid";
}

void Refuse(Context& context, PeerId peer, uint64_t request_id, const absl::Status& status) {
  ReplyError(context, peer, request_id,
             {std::string(Code(status)), std::string(status.message()),
              "docs/reference/cluster.md says what a cluster takes"});
}

absl::Status Serving(const ClusterState& cluster) {
  if (cluster.engine) return absl::OkStatus();
  return absl::UnavailableError("this daemon serves no cluster: it was started without --listen");
}

double Now(const Context& context) {
  const ClusterState& cluster = context.state.cluster;
  return cluster.settings.virtual_clock ? std::max(cluster.engine->now_s(), cluster.virtual_s)
                                        : cluster.NowAt(context.now.mono_ns);
}

/// Tells the engine and journals what it was told.
absl::StatusOr<std::vector<ClusterChange>> Tell(Context& context, const ClusterInput& input) {
  ClusterState& cluster = context.state.cluster;
  TIDE_ASSIGN_OR_RETURN(auto changes, cluster.engine->Apply(input));
  context.effects.push_back(
      SaveInput{cluster.next_input++, wire::Pack(wire::Value(ClusterInputToValue(input)))});
  cluster.figures.resize(cluster.engine->jobs());
  return changes;
}

wire::Allocation AllocationOf(const ClusterEngine& engine, JobIndex index,
                              const std::string& node) {
  const ClusterJob& job = engine.job(index);
  wire::Allocation allocation{.key = job.spec.key, .revision = job.revision, .reason = job.reason};
  allocation.holding = engine.view(index).holding + 1;
  allocation.pace = job.pace;
  for (const DeviceShare& share : job.placement) {
    const std::string& name = engine.devices().nodes()[share.node.value()].name;
    allocation.nodes.emplace_back(name, share.devices);
    allocation.workers += share.devices;
    if (name == node) allocation.devices = share.devices;
  }
  const JobState state = engine.view(index).state;
  const bool over = state == JobState::kDone || state == JobState::kRefused || job.withdrawn;
  allocation.state = over                     ? wire::AllocationState::kEnd
                     : allocation.devices > 0 ? wire::AllocationState::kRun
                                              : wire::AllocationState::kHold;
  return allocation;
}

void SendAllocation(Context& context, const std::string& node, wire::Allocation allocation) {
  const auto found = context.state.cluster.nodes.find(node);
  if (found == context.state.cluster.nodes.end() || found->second.peer.value() < 0) return;
  NodeLink& link = found->second;
  link.unanswered[allocation.key] = {allocation.revision, context.now.mono_ns};
  context.effects.push_back(Send{link.peer, std::move(allocation)});
}

/// To every node that has the job or had it last.
void TellNodes(Context& context, JobIndex index) {
  const ClusterEngine& engine = *context.state.cluster.engine;
  const ClusterJob& job = engine.job(index);
  std::set<NodeIndex> nodes;
  for (const DeviceShare& share : job.placement) nodes.insert(share.node);
  for (const DeviceShare& share : job.placement_before) nodes.insert(share.node);
  for (const NodeIndex node : nodes) {
    const std::string& name = engine.devices().nodes()[node.value()].name;
    SendAllocation(context, name, AllocationOf(engine, index, name));
  }
}

void Report(Context& context, const ClusterChange& change) {
  constexpr const char* kKinds[] = {"cluster_start",  "cluster_preempt", "cluster_evict",
                                    "cluster_refuse", "cluster_resize",  "action_not_carried_out",
                                    "job_moves",      "job_moved",       "job_stays",
                                    "cluster_pace"};
  constexpr const char* kVerbs[] = {
      " starts on ",     " is preempted", " is evicted", " is refused",        " is resized to ",
      " stays as it is", " is to move",   " has moved",  " stays where it is", " has another pace"};
  const size_t kind = static_cast<size_t>(change.kind);
  const ClusterEngine& engine = *context.state.cluster.engine;
  const ClusterJob& job = engine.job(change.job);
  const bool placed = change.kind == ChangeKind::kStart || change.kind == ChangeKind::kResize;
  Emit(context, kKinds[kind], job.spec.key,
       absl::StrCat(job.spec.key, kVerbs[kind], placed ? engine.devices().Words(job.placement) : "",
                    ": ", change.reason),
       {{"revision", job.revision}, {"devices", job.devices()}});
}

void Resync(Context& context, const std::string& name, NodeLink& link) {
  const ClusterEngine& engine = *context.state.cluster.engine;
  const NodeIndex node = engine.devices().IndexOf(name);
  std::set<std::string> told;
  for (const JobIndex index : engine.jobs_on(node)) {
    told.insert(engine.job(index).spec.key);
    SendAllocation(context, name, AllocationOf(engine, index, name));
  }
  for (const std::string& key : std::exchange(link.held, {})) {
    if (told.contains(key)) continue;
    const JobIndex index = engine.Find(key);
    SendAllocation(context, name,
                   index.value() >= 0 ? AllocationOf(engine, index, name)
                                      : wire::Allocation{.key = key,
                                                         .state = wire::AllocationState::kEnd,
                                                         .reason = "no open job has this key"});
  }
}

void ResyncAll(Context& context) {
  ClusterState& cluster = context.state.cluster;
  for (const std::string& name : std::exchange(cluster.resync, {}))
    Resync(context, name, cluster.nodes[name]);
}

/// One decision and all that follows from it.
void Decide(Context& context, double now_s) {
  ClusterState& cluster = context.state.cluster;
  const auto changes = Tell(context, {.kind = ClusterInputKind::kDecide, .now_s = now_s});
  if (!changes.ok()) return;  // the clock stands: the next one is later
  ++cluster.decisions;
  for (const ClusterChange& change : *changes) {
    Report(context, change);
    if (change.kind != ChangeKind::kPutOff) TellNodes(context, change.job);
  }
  const std::string lines = cluster.engine->TakeLog();
  if (!lines.empty()) context.effects.push_back(AppendLog{lines});
  ResyncAll(context);
}

wire::Value::Map StateRecord(const ClusterEngine& engine, JobIndex index) {
  const ClusterJob& job = engine.job(index);
  return {{"key", job.spec.key},
          {"state", engine.view(index).state == JobState::kRunning ? "running" : "waiting"},
          {"revision", job.revision},
          {"text", absl::StrCat(job.spec.key, ": ", job.reason)}};
}

}  // namespace

double ClusterState::NowAt(int64_t mono_ns) const {
  // Whole milliseconds: the same in the journal, in the log and in people's eyes.
  const double passed_s = static_cast<double>((mono_ns - base_ns) / 1'000'000) / 1000;
  return std::max(engine ? engine->now_s() : 0, base_s + passed_s);
}

void OnJoin(Context& context, PeerId id, uint64_t request_id, const wire::Join& join) {
  ClusterState& cluster = context.state.cluster;
  absl::Status status = Serving(cluster);
  if (status.ok() && join.devices > kNodeDevicesMax)
    status = absl::InvalidArgumentError(absl::StrCat("a node has at most ", kNodeDevicesMax));
  const int devices = static_cast<int>(std::min(join.devices, kNodeDevicesMax));
  ClusterInput input = {.kind = ClusterInputKind::kNode,
                        .node = join.node,
                        .devices = devices,
                        .memory_gib = std::max(0.0, join.memory_gib)};
  if (status.ok()) {
    input.now_s = Now(context);
    status = cluster.engine->Check(input);
  }
  if (!status.ok()) return Refuse(context, id, request_id, status);
  NodeLink& link = cluster.nodes[join.node];
  if (link.peer.value() >= 0 && link.peer != id) {
    context.effects.push_back(Close{link.peer, "the node connected again"});
  }
  link.peer = id;
  link.incarnation = join.incarnation;
  link.lease_until_ns = context.now.mono_ns + cluster.settings.lease_ms * 1'000'000;
  cluster.resync.insert(join.node);
  link.unanswered.clear();
  link.held.clear();
  if (const auto* held = join.held.As<wire::Value::Array>()) {
    for (const wire::Value& entry : *held) link.held.push_back(entry.Text("key"));
  }
  const ClusterDevices::Node* node = cluster.engine->devices().Find(join.node);
  if (node == nullptr || !node->works || node->devices != devices) {
    Tell(context, input).IgnoreError();  // it was checked
    Emit(context, "node_joined", "",
         absl::StrCat("node ", join.node, " offers ", devices, " devices"),
         {{"node", join.node}, {"devices", devices}});
  }
  context.state.peers[id].node = join.node;
  context.effects.push_back(
      Send{id, wire::Lease{.lease_ms = cluster.settings.lease_ms}, request_id});
}

void OnLease(Context& context, PeerId id, uint64_t request_id, const wire::Lease& lease) {
  ClusterState& cluster = context.state.cluster;
  const auto found = cluster.nodes.find(context.state.peers[id].node);
  if (found == cluster.nodes.end() || found->second.peer != id) {
    return Refuse(context, id, request_id, absl::InvalidArgumentError("join before you renew"));
  }
  const ClusterDevices::Node* node = cluster.engine->devices().Find(found->first);
  if (node == nullptr || !node->works) {  // its lease was over: it says anew what it runs
    context.effects.push_back(Close{id, "its lease was over"});
    return;
  }
  found->second.lease_until_ns = context.now.mono_ns + cluster.settings.lease_ms * 1'000'000;
  context.effects.push_back(
      Send{id, wire::Lease{.seq = lease.seq, .lease_ms = cluster.settings.lease_ms}, request_id});
}

absl::StatusOr<JobSpec> SpecOf(const wire::Submit& submit, double now_s) {
  constexpr int64_t kDevicesMax = 1 << 24;
  std::shared_ptr<const sched::JobProfile> profile;
  if (submit.profile) {
    TIDE_ASSIGN_OR_RETURN(auto read, ProfileFromValue(*submit.profile));
    profile = std::make_shared<const sched::JobProfile>(std::move(read));
  }
  return JobSpec{.key = submit.key,
                 .user = submit.user,
                 .group = submit.group,
                 .devices = static_cast<int>(std::min(submit.devices, kDevicesMax)),
                 .devices_max = static_cast<int>(std::min(submit.devices_max, kDevicesMax)),
                 .estimate_s = submit.estimate_s,
                 .deadline_s = submit.deadline_s > 0 ? now_s + submit.deadline_s : sched::kNever,
                 .tier = static_cast<sched::JobTier>(submit.tier),
                 .movable = submit.movable,
                 .profile = std::move(profile)};
}

void OnSubmit(Context& context, PeerId id, uint64_t request_id, const wire::Submit& submit) {
  ClusterState& cluster = context.state.cluster;
  if (absl::Status status = Serving(cluster); !status.ok())
    return Refuse(context, id, request_id, status);
  const double now_s = Now(context);
  const absl::StatusOr<JobSpec> spec = SpecOf(submit, now_s);
  if (!spec.ok()) return Refuse(context, id, request_id, spec.status());
  if (submit.preview) {
    auto preview = PreviewClusterJob(cluster, submit.key, &*spec);
    return preview.ok() ? Reply(context, id, request_id, *std::move(preview))
                        : Refuse(context, id, request_id, preview.status());
  }
  const ClusterInput input = {.kind = ClusterInputKind::kSubmit, .now_s = now_s, .spec = *spec};
  const JobIndex known = cluster.engine->Find(submit.key);
  if (known.value() >= 0) {  // asked again after a lost answer
    const JobSpec& open = cluster.engine->job(known).spec;
    if (open.user == submit.user && open.devices == submit.devices)
      return Reply(context, id, request_id, StateRecord(*cluster.engine, known));
  }
  const auto told = Tell(context, input);
  if (!told.ok()) return Refuse(context, id, request_id, told.status());
  Reply(context, id, request_id, StateRecord(*cluster.engine, cluster.engine->Find(submit.key)));
}

void OnFinish(Context& context, PeerId id, uint64_t request_id, const wire::Finish& finish) {
  ClusterState& cluster = context.state.cluster;
  if (absl::Status status = Serving(cluster); !status.ok())
    return Refuse(context, id, request_id, status);
  const JobIndex index = cluster.engine->Find(finish.key);
  const auto told =
      Tell(context,
           {.kind = ClusterInputKind::kFinish, .now_s = Now(context), .spec = {.key = finish.key}});
  if (!told.ok()) return Refuse(context, id, request_id, told.status());
  Emit(context, "cluster_finish", finish.key,
       absl::StrCat(finish.key, " has ended with exit code ", finish.exit_code),
       {{"exit_code", finish.exit_code}});
  TellNodes(context, index);
  Reply(context, id, request_id, {{"key", finish.key}});
}

void OnAdvance(Context& context, PeerId id, uint64_t request_id, const wire::Advance& advance) {
  ClusterState& cluster = context.state.cluster;
  absl::Status status = Serving(cluster);
  if (status.ok() && !cluster.settings.virtual_clock)
    status = absl::InvalidArgumentError("this coordinator's clock is the machine's");
  const ClusterInput input = {.kind = ClusterInputKind::kDecide, .now_s = advance.now_s};
  if (status.ok()) status = cluster.engine->Check(input);
  if (!status.ok()) return Refuse(context, id, request_id, status);
  cluster.virtual_s = advance.now_s;
  if (advance.decide && cluster.engine->Due(advance.now_s)) {
    Decide(context, advance.now_s);
  } else if (advance.decide) {
    ResyncAll(context);
  }
  wire::Value::Map data = {{"now_s", cluster.engine->now_s()}};
  const double wake_s = cluster.engine->wake_s();
  if (wake_s != sched::kNever) data.emplace_back("wake_s", wake_s);
  Reply(context, id, request_id, std::move(data));
}

void OnAllocationAck(Context& context, PeerId id, const wire::AllocationAck& ack) {
  const auto found = context.state.cluster.nodes.find(context.state.peers[id].node);
  // What still comes over a link that was replaced says nothing of who the node is now.
  if (found == context.state.cluster.nodes.end() || found->second.peer != id) return;
  auto& unanswered = found->second.unanswered;
  const auto sent = unanswered.find(ack.key);
  if (sent != unanswered.end() && sent->second.revision == ack.revision) unanswered.erase(sent);
}

void OnClusterReport(Context& context, const wire::Report& report) {
  ClusterState& cluster = context.state.cluster;
  if (!cluster.engine) return;
  const JobIndex index = cluster.engine->Find(report.key);
  if (index.value() < 0) return;  // it ended meanwhile
  JobFigures& figures = cluster.figures[static_cast<size_t>(index.value())];
  figures.iterations = report.iterations;
  figures.resident = report.resident;
  figures.demoted = report.demoted;
  figures.step_ms = report.step_ms;
  ++figures.reports;
  ++cluster.reports;
}

void OnReserve(Context& context, PeerId id, uint64_t request_id, const wire::Reserve& reserve) {
  if (absl::Status status = Serving(context.state.cluster); !status.ok())
    return Refuse(context, id, request_id, status);
  const double now_s = Now(context);
  const Reservation reservation = {
      .name = reserve.name,
      .user = reserve.user,
      .devices = static_cast<int>(std::min<int64_t>(reserve.devices, 1 << 24)),
      .from_s = now_s + std::max(0.0, reserve.from_s),
      .to_s = now_s + std::max(0.0, reserve.from_s) + std::max(reserve.for_s, 1.0)};
  const auto told = Tell(
      context, {.kind = ClusterInputKind::kReserve, .now_s = now_s, .reservation = reservation});
  if (!told.ok()) return Refuse(context, id, request_id, told.status());
  std::string text = reservation.devices > 0
                         ? absl::StrCat(reservation.devices, " devices are reserved as ",
                                        reservation.name, " for ", reservation.user, " in ",
                                        Span(absl::Seconds(reservation.from_s - now_s)), " for ",
                                        Span(absl::Seconds(reservation.to_s - reservation.from_s)))
                         : absl::StrCat("the reservation ", reservation.name, " is lifted");
  Emit(context, "reservation", "", text);
  Reply(context, id, request_id, {{"text", std::move(text)}});
}

void OnMove(Context& context, PeerId id, uint64_t request_id, const wire::Move& move) {
  ClusterState& cluster = context.state.cluster;
  if (absl::Status status = Serving(cluster); !status.ok())
    return Refuse(context, id, request_id, status);
  const bool unsaid = move.step == wire::MoveStep::kAsk && move.reason.empty();
  const auto told = Tell(context, {.kind = ClusterInputKind::kMove,
                                   .now_s = Now(context),
                                   .spec = {.key = move.key},
                                   .node = move.to,
                                   .step = move.step,
                                   .revision = move.revision,
                                   .reason = unsaid ? "`tide move` asked for it" : move.reason});
  if (!told.ok()) return Refuse(context, id, request_id, told.status());
  Reply(context, id, request_id, *ClusterPlacement(cluster, move.key));
}

void OnDrain(Context& context, PeerId id, uint64_t request_id, const wire::Drain& drain) {
  ClusterState& cluster = context.state.cluster;
  if (absl::Status status = Serving(cluster); !status.ok())
    return Refuse(context, id, request_id, status);
  const auto told = Tell(context, {.kind = ClusterInputKind::kDrain,
                                   .now_s = Now(context),
                                   .node = drain.node,
                                   .drains = !drain.undo});
  if (!told.ok()) return Refuse(context, id, request_id, told.status());
  const std::set<JobIndex>& jobs =
      cluster.engine->jobs_on(cluster.engine->devices().IndexOf(drain.node));
  const auto movable = std::count_if(jobs.begin(), jobs.end(), [&](JobIndex index) {
    return cluster.engine->job(index).spec.movable;
  });
  std::string text =
      drain.undo ? absl::StrCat("node ", drain.node, " takes jobs again")
                 : absl::StrCat("node ", drain.node, " is being emptied: nothing is placed there, ",
                                movable, " of its ", jobs.size(),
                                " jobs move when there is room elsewhere, the others end there");
  Emit(context, drain.undo ? "node_undrained" : "node_drained", "", text, {{"node", drain.node}});
  Reply(context, id, request_id,
        {{"node", drain.node}, {"jobs", jobs.size()}, {"text", std::move(text)}});
}

bool OnClusterQuery(Context& context, PeerId id, uint64_t request_id, const wire::Query& query) {
  const ClusterState& cluster = context.state.cluster;
  const bool explain = query.what == "explain" && context.state.FindJob(query.job) == nullptr;
  const bool placement = query.what == "placement";
  const bool trace = query.what == "trace";
  const bool knows = query.what == "cluster" || query.what == "preview" || placement || trace;
  if (!knows && !explain) return false;
  if (!cluster.engine && PassUp(context, id, request_id, query)) return true;
  if (query.what == "cluster") {
    Reply(context, id, request_id, ClusterRecord(cluster));
    return true;
  }
  if (trace) {
    const absl::Status serving = Serving(cluster);
    serving.ok() ? Reply(context, id, request_id, ClusterTrace(*cluster.engine, query.since))
                 : Refuse(context, id, request_id, serving);
    return true;
  }
  auto data = explain     ? ExplainClusterJob(cluster, query.job)
              : placement ? ClusterPlacement(cluster, query.job)
                          : PreviewClusterJob(cluster, query.job, nullptr);
  if (explain && !data.ok()) return false;
  if (explain)
    data->emplace_back("events", EventsOf(context.state, query.job, -1, kEventsExplained));
  data.ok() ? Reply(context, id, request_id, *std::move(data))
            : Refuse(context, id, request_id, data.status());
  return true;
}

void OnNodeClosed(Context& context, PeerId id, const std::string& node) {
  const auto found = context.state.cluster.nodes.find(node);
  if (found == context.state.cluster.nodes.end() || found->second.peer != id) return;
  found->second.peer = PeerId();
  Emit(context, "node_silent", "",
       absl::StrCat("the link to node ", node, " is down; its grants hold until its lease ends"),
       {{"node", node}});
}

void DecideCluster(Context& context) {
  ClusterState& cluster = context.state.cluster;
  if (!cluster.engine || cluster.settings.virtual_clock) return;
  const double now_s = Now(context);
  if (cluster.engine->Due(now_s)) return Decide(context, now_s);
  ResyncAll(context);
}

void TickCluster(Context& context) {
  ClusterState& cluster = context.state.cluster;
  if (!cluster.engine) return;
  for (auto& [name, link] : cluster.nodes) {
    const ClusterDevices::Node* node = cluster.engine->devices().Find(name);
    const bool over = !cluster.settings.virtual_clock &&  // its leases would be of another time
                      link.lease_until_ns <= context.now.mono_ns;
    if (node != nullptr && node->works && over) {
      Emit(context, "node_lost", "",
           absl::StrCat("node ", name, " was silent for ",
                        Span(absl::Milliseconds(cluster.settings.lease_ms)),
                        ": its lease is over, its jobs wait for other devices"),
           {{"node", name}});
      Tell(context, {.kind = ClusterInputKind::kNode,
                     .now_s = Now(context),
                     .node = name,
                     .devices = node->devices,
                     .works = false})
          .IgnoreError();
    }
    if (link.peer.value() < 0) continue;
    for (auto& [key, sent] : link.unanswered) {
      if (context.now.mono_ns - sent.sent_ns < kRepeatNs) continue;
      const JobIndex index = cluster.engine->Find(key);
      sent.sent_ns = context.now.mono_ns;
      context.effects.push_back(Send{
          link.peer, index.value() >= 0 ? AllocationOf(*cluster.engine, index, name)
                                        : wire::Allocation{.key = key,
                                                           .revision = sent.revision,
                                                           .state = wire::AllocationState::kEnd,
                                                           .reason = "it has ended"}});
    }
  }
}

}  // namespace tide::coordinator
