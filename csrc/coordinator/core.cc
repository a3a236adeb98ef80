// Decide, journal, act.
#include "coordinator/core.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"

namespace tide::coordinator {

Context Core::MakeContext() {
  return {state_, Moment{parts_.clock.Now(), parts_.clock.MonotonicNanos()}, parts_.device,
          effects_};
}

absl::Status Core::Start(int64_t daemon_pid) {
  TIDE_ASSIGN_OR_RETURN(JournalContent content, parts_.journal.Load());
  const absl::Time now = parts_.clock.Now();
  // Unix milliseconds keep both growing even when the journal was lost.
  state_.generation = std::max(content.generation + 1, absl::ToUnixMillis(now));
  state_.next_order_id = std::max(content.next_order_id, absl::ToUnixMillis(now));
  state_.next_job_id = content.next_job_id;
  state_.next_seq = content.next_seq;
  state_.started = now;
  state_.daemon_pid = daemon_pid;
  state_.events.assign(std::make_move_iterator(content.events.begin()),
                       std::make_move_iterator(content.events.end()));
  if (const std::string seen = parts_.edges.ReadHistory(); !seen.empty()) {
    if (const absl::Status read = state_.history.Restore(seen); !read.ok())
      Log(LogLevel::kWarning, absl::StrCat("event=history_lost reason=\"", read.message(), "\""));
  }
  std::vector<JobId> alive;
  for (Job& job : content.jobs) {
    if (job.live() && parts_.edges.Alive(job.pid, job.start_time)) alive.push_back(job.id);
    state_.jobs[job.id] = std::move(job);
  }
  Context context = MakeContext();
  if (cluster_) {
    TIDE_RETURN_IF_ERROR(RestoreCluster(context, *cluster_, content.cluster));
    parts_.edges.CutDecisionLog(content.log_bytes);
  }
  OnRestored(context, alive);
  return Flush();
}

void Core::Connected(PeerId peer, int64_t pid, bool remote) {
  Context context = MakeContext();
  OnConnected(context, peer, pid, remote);
}

void Core::Received(PeerId peer, const wire::Frame& frame) {
  Context context = MakeContext();
  const auto message = wire::DecodeMessage(frame);
  if (!message.ok()) return OnBadFrame(context, peer, frame.request_id, message.status());
  OnMessage(context, peer, frame.request_id, *message);
}

void Core::Broken(PeerId peer, const absl::Status& why) {
  Context context = MakeContext();
  OnBadFrame(context, peer, 0, why);
}

void Core::Closed(PeerId peer) {
  Context context = MakeContext();
  OnClosed(context, peer);
}

void Core::ProcessEnded(JobId job, ExitStatus status) {
  Context context = MakeContext();
  OnProcessEnded(context, job, status);
}

void Core::UplinkOpen() {
  Context context = MakeContext();
  OnUplinkOpen(context);
}

void Core::UplinkFrame(const wire::Frame& frame) {
  Context context = MakeContext();
  const auto message = wire::DecodeMessage(frame);
  if (message.ok()) OnUplinkFrame(context, frame.request_id, *message);
}

void Core::UplinkLost(const std::string& why) {
  Context context = MakeContext();
  OnUplinkLost(context, why);
}

std::optional<HttpBody> Core::Http(const HttpQuestion& question) {
  return StatusAnswer(state_, parts_.device.Read(),
                      Moment{parts_.clock.Now(), parts_.clock.MonotonicNanos()}, question);
}

void Core::RunTick() {
  Context context = MakeContext();
  Tick(context);
  const int64_t now_ms = absl::ToUnixMillis(context.now.wall);
  if (state_.history.Due(now_ms)) state_.history.Look(state_, parts_.device.Read(), now_ms);
}

bool Core::ClusterIsDue() const {
  const ClusterState& cluster = state_.cluster;
  if (!cluster.engine || cluster.settings.virtual_clock) return false;
  return !cluster.resync.empty() ||
         cluster.engine->Due(cluster.NowAt(parts_.clock.MonotonicNanos()));
}

absl::Status Core::Flush() {
  if (state_.cluster.engine) {  // all that came together is one decision
    Context context = MakeContext();
    DecideCluster(context);
  }
  if (effects_.empty()) return absl::OkStatus();
  Effects effects = std::exchange(effects_, {});
  JournalBatch batch;
  batch.generation = state_.generation;
  batch.next_job_id = state_.next_job_id;
  batch.next_order_id = state_.next_order_id;
  for (Effect& effect : effects) {
    if (auto* save = std::get_if<SaveJob>(&effect)) batch.jobs.push_back(std::move(save->job));
    if (auto* forget = std::get_if<ForgetJob>(&effect)) batch.forgotten.push_back(forget->id);
    if (auto* event = std::get_if<SaveEvent>(&effect))
      batch.events.push_back(std::move(event->event));
    if (auto* input = std::get_if<SaveInput>(&effect))
      batch.inputs.emplace_back(input->seq, std::move(input->row));
    if (auto* log = std::get_if<AppendLog>(&effect))
      batch.log_bytes = parts_.edges.AppendDecisionLog(log->lines);
  }
  batch.snapshot = TakeClusterSnapshot(state_.cluster);
  if (!batch.empty()) TIDE_RETURN_IF_ERROR(parts_.journal.Commit(batch));
  for (const wire::Event& event : batch.events) {
    Log(LogLevel::kInfo, absl::StrCat("event=", event.kind, " seq=", event.seq, " job=\"",
                                      event.job, "\" text=\"", event.text, "\""));
  }
  for (Effect& effect : effects) Act(effect);
  return absl::OkStatus();
}

void Core::Act(Effect& effect) {
  Edges& edges = parts_.edges;
  if (auto* send = std::get_if<Send>(&effect)) {
    const uint64_t generation = static_cast<uint64_t>(state_.generation);
    auto frame = wire::EncodeMessage(std::move(send->message), send->request_id, generation);
    if (!frame.ok()) {
      frame = wire::EncodeMessage(
          wire::Answer{
              .ok = false,
              .error = wire::AnswerError{"too_large", std::string(frame.status().message()),
                                         "ask for less: name a job, or a smaller count"}},
          send->request_id, generation);
    }
    if (frame.ok()) edges.SendTo(send->peer, *frame);
  } else if (auto* up = std::get_if<SendUp>(&effect)) {
    const auto frame = wire::EncodeMessage(std::move(up->message), up->request_id, 0);
    if (frame.ok()) edges.SendUp(*frame);
  } else if (auto* close = std::get_if<Close>(&effect)) {
    edges.ClosePeer(close->peer, close->reason);
  } else if (auto* watch = std::get_if<WatchProcess>(&effect)) {
    edges.Watch(*watch);
  } else if (auto* unwatch = std::get_if<UnwatchProcess>(&effect)) {
    edges.Unwatch(unwatch->job);
  } else if (auto* policy = std::get_if<SetLanePolicy>(&effect)) {
    edges.WriteLanePolicy(policy->lane, policy->policy);
  } else if (std::holds_alternative<ReapDead>(effect)) {
    edges.ReapDeadSlots();
  } else if (auto* stop = std::get_if<Stop>(&effect)) {
    edges.StopDaemon(stop->reason);
  }
}

}  // namespace tide::coordinator
