// The makers of the cluster policies, for the table in cluster_policy.cc.
#pragma once

#include <memory>

#include "sched/cluster_policy.h"

namespace tide::sched {

std::unique_ptr<ClusterPolicy> MakeFifo(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeFjf(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeSrtf(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeSrsf(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeDlas(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeDlasGpu(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeDlasGpuFixed(const ClusterPolicyOptions& options);

}  // namespace tide::sched
