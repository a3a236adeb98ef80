// Which allocations die within the iteration that made them: learnt, and never trusted blindly.
#pragma once

#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "base/bytes.h"

namespace tide::arena {

/// The name of an allocation that recurs every iteration, given when it is made.
struct Signature {
  int64_t size_class = 0;  // size in grains
  int32_t ordinal = -1;    // how many of this size came before in this iteration; -1: not named
  int32_t sequence = -1;   // how many allocations of any size (small ones too) came before
  int32_t phase = 0;       // training iteration or evaluation slice
  int64_t iteration = -1;  // in which it was born
};

/// Learns by (phase, size class, ordinal of that size), which is exact for loops of fixed shapes,
/// and by (phase, sequence number of the allocation) for sizes never seen before, which holds for
/// variable shapes as long as the operators stay the same. An unknown signature is persistent:
/// safe, but it forfeits the lane. One wrong "ephemeral" costs a copy at the boundary and doubles
/// the evidence asked for next time. Externally synchronised.
class Lifetimes {
 public:
  /// Nothing is learnt before `learn_from`: optimizer state is born in the first iterations.
  /// `learn_iterations` deaths within the iteration make a signature ephemeral.
  Lifetimes(int64_t learn_from, int learn_iterations)
      : learn_from_(learn_from), evidence_(learn_iterations) {}

  void BeginIteration(int64_t iteration, int32_t phase);
  /// Names the next allocation of the stepping thread.
  Signature Name(Bytes size, int32_t sequence);
  bool PredictEphemeral(const Signature& signature) const;

  void Freed(const Signature& signature, int64_t now_iteration);
  void Survived(const Signature& signature);
  bool learnt() const { return iteration_ >= learn_from_ + evidence_; }

 private:
  struct Key {
    int64_t size_class;
    int32_t index;
    int32_t phase;
    bool operator==(const Key&) const = default;
    template <typename H>
    friend H AbslHashValue(H h, const Key& key) {
      return H::combine(std::move(h), key.size_class, key.index, key.phase);
    }
  };
  struct Evidence {
    int32_t deaths = 0;
    int32_t survivals = 0;
    int64_t grains_min = 0;
    int64_t grains_max = 0;
  };
  static constexpr int64_t kAnySize = -1;
  /// Bounds the tables for loops whose shapes never repeat.
  static constexpr size_t kEntriesMax = 1 << 16;

  bool Enough(const Evidence& evidence) const;
  void Note(const Signature& signature, bool survived);

  const int64_t learn_from_;
  const int evidence_;
  int64_t iteration_ = -1;
  int32_t phase_ = 0;
  absl::flat_hash_map<int64_t, int32_t> ordinals_;  // size class -> count in this iteration
  absl::flat_hash_map<Key, Evidence> table_;
};

}  // namespace tide::arena
