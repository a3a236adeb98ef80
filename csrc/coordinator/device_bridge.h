// The daemon's hold on the shared device table: reads views of it, writes turn policies, frees dead
// slots.
#pragma once

#include <memory>
#include <string>

#include "coordinator/device_view.h"
#include "shm/device_file.h"

namespace tide::coordinator {

/// Opens the table when somebody has made one; never creates it. One thread.
class DeviceBridge final : public DeviceSource {
 public:
  explicit DeviceBridge(std::string runtime_dir) : runtime_dir_(std::move(runtime_dir)) {}

  DeviceView Read() override;
  void WriteLanePolicy(int lane, sched::TurnPolicyId policy);
  /// Frees slots of ended processes, so that their bytes and turns are available; returns how many.
  /// Skipped while somebody holds the table's lock: waiting jobs and the next call do the same.
  int ReapDead();

 private:
  shm::DeviceFile* File();

  const std::string runtime_dir_;
  std::unique_ptr<shm::DeviceFile> file_;
  uint64_t inode_ = 0;  // of file_
};

}  // namespace tide::coordinator
