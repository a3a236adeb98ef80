// What processes on one device share: fixed layout of the device table (ledger and turn table), no
// pointers.
//
// Totals are never stored: they are sums over slots, so a kill in the middle of an update tears
// nothing. A slot belongs to the process whose pid and start time it carries; only the owner writes
// its ledger and service fields, anybody may write the words marked "asked of the owner". See
// docs/reference/device_table.md.
#pragma once

#include <atomic>
#include <cstdint>

namespace tide::shm {

inline constexpr uint64_t kTableMagic = 0x454c424154454454;  // "TDETABLE"
inline constexpr uint32_t kTableVersion = 5;
inline constexpr int kSlotCount = 256;
inline constexpr int kLaneCount = 16;  // that turns are taken in
// Scratches of a lane: rank r of a gang uses seat r, jobs of one process use seat 0. Seat s of lane
// l is entry s * kLaneCount + l; nobody takes turns in the entries of seats above 0.
inline constexpr int kSeatCount = 8;
inline constexpr int kScratchCount = kLaneCount * kSeatCount;
inline constexpr int kChunkSizes = 4;  // of a lane's chunks on a GPU; PyTorch uses two
inline constexpr int kNameBytes = 64;
inline constexpr int kChildrenKept = 16;
inline constexpr uint32_t kPaceWhole = 1'000'000;  // JobSlot::pace_ppm of a job that is not slowed
inline constexpr int64_t kNeverRan = 1;            // JobSlot::stopped_ns

enum class SlotState : uint32_t { kFree = 0, kClaiming = 1, kLive = 2 };

/// What a member of a lane is doing, as `tide top` shows it.
enum class Phase : uint32_t {
  kOutside = 0,
  kWaiting = 1,
  kRunning = 2,
  kLoading = 3,
  kPaused = 4,
  kQueued = 5
};

enum SlotFlags : uint32_t {
  kReady = 1u << 0,     // wants the turn (its batch is there)
  kLearning = 1u << 1,  // its lifetimes are being learnt: it runs on private scratch
  kIdle = 1u << 2,      // gave up its membership for now (a notebook with no cell running)
  kForked = 1u << 3,    // never set in the table: children pass through
  kOrphans = 1u << 4,   // the owner is dead; the slot counts what its children still hold
  kQueued = 1u << 5,    // waits to be admitted: its pages are out and it takes no turns
  kLeaving = 1u << 6,   // ends: no member of a lane any more, counted until the process is dead
  kOnSeat = 1u << 7,    // in an iteration on the scratch of a seat
  kStands = 1u << 8,    // of a gang: paused or about to be; of its leader: the gang takes no turn
  kOnChunks = 1u << 9,  // shares scratch of a GPU: who passes it over renews that for the others
};

/// What a follower of a gang may do; JobSlot::gang_state.
enum class GangState : uint32_t {
  kApart = 0,   // runs on memory of its own
  kIn = 1,      // runs, on the scratch of its seat
  kParked = 2,  // waits at a boundary, and may go on by itself
  kHeld = 3,    // waits until the leader has the turn again
};

struct alignas(64) JobSlot {
  // identity
  std::atomic<uint32_t> state;  // SlotState; claimed by compare-and-swap from kFree
  std::atomic<int32_t> pid;
  std::atomic<uint64_t> start_time;  // clock ticks since boot, /proc/PID/stat field 22
  std::atomic<uint32_t> uid;
  std::atomic<int64_t> job_id;  // of the daemon; 0 before registration
  char name[kNameBytes];        // UTF-8, zero-terminated

  // ledger, bytes; written by the owner
  std::atomic<int64_t> private_bytes;  // committed anonymous pages
  // resident window of the file tier, as far as operators may have brought it in
  std::atomic<int64_t> file_resident_bytes;
  // the same, as measured last
  std::atomic<int64_t> file_now_bytes;
  // interpreter, torch, blocks under 1 MiB, children: the most of the last seconds, kept for them
  std::atomic<int64_t> outside_bytes;
  // the same, as measured last
  std::atomic<int64_t> outside_now_bytes;
  std::atomic<int64_t> demoted_bytes;       // in the file tier (disk, not memory)
  std::atomic<int64_t> persistent_bytes;    // learnt
  std::atomic<int64_t> scratch_peak_bytes;  // learnt: largest ephemeral use of an iteration
  std::atomic<int64_t> peak_bytes;          // highest private + resident + outside seen

