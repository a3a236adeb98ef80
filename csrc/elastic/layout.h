// What the processes of one elastic job share on a host: a header and areas in one memory file.
//
// The file has no name: the launcher makes it and its children inherit the descriptor, so it goes
// with the last of them. Behind the header lie, each from a page boundary on: contexts of the
// logical workers, twice (by parity of the step); one area a member (its partial sums and its marks
// of used parameters); the area of summed shards; and the state that a joiner receives.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/bytes.h"
#include "elastic/edge.h"
#include "elastic/plan.h"

namespace tide::elastic {

inline constexpr uint64_t kGroupMagic = 0x5453414c45454454;  // "TDEELAST"
inline constexpr uint32_t kGroupVersion = 4;
inline constexpr int kMembersMax = kProcessesMax;
inline constexpr uint32_t kGenerationsMax = 1u << 16;
inline constexpr int kContractBytesMax = 16 << 10;
inline constexpr size_t kAreaAlignment = 1 << 16;

enum class MemberState : uint32_t { kFree = 0, kClaiming = 1, kBooting = 2, kReady = 3, kLeft = 4 };

/// A process. Only its owner writes, except the claim of a slot whose owner is dead or has left.
struct alignas(64) MemberSlot {
  Word<uint32_t> state;
  Word<int32_t> pid;
  Word<uint64_t> start_time;
  Word<uint32_t> has_state;       // 0: a joiner that has received no model yet
  Word<uint32_t> entered;         // number of the generation it is in, plus 1
  Word<uint64_t> published;       // Stamp of the last step whose partial sums are in its area
  Word<uint64_t> consumed;        // steps whose sums it has read
  Word<uint64_t> shard_done;      // Stamp of the last step whose shard it has summed
  Word<uint32_t> paused;          // 1: it waits at a boundary, for the job to be resumed
  Word<uint32_t> held;            // 1: something outside of the job holds it; no wait counts
  Word<uint64_t> limit_done;      // LimitWord that it has followed, whatever came of it
  Word<uint64_t> limit_smallest;  // why it could not: the least it can do with, 0: it could
  Word<uint64_t> limit_moved;     // bytes that following it moved
};

/// Smallest limit of a process that cannot hold to any: it has no runtime.
inline constexpr uint64_t kLimitImpossible = UINT64_MAX;

/// Word of the wish to pause: its number grows with each resume, so that a boundary that was agreed
/// upon for one pause cannot be taken for one of the next.
struct PauseWord {
  static constexpr uint32_t Make(uint32_t number, bool wanted) {
    return number << 1 | static_cast<uint32_t>(wanted);
  }
  static constexpr uint32_t Number(uint32_t word) { return word >> 1; }
  static constexpr bool Wanted(uint32_t word) { return (word & 1) != 0; }
};

/// Where a pause takes effect: its number and the step before which all wait.
struct PausePlace {
  static constexpr uint64_t Make(uint32_t number, uint64_t step) {
    return static_cast<uint64_t>(number) << 32 | step;
  }
  static constexpr uint32_t Number(uint64_t word) { return static_cast<uint32_t>(word >> 32); }
  static constexpr uint64_t Step(uint64_t word) { return word & 0xffffffffu; }
};

/// The limit of the whole job: how often it was said, and KiB (0: none).
struct LimitWord {
  static constexpr uint64_t kKibMax = (uint64_t{1} << 40) - 1;
  static constexpr uint64_t Make(uint64_t revision, uint64_t kib) { return revision << 40 | kib; }
  static constexpr uint64_t Revision(uint64_t word) { return word >> 40; }
  static constexpr uint64_t Bytes(uint64_t word) { return (word & kKibMax) << 10; }
};

/// Word of a generation: 0 while undecided, set by compare-and-swap.
/// Bits 0-23 members, 24-31 the slot that has the state, plus 1, 32-63 the first step.
struct GenerationWord {
  static constexpr uint64_t Make(uint32_t members, int source, uint64_t step) {
    return members | static_cast<uint64_t>(source + 1) << 24 | step << 32;
  }
  static constexpr uint32_t Members(uint64_t word) { return word & 0xffffffu; }
  static constexpr int Source(uint64_t word) { return static_cast<int>(word >> 24 & 0xff) - 1; }
  static constexpr uint64_t Step(uint64_t word) { return word >> 32; }
};

/// (generation, step) as one number that only grows.
constexpr uint64_t Stamp(uint32_t generation, uint64_t step) {
  return static_cast<uint64_t>(generation) << 32 | (step + 1);
}

enum class Sealing : uint32_t { kOpen = 0, kWriting = 1, kSealed = 2 };

/// What is sealed, and by whom while it is being written: who finds the writer dead writes instead.
struct SealingWord {
  static constexpr uint64_t Make(Sealing state, int32_t pid, uint64_t start_time) {
    return start_time << 26 | static_cast<uint64_t>(pid) << 2 | static_cast<uint64_t>(state);
  }
  static constexpr Sealing State(uint64_t word) { return static_cast<Sealing>(word & 3); }
  static constexpr int32_t Pid(uint64_t word) { return static_cast<int32_t>(word >> 2 & 0xffffff); }
  static constexpr uint64_t StartTime(uint64_t word) { return word >> 26; }
};

/// Sizes that all processes agree on; constant once sealed.
struct Geometry {
  uint32_t workers = 0;
  uint32_t parameters = 0;
  uint32_t partials = 0;       // buffers of an area
  uint64_t flat_bytes = 0;     // one buffer: all gradients, each from a 64-byte boundary on
  uint64_t context_bytes = 0;  // of one logical worker
};

struct GroupHeader {
  Word<uint64_t> magic;
  uint32_t version;
  Word<uint32_t> news;     // futex: changes whenever anything here does
  Word<uint64_t> sealing;  // SealingWord
  Word<uint32_t> target;   // processes that are wanted
  Word<uint32_t> low;      // bounds of the target
  Word<uint32_t> high;
  Word<uint32_t> latest;       // generations that somebody has entered; 0: none yet
  Word<uint32_t> finished;     // the training is over
  Word<uint64_t> steps;        // committed
  Word<uint64_t> base;         // done before this job began: those of a checkpoint
  Word<uint64_t> state_stamp;  // generation plus 1 whose state is complete
  Word<uint64_t> state_bytes;
  Word<uint64_t> state_expected;  // of the next joiner; 0: nobody knows yet
  Word<uint32_t> pause;           // PauseWord
  Word<uint64_t> pause_at;        // PausePlace; of the newest pause once its leader has decided
  Word<uint64_t> limit;           // LimitWord
  Geometry geometry;              // with kSealed
  uint32_t contract_bytes;        // with kSealed
  char contract[kContractBytesMax];
  MemberSlot members[kMembersMax];
  Word<uint64_t> generations[kGenerationsMax];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

constexpr size_t AlignArea(size_t bytes) {
  return (bytes + kAreaAlignment - 1) / kAreaAlignment * kAreaAlignment;
}

/// Where things lie in the file.
struct Offsets {
  explicit Offsets(const Geometry& g)
      : contexts(AlignArea(sizeof(GroupHeader))),
        area_bytes(AlignArea(g.flat_bytes * g.partials + g.parameters)),
        areas(contexts + AlignArea(2 * static_cast<size_t>(g.workers) * g.context_bytes)),
        shards(areas + area_bytes * kMembersMax),
        state(shards + AlignArea(g.flat_bytes)) {}
  size_t contexts;
  size_t area_bytes;
  size_t areas;
  size_t shards;
  size_t state;
};

}  // namespace tide::elastic
