// Limits, guarantees, priorities and weights: commands become grants with revisions,
// acknowledgements end them.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "coordinator/decide.h"
#include "coordinator/text.h"

namespace tide::coordinator {
namespace {

constexpr int64_t kSettingBytesMax = int64_t{1} << 50;
constexpr int64_t kGrantRepeatNs = 2'000'000'000;
constexpr int64_t kDeferredRepeatNs =
    10'000'000'000;  // it answered once: its boundary may be far away
constexpr size_t kUnderWayMax = 16;

/// The value of the setting that `what` names, as people read it.
std::string Shown(absl::string_view what, const Settings& settings) {
  if (what == "limit") return Limit(settings.limit_bytes);
  if (what == "guaranteed") return Limit(settings.guaranteed_bytes);
  if (what == "priority") return std::string(wire::Word(settings.priority));
  return absl::StrCat(settings.weight);
}

wire::Value Raw(absl::string_view what, const Settings& settings) {
  if (what == "limit") return settings.limit_bytes;
  if (what == "guaranteed") return settings.guaranteed_bytes;
  if (what == "priority") return wire::Word(settings.priority);
  return settings.weight;
}

/// The settings after `command`. Errors: InvalidArgument naming the value and its range.
absl::StatusOr<Settings> Changed(Settings settings, const wire::Command& command) {
  if (command.what == "limit" || command.what == "guaranteed") {
    if (!command.bytes)
      return absl::InvalidArgumentError(absl::StrCat(command.what, " needs bytes"));
    if (*command.bytes < 0 || *command.bytes > kSettingBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat(command.what, " of ", *command.bytes,
                                                     " bytes is out of range; 0 (none) to ",
                                                     kSettingBytesMax));
    }
    (command.what == "limit" ? settings.limit_bytes : settings.guaranteed_bytes) = *command.bytes;
  } else if (command.what == "priority") {
    auto priority = wire::ParsePriority(command.priority);
    if (!priority.ok()) return priority.status();
    settings.priority = *priority;
  } else {
    if (!command.weight || !(*command.weight >= 0.001 && *command.weight <= 1000)) {
      return absl::InvalidArgumentError(
          absl::StrCat("weight ", command.weight.value_or(0), " is out of range; 0.001 to 1000"));
    }
    settings.weight = *command.weight;
  }
  if (settings.limit_bytes > 0 && settings.guaranteed_bytes > settings.limit_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a limit of ", Size(settings.limit_bytes), " is below the ",
        Size(settings.guaranteed_bytes), " that are guaranteed to the job; the old one stays"));
  }
  return settings;
}

/// A command of this kind that would be taken.
std::string Example(const wire::Command& command, const Job& job) {
  if (command.what == "priority") return absl::StrCat("tide priority ", job.name, " normal");
  if (command.what == "weight") return "a weight of 1";
  const int64_t least = std::max<int64_t>(job.wanted.guaranteed_bytes, int64_t{2} << 30);
  return absl::StrCat("tide ", command.what, " ", job.name, " ", (least + (1 << 20) - 1) >> 20,
                      "MiB");
}

std::string TextOf(const PendingChange& change, const Job& job, absl::string_view status) {
  const wire::GrantAck ack = change.last_ack.value_or(wire::GrantAck{});
  const std::string head =
      absl::StrCat(change.what, " of ", job.name, " ", Shown(change.what, change.previous), " -> ",
                   Shown(change.what, job.wanted));
  if (status == "applied") {
    if (ack.moved_bytes == 0) return absl::StrCat(head, ": applied");
    return absl::StrCat(head, ": applied, ", Size(ack.moved_bytes), " moved in ",
                        Span(absl::Milliseconds(ack.took_ms)));
  }
  if (status == "conflict") {
    const std::string parts = Parts(ack.parts);
    return absl::StrCat(head, ": refused by the job, ", Size(ack.overage_bytes),
                        " above it cannot move",
                        parts.empty() ? "" : absl::StrCat(" (", parts, ")"),
                        ack.text.empty() ? "" : absl::StrCat("; ", ack.text));
  }
  if (status == "deferred") return absl::StrCat(head, ": takes effect at the job's next boundary");
  if (status == "stale") return absl::StrCat(head, ": replaced by a newer change");
  return absl::StrCat(head, job.attached()
                                ? ": recorded; the job has not answered yet"
                                : ": recorded; the job applies it when it is connected again");
}

