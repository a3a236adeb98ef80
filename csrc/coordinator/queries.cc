// Queries of the command line: ps, status, explain, events, history, config.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/options.h"
#include "coordinator/decide.h"
#include "coordinator/explain.h"
#include "coordinator/records.h"

namespace tide::coordinator {
namespace {

constexpr int64_t kEventsAnswered = 1000;

/// A job of this machine or of the cluster, also one of which only events are left.
bool IsKnown(const State& state, const std::string& job) {
  const ClusterEngine* engine = state.cluster.engine.get();
  return state.FindJob(job) != nullptr || (engine != nullptr && engine->Find(job).value() >= 0) ||
         std::any_of(state.events.begin(), state.events.end(),
                     [&](const wire::Event& event) { return event.job == job; });
}

void OnEvents(Context& context, PeerId peer, uint64_t request_id, const wire::Query& query) {
  State& state = context.state;
  if (!query.job.empty() && !IsKnown(state, query.job)) {
    return ReplyError(context, peer, request_id, NoSuchJob(state, query.job));
  }
  const int64_t count = query.count > 0 ? std::min(query.count, kEventsAnswered) : kEventsAnswered;
  Reply(context, peer, request_id,
        {{"events", EventsOf(state, query.job, query.since, static_cast<size_t>(count))},
         {"last_seq", state.next_seq - 1}});
  if (query.follow) state.followers[peer] = Follow{request_id, query.job};
}

void OnExplain(Context& context, PeerId peer, uint64_t request_id, const wire::Query& query) {
  const Job* job = context.state.FindJob(query.job);
  if (job == nullptr)
    return ReplyError(context, peer, request_id, NoSuchJob(context.state, query.job));
  const DeviceView view = context.device.Read();
  Explanation why = Explain(context.state, *job, view, context.now);
  const auto texts = [](std::vector<std::string>& from) {
    wire::Value::Array array;
    for (std::string& text : from) array.emplace_back(std::move(text));
    return array;
  };
  Reply(context, peer, request_id,
        {{"job", job->name},
         {"state", why.state},
         {"reason", why.reason},
         {"text", absl::StrCat(job->name, ": ", why.text)},
         {"ahead", texts(why.ahead)},
         {"advice", texts(why.advice)},
         {"numbers", std::move(why.numbers)},
         {"events", EventsOf(context.state, job->name, -1, kEventsExplained)}});
}

void OnConfig(Context& context, PeerId peer, uint64_t request_id) {
  wire::Value::Array options;
  for (const OptionInfo& option : OptionTable()) {
    const auto value = GetOption(option.name);
    if (!value.ok()) continue;
    options.push_back(wire::Value(wire::Value::Map{{"name", option.name},
                                                   {"variable", option.variable},
                                                   {"value", value->text},
                                                   {"origin", value->origin},
                                                   {"unit", option.unit},
                                                   {"reason", option.reason}}));
  }
  Reply(context, peer, request_id, {{"options", std::move(options)}});
}

}  // namespace

wire::Value::Array EventsOf(const State& state, const std::string& job, int64_t since,
                            size_t count) {
  wire::Value::Array newest_first;
  for (auto it = state.events.rbegin(); it != state.events.rend() && newest_first.size() < count;
       ++it) {
    if (it->seq <= since) break;
    if (job.empty() || it->job == job) newest_first.push_back(wire::Value(wire::EventRecord(*it)));
  }
  std::reverse(newest_first.begin(), newest_first.end());
  return newest_first;
}

void OnQuery(Context& context, PeerId peer, uint64_t request_id, const wire::Query& query) {
  if (query.what == "ps") {
    return Reply(context, peer, request_id,
                 {{"jobs", JobRecords(context.state, context.device.Read(), context.now)}});
  }
  if (query.what == "status") {
    return Reply(context, peer, request_id,
                 StatusRecord(context.state, context.device.Read(), context.now));
  }
  if (OnClusterQuery(context, peer, request_id, query)) return;
  if (query.what == "explain") return OnExplain(context, peer, request_id, query);
  if (query.what == "history") {
    return Reply(context, peer, request_id, context.state.history.Answer(query.since, query.count));
  }
  if (query.what == "events") return OnEvents(context, peer, request_id, query);
  if (query.what == "config") return OnConfig(context, peer, request_id);
  ReplyError(
      context, peer, request_id,
      {"invalid", absl::StrCat("no query is named \"", wire::Utf8Prefix(query.what, 40), "\""),
       "queries: ps, status, explain, events, history, config, cluster, placement, preview, trace"});
}

}  // namespace tide::coordinator
