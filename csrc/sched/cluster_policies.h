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
std::unique_ptr<ClusterPolicy> MakeGittins(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeEdf(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeEdfAdmit(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeSrtfRestart(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeQssf(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakePai(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeThemis(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeThemisLease(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeGandivaFair(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeMaxMin(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeFinishTime(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeMakespan(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeAntman(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeSingularity(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeOptimus(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeAfs(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeElasticFlow(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakePollux(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeSiaLike(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeLyra(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeEasyScale(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeMuriS(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeMuriL(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeLucid(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeSalus(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeTgs(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeGavelMaxMinPolicy(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeGavelWaterFillingPolicy(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeGavelPackedPolicy(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeGavelFinishTimePolicy(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeGavelMakespanPolicy(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeGavelThroughputPolicy(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeGavelCostPolicy(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakePhilly(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeSynergy(const ClusterPolicyOptions& options);
std::unique_ptr<ClusterPolicy> MakeGandiva(const ClusterPolicyOptions& options);

}  // namespace tide::sched