void Answer(Context& context, const PendingChange& change, const Job& job,
            absl::string_view status) {
  const wire::GrantAck ack = change.last_ack.value_or(wire::GrantAck{});
  const std::string text = TextOf(change, job, status);
  wire::Value::Map data = {{"job", job.name},
                           {"revision", change.revision},
                           {"status", status},
                           {change.what, Raw(change.what, job.wanted)},
                           {"previous", Raw(change.what, change.previous)},
                           {"overage_bytes", ack.overage_bytes},
                           {"moved_bytes", ack.moved_bytes},
                           {"took_ms", ack.took_ms},
                           {"parts", ack.parts},
                           {"text", text}};
  if (status != "conflict") {
    return Reply(context, change.waiter.peer, change.waiter.request_id, std::move(data));
  }
  ReplyError(context, change.waiter.peer, change.waiter.request_id,
             {"conflict", text,
              absl::StrCat("its ", change.what, " stays ", Shown(change.what, job.applied),
                           "; give at least what cannot move, or pause the job: `tide pause ",
                           job.name, "`")},
             std::move(data));
}

/// Answers and forgets the changes of `job` up to `revision`.
void AnswerUpTo(Context& context, Job& job, const wire::GrantAck& ack, absl::string_view status) {
  std::erase_if(context.state.changes, [&](PendingChange& change) {
    if (change.job != job.id || change.revision > ack.revision) return false;
    if (change.revision == ack.revision) change.last_ack = ack;
    Answer(context, change, job, change.revision == ack.revision ? status : "stale");
    return true;
  });
}

void RecordAck(Context& context, const Job& job, const wire::GrantAck& ack,
               const Settings& before) {
  const wire::Value::Map data = {
      {"revision", ack.revision},       {"status", wire::Word(ack.status)},
      {"moved_bytes", ack.moved_bytes}, {"overage_bytes", ack.overage_bytes},
      {"took_ms", ack.took_ms},         {"parts", ack.parts}};
  if (ack.status == wire::GrantStatus::kApplied) {
    Emit(context, "grant_applied", job.name,
         absl::StrCat(job.name, " holds to limit ", Limit(job.applied.limit_bytes), ": moved ",
                      Size(ack.moved_bytes), " in ", Span(absl::Milliseconds(ack.took_ms))),
         data);
  } else {
    const std::string parts = Parts(ack.parts);
    Emit(context, "limit_conflict", job.name,
         absl::StrCat(job.name, " cannot hold to limit ", Limit(before.limit_bytes), ": ",
                      Size(ack.overage_bytes), " above it cannot move",
                      parts.empty() ? "" : absl::StrCat(" (", parts, ")"), "; its limit stays ",
                      Limit(job.wanted.limit_bytes)),
         data);
  }
}

}  // namespace

void SendGrant(Context& context, Job& job) {
  if (!job.attached()) return;
  job.grant_sent_ns = context.now.mono_ns;
  context.effects.push_back(
      Send{job.peer, wire::Grant{.revision = job.revision,
                                 .max_bytes = job.wanted.limit_bytes,
                                 .guaranteed_bytes = job.wanted.guaranteed_bytes,
                                 .weight = job.wanted.weight,
                                 .priority = job.wanted.priority}});
}

void OnSettingsCommand(Context& context, const Waiter& waiter, Job& job,
                       const wire::Command& command) {
  const auto changed = Changed(job.wanted, command);
  if (!changed.ok()) {
    return ReplyError(context, waiter.peer, waiter.request_id,
                      {"invalid", std::string(changed.status().message()),
                       absl::StrCat("for instance: ", Example(command, job))});
  }
  PendingChange change{waiter, job.id, job.revision, command.what, job.wanted, std::nullopt};
  if (*changed == job.wanted) {
    if (job.settled_revision == job.revision) return Answer(context, change, job, "applied");
    if (!job.attached()) return Answer(context, change, job, "pending");
    context.state.changes.push_back(std::move(change));  // joins the one under way
    return;
  }
  const std::string previous = Shown(command.what, job.wanted);
  job.wanted = *changed;
  change.revision = ++job.revision;
  job.deferred = false;
  job.under_way.push_back({job.revision, job.wanted});
  if (job.under_way.size() > kUnderWayMax) job.under_way.erase(job.under_way.begin());
  Emit(context, absl::StrCat(command.what, "_changed"), job.name,
       absl::StrCat(command.what, " of ", job.name, " ", previous, " -> ",
                    Shown(command.what, job.wanted), ": ",
                    command.by.empty() ? absl::StrCat("`tide ", command.what, "`") : command.by,
                    " asked for it (revision ", job.revision, ")"),
       {{"revision", job.revision},
        {"value", Raw(command.what, job.wanted)},
        {"previous", Raw(command.what, change.previous)}});
  Save(context, job);
  if (!job.attached()) return Answer(context, change, job, "pending");
  SendGrant(context, job);
  context.state.changes.push_back(std::move(change));
}