  // budget; written by the owner when it has applied a grant
  std::atomic<int64_t> budget_bytes_max;  // 0: none
  std::atomic<int64_t> budget_bytes_guaranteed;
  std::atomic<int64_t> budget_revision;

  // asked of the owner: bytes that others need; the owner subtracts what it gave back
  std::atomic<int64_t> reclaim_bytes;

  // lane membership and service; written by the owner
  std::atomic<int32_t> lane;           // -1: none
  std::atomic<uint32_t> flags;         // SlotFlags
  std::atomic<uint32_t> phase;         // Phase
  std::atomic<uint32_t> priority;      // 0 opportunistic, 1 normal, 2 guaranteed
  std::atomic<uint32_t> weight_milli;  // share weight in thousandths
  std::atomic<int64_t> joined_ns;      // monotonic
  std::atomic<int64_t> service_ns;     // time spent holding the turn
  std::atomic<int64_t> iterations;
  std::atomic<int64_t> last_iteration_ns;  // duration of the last iteration
  std::atomic<int64_t> virtual_ns;  // service over weight; a newcomer starts at the lane's minimum
  std::atomic<int64_t> rounds;      // iterations; a newcomer starts at the lane's minimum
  std::atomic<int64_t> remaining_ns;      // predicted remaining service; -1 unknown
  std::atomic<int64_t> heartbeat_ns;      // monotonic, of the last boundary
  std::atomic<int32_t> lane_fd;           // descriptor of the lane's memfd in the owner; -1 none
  std::atomic<uint64_t> lane_generation;  // generation of the scratch that the owner has mapped
  std::atomic<int64_t>
      retired_scratch_bytes;  // its charge once others have left it; under the device lock
  // how many chunks of its lane's scratch on a GPU the owner has, the first of each size of
  // lane_generation; under the device lock
  std::atomic<int32_t> chunks[kChunkSizes];

  // gang: processes of one job that have turns together; the leader (rank 0) takes them
  std::atomic<uint64_t> gang;        // key that its members have in common; 0: none
  std::atomic<uint32_t> gang_rank;   // written before the key
  std::atomic<uint32_t> gang_size;   // the same
  std::atomic<uint32_t> gang_state;  // GangState of a follower; by compare-and-swap, Note [Gangs]
  std::atomic<int64_t> gang_close;   // of the leader: step before which all park; -1: none

  // pace; written by the owner. Of an opportunistic job:
  std::atomic<uint32_t> pace_ppm;      // share of time that it may run, in millionths
  std::atomic<uint32_t> pace_law;      // sched::PaceLawId that has set it
  std::atomic<int32_t> pace_for;       // slot of the guaranteed job that it gives way to; -1: none
  std::atomic<int32_t> pace_loss_ppm;  // what that job was seen to lose of its speed last
  std::atomic<int64_t> pace_cut_ns;    // monotonic, when the pace was lowered last; 0: never
  std::atomic<int64_t> stopped_ns;     // monotonic, when it ran last; 0: it runs; 1: it never did
  // Of a guaranteed job, whose iterations are a row of stretches between two looks at the clock:
  std::atomic<uint32_t> progress_sequence;  // odd while the next four are being written
  std::atomic<int64_t> progress_usual_ns;   // of all stretches that are known: undisturbed time
  std::atomic<int64_t> progress_took_ns;    // and what they took
  std::atomic<int64_t> stretch_begin_ns;    // monotonic, of the one under way; 0: outside
  std::atomic<int64_t> stretch_usual_ns;    // of the one under way; 0: not known
  std::atomic<int64_t> step_usual_ns;       // of an iteration, undisturbed; 0: not known yet
  std::atomic<int64_t> step_took_ns;        // of the last finished one
  std::atomic<int64_t> progress_ns;         // monotonic, when a stretch ended last

  // forked children as pid << 42 | start time, 0 for none: they hold the owner's memory beyond its
  // death
  std::atomic<uint64_t> children[kChildrenKept];

