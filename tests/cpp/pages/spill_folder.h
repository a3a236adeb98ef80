// A private folder on a disk for spill files: the build's own folder, since /tmp may be in memory.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

namespace tide::testing {

class SpillFolder {
 public:
  SpillFolder() {
    std::string name = (std::filesystem::current_path() / "spill-test-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~SpillFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace tide::testing
