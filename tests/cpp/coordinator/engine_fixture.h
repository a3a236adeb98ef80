// A cluster's engine, and the words to tell it things.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/cluster_engine.h"
#include "gtest/gtest.h"

namespace tide::coordinator {

class ClusterEngineTest : public testing::Test {
 protected:
  void Make(ClusterOptions options = {}) { engine_ = *ClusterEngine::Make(options); }
  void Node(const std::string& name, int devices, bool works = true) {
    Apply({.kind = ClusterInputKind::kNode, .node = name, .devices = devices, .works = works});
  }
  void Submit(JobSpec spec) { Apply({.kind = ClusterInputKind::kSubmit, .spec = std::move(spec)}); }
  void Finish(const std::string& key) {
    Apply({.kind = ClusterInputKind::kFinish, .spec = {.key = key}});
  }
  std::vector<ClusterChange> Decide() {
    return changes_ = Apply({.kind = ClusterInputKind::kDecide});
  }
  std::vector<ClusterChange> Apply(ClusterInput input) {
    input.now_s = now_s_;
    auto applied = engine_->Apply(input);
    EXPECT_TRUE(applied.ok()) << applied.status();
    return applied.ok() ? *std::move(applied) : std::vector<ClusterChange>();
  }
  bool Runs(const std::string& key) const {
    const JobIndex index = engine_->Find(key);
    return index.value() >= 0 && engine_->view(index).state == sched::JobState::kRunning;
  }
  const ClusterJob& Job(const std::string& key) const { return engine_->job(engine_->Find(key)); }
  std::string Why(const std::string& key) const {
    return engine_->gate().Why(engine_->view(engine_->Find(key)), engine_->capacity());
  }

  std::unique_ptr<ClusterEngine> engine_;
  std::vector<ClusterChange> changes_;
  double now_s_ = 0;
};

}  // namespace tide::coordinator
