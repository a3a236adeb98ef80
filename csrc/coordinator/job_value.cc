// Jobs as MessagePack values for the journal.
#include "coordinator/journal.h"

namespace tide::coordinator {
namespace {

wire::Value::Map SettingsToValue(const Settings& settings) {
  return {{"limit", settings.limit_bytes},
          {"guaranteed", settings.guaranteed_bytes},
          {"priority", wire::Word(settings.priority)},
          {"weight", settings.weight}};
}

Settings SettingsFromValue(const wire::Value* value) {
  Settings settings;
  if (value == nullptr) return settings;
  settings.limit_bytes = value->Int("limit");
  settings.guaranteed_bytes = value->Int("guaranteed");
  settings.weight = value->Float("weight", 1);
  const auto priority = wire::ParsePriority(value->Text("priority"));
  if (priority.ok()) settings.priority = *priority;
  return settings;
}

}  // namespace

wire::Value::Map JobToValue(const Job& job) {
  wire::Value::Map map = {{"id", job.id.value()},
                          {"name", job.name},
                          {"script", job.script},
                          {"pid", job.pid},
                          {"start_time", job.start_time},
                          {"token", job.token},
                          {"started", job.started},
                          {"wanted", SettingsToValue(job.wanted)},
                          {"applied", SettingsToValue(job.applied)},
                          {"revision", job.revision},
                          {"settled_revision", job.settled_revision},
                          {"paused", job.paused},
                          {"paused_since", job.paused_since},
                          {"paused_by", job.paused_by}};
  if (job.exit) {
    wire::Value::Map exit = {{"time", job.exit->time}};
    if (job.exit->code) exit.emplace_back("code", *job.exit->code);
    if (job.exit->signal) exit.emplace_back("signal", *job.exit->signal);
    map.emplace_back("exit", std::move(exit));
  }
  return map;
}

Job JobFromValue(const wire::Value& value) {
  Job job;
  job.id = JobId(value.Int("id", -1));
  job.name = value.Text("name");
  job.script = value.Text("script");
  job.pid = value.Int("pid");
  job.start_time = value.Int("start_time");
  job.token = value.Int("token");
  job.started = value.Float("started");
  job.wanted = SettingsFromValue(value.Find("wanted"));
  job.applied = SettingsFromValue(value.Find("applied"));
  job.revision = value.Int("revision");
  job.settled_revision = value.Int("settled_revision");
  job.paused = value.Bool("paused");
  job.paused_since = value.Float("paused_since");
  job.paused_by = value.Text("paused_by");
  if (const wire::Value* exit = value.Find("exit")) {
    job.exit = Exit{.time = exit->Float("time")};
    if (exit->Find("code") != nullptr) job.exit->code = exit->Int("code");
    if (exit->Find("signal") != nullptr) job.exit->signal = exit->Int("signal");
  }
  return job;
}

}  // namespace tide::coordinator