  // the owner sleeps here; whoever wants its attention adds one and wakes it
  std::atomic<uint32_t> wake_word;
};

/// One word of JobSlot::children.
struct ChildWord {
  static constexpr int kStartBits = 42;  // clock ticks: 1,394 years
  static constexpr uint64_t Make(int32_t pid, uint64_t start_time) {
    return static_cast<uint64_t>(pid) << kStartBits | start_time;
  }
  static constexpr int32_t Pid(uint64_t word) { return static_cast<int32_t>(word >> kStartBits); }
  static constexpr uint64_t StartTime(uint64_t word) {
    return word & ((uint64_t{1} << kStartBits) - 1);
  }
};

struct alignas(64) LaneSlot {
  std::atomic<uint64_t> turn;    // TurnWord: holder slot + epoch
  std::atomic<uint32_t> policy;  // sched::TurnPolicyId
  std::atomic<int64_t> quantum_ns;
  std::atomic<int64_t> granted_ns;   // monotonic time of the last hand-over
  std::atomic<int64_t> released_ns;  // monotonic time at which the previous holder let go
  std::atomic<int64_t> handovers;
  std::atomic<uint64_t>
      generation;  // of the scratch pages; grows when members leave a stuck holder
  std::atomic<int64_t> scratch_bytes;  // committed bytes of the scratch of this generation
  std::atomic<int64_t>
      retired_bytes;                // scratch of older generations that a stuck holder still maps
  std::atomic<int64_t> virtual_ns;  // of the member that was granted the turn last
  std::atomic<int64_t> rounds;      // the same
  // Sizes of the chunks that the scratch of a GPU consists of; 0: unused. Then scratch_bytes is the
  // sum over sizes of the most that a member of this generation has, and retired_bytes the same of
  // older ones. Under the device lock.
  std::atomic<int64_t> chunk_bytes[kChunkSizes];
  // A superset of the members, to look at fewer slots; slot.lane is the truth.
  std::atomic<uint64_t> member_bits[kSlotCount / 64];
};

struct alignas(64) TableHeader {
  std::atomic<uint64_t> magic;  // written last by the creator
  std::atomic<uint32_t> version;
  std::atomic<uint32_t> slot_bytes;  // sizeof(JobSlot): a reader built differently refuses
  char boot_id[40];
  std::atomic<int64_t> capacity_bytes;    // stated or derived; 0: unlimited
  std::atomic<int64_t> freed_word_total;  // grows whenever somebody gives bytes back
  std::atomic<uint32_t> freed_word;       // futex: waiters for memory sleep here
};

struct DeviceTable {
  TableHeader header;
  LaneSlot lanes[kScratchCount];
  JobSlot slots[kSlotCount];
};

/// {holder slot (16 bits, 0xffff nobody), epoch (48 bits)} in one word. The epoch only grows. It is
/// even while the turn is granted and not taken yet (its holder touches no scratch page: it may be
/// passed over) and odd once the holder has taken it (from here to its release it writes scratch
/// pages).
struct TurnWord {
  static constexpr uint64_t kNobody = 0xffff;
  static constexpr uint64_t kEpochMask = 0xffffffffffff;
  static constexpr uint64_t Make(uint64_t holder, uint64_t epoch) {
    return holder << 48 | (epoch & kEpochMask);
  }
  /// The word after `word` that offers the turn to `holder` (a slot or kNobody).
  static constexpr uint64_t Grant(uint64_t word, uint64_t holder) {
    return Make(holder, (Epoch(word) | 1) + 1);
  }
  /// The word after `word` with which its holder starts.
  static constexpr uint64_t Take(uint64_t word) { return Make(word >> 48, Epoch(word) | 1); }
  static constexpr bool Taken(uint64_t word) { return (word & 1) != 0; }
  static constexpr int Holder(uint64_t word) {
    return (word >> 48) == kNobody ? -1 : static_cast<int>(word >> 48);
  }
  static constexpr uint64_t Epoch(uint64_t word) { return word & kEpochMask; }
};

static_assert(std::atomic<int64_t>::is_always_lock_free);
static_assert(sizeof(JobSlot) % 64 == 0);
static_assert(sizeof(LaneSlot) % 64 == 0);

}  // namespace tide::shm
