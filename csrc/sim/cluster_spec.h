// The cluster of a simulation: nodes, types of GPU, what goes wrong and what changes cost.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace tide::sim {

/// What happens to a node: all that runs on it is lost and it comes back; its link to other nodes
/// is cut; its disk is slow, and so is all that runs on it.
enum class FaultKind { kNode, kLink, kSlow };

struct NodeFault {
  int node = 0;
  double at_s = 0;
  double for_s = 0;
  FaultKind kind = FaultKind::kNode;
  double speed = 0.5;  // of jobs on a node that is slow
};

/// Nodes that another cluster lends from one time to another.
struct Loan {
  int nodes = 0;
  double from_s = 0, to_s = 0;
};

/// Nodes of one type of GPU. Node numbers go on from one type to the next.
struct GpuType {
  std::string name;
  int nodes = 1;
  int gpus_per_node = 1;
  double cost = 1;  // of a GPU-hour
};

struct ClusterSpec {
  int nodes = 1;
  int gpus_per_node = 1;  // one node of all GPUs: placement by count
  std::vector<NodeFault> faults;
  double restart_cost_s = 0;         // work repeated by a job that starts again
  double checkpoint_every_s = 1800;  // a job that loses a node loses what it did since the last one
  double resize_cost_s = 0;          // for which a job stands still when its GPUs change
  double spread_speed = 1;           // of a gang on more nodes than it needs
  int nodes_per_switch = 0;          // 0: one switch for all
  double switch_speed = 1;           // of a gang that needs several switches
  double gpu_memory_gib = 0;         // 0: memory is never short
  double cpus_per_node = 0;          // 0: never short
  double memory_gib_per_node = 0;    // of the machine; 0: never short
  std::vector<double> share_cost;    // of an iteration of 1, 2.. jobs that share; empty: no cost
  std::vector<GpuType> types;        // empty: `nodes` of one type
  std::vector<Loan> loans;           // beside `nodes`, with as many GPUs each

  int Nodes() const;
  int Gpus() const;
  /// Of a GPU-hour, by type.
  std::vector<double> Costs() const;
  /// At most at one time; neither counted in Nodes() nor in Gpus().
  int NodesLent() const;
};

/// Errors: InvalidArgument with what cannot be.
absl::Status CheckCluster(const ClusterSpec& cluster);

}  // namespace tide::sim
