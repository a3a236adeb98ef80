// Registration, re-attachment and the end of jobs.
#include "coordinator/registration.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/text.h"

namespace tide::coordinator {
namespace {

/// The live job that this registration means, or nullptr when it is a new one.
Job* Known(State& state, const wire::Register& registration) {
  const auto same_process = [&](const Job& job) {
    return job.live() && job.pid == registration.pid && job.start_time == registration.start_time;
  };
  Job* by_id = registration.job_id != 0 ? state.FindJob(JobId(registration.job_id)) : nullptr;
  if (by_id != nullptr && same_process(*by_id)) return by_id;
  if (registration.token == 0) return nullptr;
  for (auto& [id, job] : state.jobs) {
    if (job.token == registration.token && same_process(job)) return &job;
  }
  return nullptr;
}

Settings SettingsOf(const wire::Register& registration) {
  return {.limit_bytes = registration.max_bytes,
          .guaranteed_bytes = registration.min_bytes,
          .priority = registration.priority};
}

Job& Create(Context& context, const wire::Register& registration) {
  State& state = context.state;
  const JobId id(state.next_job_id++);
  Job& job = state.jobs[id];
  job.id = id;
  job.name = UniqueName(state, registration.name);
  job.script = std::string(wire::Utf8Prefix(registration.script, 4096));
  job.pid = registration.pid;
  job.start_time = registration.start_time;
  job.token = registration.token;
  job.started = registration.started > 0 ? registration.started : context.now.unix_s();
  job.wanted = job.applied = SettingsOf(registration);
  // A job that served a daemon whose journal is lost goes on from the revision it has seen.
  job.revision = job.settled_revision = registration.revision;
  std::string text =
      absl::StrCat(job.name, " started: pid ", job.pid, ", limit ", Limit(job.wanted.limit_bytes),
                   ", guaranteed ", Limit(job.wanted.guaranteed_bytes), ", priority ",
                   wire::Word(job.wanted.priority));
  if (job.name != registration.name)
    absl::StrAppend(&text, "; asked for the name ", registration.name);
  Emit(context, "job_started", job.name, std::move(text),
       {{"pid", job.pid},
        {"limit", job.wanted.limit_bytes},
        {"guaranteed", job.wanted.guaranteed_bytes},
        {"script", job.script}});
  return job;
}

void TakeOver(Context& context, Job& job, const wire::Register& registration) {
  const bool paused_elsewhere = job.paused != registration.paused;
  if (registration.revision > job.revision)
    job.revision = job.settled_revision = registration.revision;
  if (paused_elsewhere) {
    job.paused = registration.paused;
    job.paused_since = context.now.unix_s();
  }
  Emit(context, "job_reattached", job.name,
       absl::StrCat(job.name, " (pid ", job.pid, ") attached again with limit ",
                    Limit(job.wanted.limit_bytes), job.paused ? ", paused" : ""));
}

/// A new connection of a job replaces its old one.
void Attach(Context& context, Job& job, PeerId id, Peer& peer) {
  if (job.attached() && job.peer != id) {
    auto old = context.state.peers.find(job.peer);
    if (old != context.state.peers.end()) old->second.job = JobId();
    context.effects.push_back(Close{job.peer, "the job connected again"});
  }
  job.peer = id;
  peer.job = job.id;
}

void End(Context& context, Job& job, Exit exit, absl::string_view kind, std::string text) {
  const DeviceView view = context.device.Read();
  const SlotView* slot = view.Find(job.pid, static_cast<uint64_t>(job.start_time), job.slot);
  wire::Value::Map data = {{"pid", job.pid}};
  if (exit.code) data.emplace_back("code", *exit.code);
  if (exit.signal) data.emplace_back("signal", *exit.signal);
  if (slot != nullptr) {
    const int64_t freed = slot->resident_bytes() + slot->outside_bytes;
    const LaneView* lane = view.Lane(slot->lane);
    const bool had_turn = lane != nullptr && lane->holder == slot->index;
    absl::StrAppend(&text, " and ", slot->iterations, " iterations; its ", Size(freed),
                    had_turn ? " and its turn are free" : " are free");
    data.emplace_back("iterations", slot->iterations);
    data.emplace_back("freed_bytes", freed);
  }
  exit.time = context.now.unix_s();
  job.exit = exit;
  AbandonPending(context, job, text);
  Emit(context, kind, job.name, std::move(text), std::move(data));
  Save(context, job);
  job.peer = PeerId();
}

void DropOldEnded(Context& context) {
  std::vector<std::pair<double, JobId>> ended;
  for (const auto& [id, job] : context.state.jobs) {
    if (!job.live()) ended.push_back({job.exit->time, id});
  }
  if (ended.size() <= kEndedJobsKept) return;
  std::sort(ended.begin(), ended.end());
  ended.resize(ended.size() - kEndedJobsKept);
  for (const auto& [time, id] : ended) {
    context.effects.push_back(ForgetJob{id});
    context.state.jobs.erase(id);
  }
}

}  // namespace

void OnRegister(Context& context, PeerId id, Peer& peer, uint64_t request_id,
                const wire::Register& registration) {
  const auto refuse = [&](std::string code, std::string message, std::string advice) {
    ReplyError(context, id, request_id, {std::move(code), std::move(message), std::move(advice)});
    context.effects.push_back(Close{id, "registration refused"});
  };
  if (peer.pid != 0 && peer.pid != registration.pid) {
    return refuse(
        "not_permitted",
        absl::StrCat("process ", peer.pid, " may not register process ", registration.pid),
        "a job registers itself; a forked child starts a session of its own");
  }
  Job* job = Known(context.state, registration);
  if (job == nullptr && context.state.live_jobs() >= kLiveJobsMax) {
    return refuse("too_many", absl::StrCat(kLiveJobsMax, " jobs are registered already"),
                  "end some jobs");
  }
  if (job != nullptr) {
    TakeOver(context, *job, registration);
  } else {
    job = &Create(context, registration);
    job->paused = registration.paused;
    job->paused_since = job->paused ? context.now.unix_s() : 0;
    context.effects.push_back(WatchProcess{job->id, job->pid, job->start_time});
  }
  if (registration.slot >= 0) job->slot = static_cast<int>(registration.slot);
  Attach(context, *job, id, peer);
  Save(context, *job);
  context.effects.push_back(Send{id,
                                 wire::Welcome{.job_id = job->id.value(),
                                               .name = job->name,
                                               .generation = context.state.generation,
                                               .daemon_pid = context.state.daemon_pid},
                                 request_id});
  if (job->settled_revision < job->revision) SendGrant(context, *job);
  for (PendingOrder& order : context.state.orders) {
    if (order.job == job->id) SendOrder(context, *job, order);
  }
}

void OnBye(Context& context, Job& job, const wire::Bye& bye) {
  const absl::Duration lived = absl::Seconds(context.now.unix_s() - job.started);
  // Its process is watched on: what it holds is free when it has ended.
  End(context, job, Exit{.code = bye.exit_code}, "job_ended",
      absl::StrCat(job.name, " (pid ", job.pid, ") ended with exit code ", bye.exit_code, " after ",
                   Span(lived)));
  DropOldEnded(context);
}

void OnProcessEnded(Context& context, JobId id, ExitStatus status) {
  context.effects.push_back(UnwatchProcess{id});
  context.effects.push_back(ReapDead{});
  Job* job = context.state.FindJob(id);
  if (job == nullptr || !job->live()) return;
  const absl::Duration lived = absl::Seconds(context.now.unix_s() - job->started);
  std::string text = absl::StrCat(job->name, " (pid ", job->pid, ") ");
  const bool died = status.signal || (!status.code && !job->said_bye);
  if (status.signal) {
    const absl::string_view name = SignalName(*status.signal);
    absl::StrAppend(&text, "died (signal ", *status.signal, name.empty() ? "" : ", ", name, ")");
  } else if (status.code) {
    absl::StrAppend(&text, "ended with exit code ", *status.code);
  } else {
    absl::StrAppend(&text, "died (its parent took the reason)");
  }
  absl::StrAppend(&text, " after ", Span(lived));
  End(context, *job, Exit{.code = status.code, .signal = status.signal},
      died ? "job_died" : "job_ended", std::move(text));
  DropOldEnded(context);
}

void OnRestored(Context& context, const std::vector<JobId>& alive) {
  State& state = context.state;
  size_t live = 0;
  for (auto& [id, job] : state.jobs) {
    if (!job.live()) continue;
    if (std::find(alive.begin(), alive.end(), id) != alive.end()) {
      ++live;
      context.effects.push_back(WatchProcess{id, job.pid, job.start_time});
      continue;
    }
    job.exit = Exit{.time = context.now.unix_s()};
    Emit(context, "job_died", job.name,
         absl::StrCat(job.name, " (pid ", job.pid, ") ended while no daemon ran"),
         {{"pid", job.pid}});
    Save(context, job);
  }
  Emit(
      context, "daemon_started", "",
      absl::StrCat("tided (pid ", state.daemon_pid, ") started; ", live, " jobs are expected back"),
      {{"generation", state.generation}, {"pid", state.daemon_pid}});
  context.effects.push_back(ReapDead{});
  DropOldEnded(context);
}

}  // namespace tide::coordinator
