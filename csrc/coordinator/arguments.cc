// Options of tided, one row each.
#include "coordinator/arguments.h"

#include <unistd.h>

#include <functional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/bytes.h"
#include "base/options.h"
#include "shm/runtime_dir.h"

namespace tide::coordinator {

const char kUsage[] =
    "usage: tided [--runtime-dir DIR] [--idle-exit-s SECONDS] [--foreground]\n"
    "             [--listen tcp://HOST:PORT | --join tcp://HOST:PORT] [--secret-file FILE] ...\n"
    "\n"
    "Serves the jobs of one user on this machine. Started by the first job or by `tide`; a second "
    "one of\n"
    "the same folder ends at once.\n"
    "  --runtime-dir DIR       where the socket, the journal and the log are; default: "
    "TIDE_RUNTIME_DIR,\n"
    "                          $XDG_RUNTIME_DIR/torchtide or /tmp/torchtide-UID\n"
    "  --idle-exit-s SECONDS   end when there was no job and no client for so long; 0: never; "
    "default 60\n"
    "  --foreground            stay in this terminal and log to it\n"
    "  --http HOST:PORT        status page, /api and /metrics; port 0: any; beyond loopback with\n"
    "  --http-token-file FILE  the token that a browser or a scraper must give\n"
    "\n"
    "As the coordinator of a cluster, or as one of its machines:\n"
    "  --listen tcp://HOST:PORT  serve a cluster there (port 0: any; see RUNTIME_DIR/cluster)\n"
    "  --join tcp://HOST:PORT    offer this machine's devices to a coordinator\n"
    "  --secret-file FILE        what both sides must know; mode 0600, at least 16 bytes\n"
    "  --tls-cert, --tls-key F   of the coordinator; required beyond loopback\n"
    "  --tls, --tls-ca FILE      of a machine: use TLS on loopback too; who signs the coordinator\n"
    "  --node NAME               this machine's name in the cluster; default: its host name\n"
    "  --devices N               what it offers; default 1\n"
    "  --device-memory SIZE      what each has, such as 80GiB, for policies that share devices\n"
    "  --policy NAME             cluster policy; default fifo\n"
    "  --policy-set NAME=VALUE   an option of the policy (seed, round_s, starvation_knob,\n"
    "                            restart_cost_s, profiler_gpus, profiler_limit_s); may be\n"
    "                            repeated\n"
    "  --min-run-s SECONDS       no job is preempted sooner after its start; default 0\n"
    "  --spread-speed SPEED      of a gang on more nodes than it needs, 0 to 1; default 1: nodes "
    "do\n"
    "                            not matter to the policy\n"
    "  --lease-s SECONDS         a machine silent for longer is lost; default 15\n"
    "  --user NAME:QUOTA:WEIGHT  devices a user may hold (0: any) and their share; repeated\n"
    "  --fair-share              admit jobs by least decayed use over weight\n"
    "  --half-life-s SECONDS     after which use counts half; default 604800\n"
    "  --decision-log FILE       a line a decision, as `tide simulate --log` writes\n"
    "  --virtual-clock           for replays: time is what Advance frames say\n";

namespace {

struct Option {
  const char* name;
  std::function<bool(const std::string& value)> set;
};

bool SetUser(absl::string_view value, ClusterOptions& options) {
  const std::vector<std::string> parts = absl::StrSplit(value, ':');
  UserRule rule;
  if (parts.size() < 2 || parts.size() > 3 || parts[0].empty()) return false;
  if (!absl::SimpleAtoi(parts[1], &rule.quota_devices) || rule.quota_devices < 0) return false;
  if (parts.size() == 3 && !absl::SimpleAtod(parts[2], &rule.weight)) return false;
  options.users[parts[0]] = rule;
  return rule.weight > 0;
}

bool SetPolicyOption(absl::string_view value, sched::ClusterPolicyOptions& options) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(value, absl::MaxSplits('=', 1));
  const auto& [name, number] = parts;
  if (name == "seed") return absl::SimpleAtoi(number, &options.seed);
  if (name == "round_s") return absl::SimpleAtod(number, &options.round_s);
  if (name == "starvation_knob") return absl::SimpleAtod(number, &options.starvation_knob);
  if (name == "restart_cost_s") return absl::SimpleAtod(number, &options.restart_cost_s);
  if (name == "profiler_gpus") return absl::SimpleAtoi(number, &options.profiler_gpus);
  if (name == "profiler_limit_s") return absl::SimpleAtod(number, &options.profiler_limit_s);
  return false;
}

std::string HostName() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name[0] == '\0' ? "node" : name;
}