void OnGrantAck(Context& context, Job& job, const wire::GrantAck& ack) {
  if (ack.revision > job.revision) return;  // of a daemon with another journal
  if (ack.status == wire::GrantStatus::kDeferred) {
    if (ack.revision == job.revision) job.deferred = true;
    for (PendingChange& change : context.state.changes) {
      if (change.job == job.id && change.revision == ack.revision) change.last_ack = ack;
    }
    return;
  }
  if (ack.status == wire::GrantStatus::kStale) {
    // The job has applied or refused something newer; an answer for that is on its way or was here.
    AnswerUpTo(context, job, ack, "stale");
    return;
  }
  if (ack.revision <= job.settled_revision) {
    AnswerUpTo(context, job, ack, wire::Word(ack.status));  // repeated
    return;
  }
  const Settings asked = job.wanted;
  job.settled_revision = ack.revision;
  Settings acked = job.wanted;
  for (const auto& [revision, settings] : job.under_way) {
    if (revision == ack.revision) acked = settings;
  }
  std::erase_if(job.under_way, [&](const auto& sent) { return sent.first <= ack.revision; });
  if (ack.revision == job.revision) job.deferred = false;
  if (ack.status == wire::GrantStatus::kApplied) {
    job.applied = acked;
    RecordAck(context, job, ack, asked);
    Save(context, job);
    return AnswerUpTo(context, job, ack, "applied");
  }
  AnswerUpTo(context, job, ack,
             "conflict");  // before the rollback: the answer names what was asked
  // What the job says it holds to, not what was last acknowledged: that acknowledgement may have
  // been lost.
  job.applied = acked;
  job.applied.limit_bytes = ack.max_bytes;
  job.applied.guaranteed_bytes = ack.guaranteed_bytes;
  if (ack.revision == job.revision) job.wanted = job.applied;
  RecordAck(context, job, ack, asked);
  Save(context, job);
}

void FollowOwnLimit(Context& context, Job& job, const wire::Report& report) {
  const int64_t revision = report.revision.value_or(0);
  const Settings before = job.wanted;
  const bool same =
      report.max_bytes == before.limit_bytes && report.guaranteed_bytes == before.guaranteed_bytes;
  // The same number with another limit: both took it at once, and the job has refused ours as
  // stale.
  const bool its_own = revision > job.revision || (revision > 0 && revision == job.revision &&
                                                   job.settled_revision < revision && !same);
  if (!its_own) return;
  job.revision = job.settled_revision = revision;
  job.deferred = false;
  job.under_way.clear();
  job.wanted.limit_bytes = report.max_bytes;
  job.wanted.guaranteed_bytes = report.guaranteed_bytes;
  job.applied = job.wanted;
  AnswerUpTo(context, job, {.revision = revision, .status = wire::GrantStatus::kStale}, "stale");
  if (!same) {
    Emit(
        context, "limit_changed", job.name,
        absl::StrCat("limit of ", job.name, " ", Limit(before.limit_bytes), " -> ",
                     Limit(report.max_bytes), ": its own process set it (revision ", revision, ")"),
        {{"revision", revision}, {"value", report.max_bytes}, {"previous", before.limit_bytes}});
  }
  Save(context, job);
}

void TickChanges(Context& context) {
  State& state = context.state;
  std::erase_if(state.changes, [&](const PendingChange& change) {
    if (change.waiter.deadline_ns > context.now.mono_ns) return false;
    const Job* job = state.FindJob(change.job);
    if (job != nullptr) Answer(context, change, *job, change.last_ack ? "deferred" : "pending");
    return true;
  });
  for (auto& [id, job] : state.jobs) {
    if (!job.live() || !job.attached() || job.settled_revision == job.revision) continue;
    const int64_t patience_ns = job.deferred ? kDeferredRepeatNs : kGrantRepeatNs;
    if (context.now.mono_ns - job.grant_sent_ns >= patience_ns) SendGrant(context, job);
  }
}

}  // namespace tide::coordinator
