// Counts the cluster and refuses what cannot be.
#include "sim/cluster_spec.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "sched/job_profile.h"

namespace tide::sim {

int ClusterSpec::Nodes() const {
  int count = 0;
  for (const GpuType& type : types) count += type.nodes;
  return types.empty() ? nodes : count;
}

int ClusterSpec::Gpus() const {
  int count = 0;
  for (const GpuType& type : types) count += type.nodes * type.gpus_per_node;
  return types.empty() ? nodes * gpus_per_node : count;
}

std::vector<double> ClusterSpec::Costs() const {
  std::vector<double> costs;
  for (const GpuType& type : types) costs.push_back(type.cost);
  if (types.empty()) costs.push_back(GpuType().cost);
  return costs;
}

int ClusterSpec::NodesLent() const {
  std::map<double, int> steps;
  for (const Loan& loan : loans) {
    steps[loan.from_s] += loan.nodes;
    steps[loan.to_s] -= loan.nodes;
  }
  int lent = 0, most = 0;
  for (const auto& [at_s, step] : steps) most = std::max(most, lent += step);
  return most;
}

namespace {

absl::Status CheckLoans(const ClusterSpec& cluster) {
  if (!cluster.loans.empty() && !cluster.types.empty()) {
    return absl::InvalidArgumentError(
        "a cluster of several types of GPU has loans; give nodes and gpus_per_node, or no loans");
  }
  int64_t nodes = 0;
  for (const Loan& loan : cluster.loans) {
    nodes += std::max(0, loan.nodes);
    if (loan.nodes >= 1 && loan.from_s >= 0 && loan.to_s > loan.from_s && loan.to_s < 1e12 &&
        nodes <= (1 << 20)) {
      continue;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("a loan of ", loan.nodes, " nodes from ", loan.from_s, " to ", loan.to_s,
                     " s; give at least one, at most 1048576 together, and times from 0 that "
                     "ascend"));
  }
  return absl::OkStatus();
}

absl::Status CheckSize(int nodes, int gpus_per_node) {
  if (nodes >= 1 && gpus_per_node >= 1 && int64_t{nodes} * gpus_per_node <= (1 << 24)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("a cluster of ", nodes, " nodes with ",
                                                 gpus_per_node,
                                                 " GPUs; give at least one of each, at most "
                                                 "16777216 GPUs"));
}

absl::Status CheckFault(const NodeFault& fault, int nodes) {
  if (fault.node < 0 || fault.node >= nodes || !(fault.at_s >= 0) || !(fault.for_s > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a fault of node ", fault.node, " at ", fault.at_s, " s for ", fault.for_s,
                     " s; nodes are 0 to ", nodes - 1, ", times positive"));
  }
  if (fault.kind == FaultKind::kSlow && !(fault.speed > 0 && fault.speed <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a slow node has speed ", fault.speed, "; give a number above 0, at most 1"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckCluster(const ClusterSpec& cluster) {
  absl::Status status = CheckSize(cluster.nodes, cluster.gpus_per_node);
  if (cluster.types.size() > sched::kGpuTypesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(cluster.types.size(), " types of GPU; give at most ", sched::kGpuTypesMax));
  }
  for (const GpuType& type : cluster.types) {
    status.Update(CheckSize(type.nodes, type.gpus_per_node));
    if (!(type.cost >= 0)) {
      status.Update(absl::InvalidArgumentError("the cost of a type is negative; give 0 or more"));
    }
  }
  status.Update(CheckLoans(cluster));
  for (const NodeFault& fault : cluster.faults) status.Update(CheckFault(fault, cluster.Nodes()));
  if (!(cluster.restart_cost_s >= 0) || !(cluster.checkpoint_every_s >= 0) ||
      !(cluster.resize_cost_s >= 0)) {
    status.Update(absl::InvalidArgumentError(
        "restart cost, resize cost and checkpoint interval are seconds from 0"));
  }
  for (const double speed : {cluster.spread_speed, cluster.switch_speed}) {
    if (speed > 0 && speed <= 1) continue;
    status.Update(absl::InvalidArgumentError(absl::StrCat("a gang that is spread has speed ", speed,
                                                          "; give a number above 0, at most 1")));
  }
  for (const double cost : cluster.share_cost) {
    if (cost >= 1 && cost < 1e6 && cluster.share_cost.size() <= sched::kShareMax) continue;
    status.Update(absl::InvalidArgumentError(
        absl::StrCat("share_cost has ", cluster.share_cost.size(), " factors, one being ", cost,
                     "; give up to ", sched::kShareMax, ", from 1 upwards")));
  }
  for (const double host : {cluster.cpus_per_node, cluster.memory_gib_per_node}) {
    if (host >= 0 && host < 1e9 && (host == 0 || cluster.types.empty())) continue;
    status.Update(absl::InvalidArgumentError(
        "cpus_per_node and memory_gib_per_node are numbers from 0, of nodes of one type of GPU"));
  }
  if (!(cluster.gpu_memory_gib >= 0)) {
    status.Update(absl::InvalidArgumentError("gpu_memory_gib is negative; give 0 or more"));
  }
  if (cluster.nodes_per_switch < 0) {
    status.Update(absl::InvalidArgumentError("nodes_per_switch is negative; give 0 or more"));
  }
  return status;
}

}  // namespace tide::sim