std::vector<Option> Options(ServerOptions& server) {
  ClusterSettings& cluster = server.cluster;
  const auto text = [](std::string& field) {
    return [&field](const std::string& value) { return field = value, !value.empty(); };
  };
  const auto seconds = [](double& field) {
    return [&field](const std::string& value) {
      return absl::SimpleAtod(value, &field) && field >= 0 && field < 1e12;
    };
  };
  return {
      {"--runtime-dir", text(server.runtime_dir)},
      {"--idle-exit-s",
       [&server](const std::string& value) {
         int64_t idle_s = 0;
         const bool good = absl::SimpleAtoi(value, &idle_s) && idle_s >= 0;
         server.idle_exit = absl::Seconds(idle_s);
         return good;
       }},
      {"--http", text(server.http_listen)},
      {"--http-token-file", text(server.http_token_file)},
      {"--listen", text(server.gate.listen)},
      {"--join", text(server.link.join)},
      {"--secret-file",
       [&server](const std::string& value) {
         server.gate.secret_file = server.link.secret_file = value;
         return !value.empty();
       }},
      {"--tls-cert", text(server.gate.tls.certificate)},
      {"--tls-key", text(server.gate.tls.key)},
      {"--tls-ca", text(server.link.files.authority)},
      {"--node", text(server.node.node)},
      {"--devices",
       [&server](const std::string& value) {
         return absl::SimpleAtoi(value, &server.node.devices) && server.node.devices >= 1 &&
                server.node.devices <= kNodeDevicesMax;
       }},
      {"--device-memory",
       [&server](const std::string& value) {
         const auto size = ParseBytes(value);
         if (size.ok()) server.node.memory_gib = static_cast<double>(size->value()) / (1 << 30);
         return size.ok() && *size > Bytes(0);
       }},
      {"--policy", text(cluster.options.policy)},
      {"--policy-set",
       [&cluster](const std::string& value) {
         return SetPolicyOption(value, cluster.options.policy_options);
       }},
      {"--min-run-s", seconds(cluster.options.min_run_s)},
      {"--spread-speed",
       [&cluster](const std::string& value) {
         double& speed = cluster.options.spread_speed;
         return absl::SimpleAtod(value, &speed) && speed > 0 && speed <= 1;
       }},
      {"--half-life-s", seconds(cluster.options.half_life_s)},
      {"--lease-s",
       [&cluster](const std::string& value) {
         double lease_s = 0;
         const bool good = absl::SimpleAtod(value, &lease_s) && lease_s >= 0.1 && lease_s <= 86400;
         cluster.lease_ms = static_cast<int64_t>(lease_s * 1000);
         return good;
       }},
      {"--user", [&cluster](const std::string& value) { return SetUser(value, cluster.options); }},
      {"--decision-log", text(server.decision_log)},
  };
}

std::vector<std::pair<const char*, bool*>> Flags(Arguments& arguments) {
  return {{"--foreground", &arguments.foreground},
          {"--help", &arguments.help},
          {"-h", &arguments.help},
          {"--tls", &arguments.server.link.tls},
          {"--fair-share", &arguments.server.cluster.options.fair_share},
          {"--virtual-clock", &arguments.server.cluster.virtual_clock}};
}

}  // namespace

absl::StatusOr<Arguments> ParseArguments(int count, char** words) {
  Arguments arguments;
  arguments.server.runtime_dir = shm::RuntimeDir();
  arguments.server.node.node = HostName();
  arguments.server.journal_events = IntOption("journal.events");
  arguments.server.cluster.snapshot_inputs = IntOption("journal.inputs");
  const std::vector<Option> options = Options(arguments.server);
  const auto flags = Flags(arguments);
  for (int i = 1; i < count; ++i) {
    const absl::string_view word = words[i];
    bool known = false;
    for (const auto& [name, value] : flags) {
      if (word == name) known = *value = true;
    }
    for (const Option& option : options) {
      if (word != option.name || i + 1 == count) continue;
      known = option.set(words[++i]);
      break;
    }
    if (known) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("tided: cannot read \"", words[i], "\"\n", kUsage));
  }
  if (!arguments.server.gate.listen.empty() && !arguments.server.link.join.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tided: a daemon listens or joins, not both\n", kUsage));
  }
  return arguments;
}

}  // namespace tide::coordinator
