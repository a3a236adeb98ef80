// Every tunable of torchtide, with its unit and the reason for its default.
#include <iterator>

#include "base/options.h"

namespace tide {

namespace {

constexpr OptionInfo kOptions[] = {
    {"disable", "TIDE_DISABLE", "0", "bool", "The safe off switch: nothing is hooked."},
    {"runtime_dir", "TIDE_RUNTIME_DIR", "", "text",
     "Where the socket and the device table live; empty means $XDG_RUNTIME_DIR/torchtide or "
     "/tmp/torchtide-UID."},
    {"daemon", "TIDE_DAEMON", "auto", "text",
     "auto starts tided when none answers, off never talks to it, require fails without it."},
    {"job.name", "TIDE_JOB_NAME", "", "text", "Name of the job; empty means the script's."},
    {"job.priority", "TIDE_PRIORITY", "normal", "text", "guaranteed, normal or opportunistic."},
    {"job.limit", "TIDE_LIMIT", "0", "bytes", "Budget of the job at start; 0 means none."},
    {"job.min_memory", "TIDE_MIN_MEMORY", "0", "bytes", "Guaranteed share of the job."},
    {"job.iterations", "TIDE_JOB_ITERATIONS", "0", "count",
     "Iterations that the job will run in all, for turn policies that look ahead (srtf); 0 means "
     "what tide.iterations says."},
    {"track", "TIDE_TRACK", "markers", "text",
     "What a job adds to the TensorBoard, Weights & Biases or MLflow run that its script has open: "
     "markers (pauses and limits that moved), curves (memory and waits too) or off."},
    {"log", "TIDE_LOG", "warning", "text",
     "What a job says on stderr, through Python's logger torchtide: warning (pauses, and what it "
     "could not do), error or off."},
    {"job.id", "TIDE_JOB_ID", "0", "count", "Set by `tide run` for its children."},
    {"device.capacity", "TIDE_CAPACITY", "0", "bytes",
     "Capacity of the CPU device; 0 means what the cgroup and free memory allow."},
    {"device.reserve", "TIDE_RESERVE", "256MiB", "bytes",
     "Memory left to the rest of the machine when capacity is derived."},
    {"memory.block_min", "TIDE_BLOCK_MIN", "1MiB", "bytes",
     "Smaller CPU blocks stay with the previous allocator: 83-99.7 % of bytes are in blocks "
     "above."},
    {"memory.learn_from", "TIDE_LEARN_FROM", "2", "count",
     "First iteration whose lifetimes are learnt; before it optimizer state is born."},
    {"memory.learn_iterations", "TIDE_LEARN_ITERATIONS", "2", "count", "Iterations learnt."},
    {"memory.huge_pages", "TIDE_HUGE_PAGES", "1", "bool", "MADV_HUGEPAGE and MADV_COLLAPSE."},
    {"memory.reserve_address_space", "TIDE_ADDRESS_SPACE", "256GiB", "bytes",
     "Virtual range of each heap; costs no memory."},
    {"spill.dir", "TIDE_SPILL_DIR", "", "text",
     "Folder of the unlinked spill file; empty means $XDG_CACHE_HOME or ~/.cache/torchtide; "
     "never tmpfs."},
    {"spill.max", "TIDE_SPILL_MAX", "64GiB", "bytes", "Cap of one job's spill file."},
    {"spill.free_min", "TIDE_SPILL_FREE_MIN", "1GiB", "bytes",
     "Free space that spilling leaves on the disk."},
    {"lane", "TIDE_LANE", "0", "count",
     "Lane to join, chosen by the admission rule if nobody says; -1 joins none."},
    {"lane.max", "TIDE_LANE_MAX", "1", "count",
     "Lanes that the admission rule may fill, whose jobs run at the same time. On a CPU a second "
     "lane pays when each job uses fewer threads than there are cores."},
    {"admission", "TIDE_ADMISSION", "stream", "text",
     "What a job does that does not fit beside the others by its measured sizes: stream (it "
     "runs, "
     "and pages not in use are out between turns) or queue (it waits until others end)."},
    {"lane.policy", "TIDE_LANE_POLICY", "fair", "text",
     "Turn policy of a lane this process creates: fifo, fair, rr, srtf, pack, priority."},
    {"lane.grace_ms", "TIDE_LANE_GRACE_MS", "2000", "ms",
     "How long a stopped holder may be silent before the others move to fresh scratch pages."},
    {"lane.gang", "TIDE_LANE_GANG", "1", "bool",
     "Whether the processes of one job (ranks on one machine, an elastic job) take turns together; "
     "without it they take none."},
    {"lane.quantum_ms", "TIDE_LANE_QUANTUM_MS", "0", "ms",
     "Shortest service before a turn passes; 0 passes it at every iteration."},
    {"pace.law", "TIDE_PACE_LAW", "aimd", "text",
     "How an opportunistic job is slowed for a guaranteed one: aimd, tgs, antman or off."},
    {"pace.loss_allowed", "TIDE_PACE_LOSS_ALLOWED", "0.03", "fraction",
     "Share of a guaranteed job's speed that opportunistic jobs may cost it; TGS allows 3 %."},
    {"pace.min", "TIDE_PACE_MIN", "0.02", "fraction",
     "Least share of time that a slowed job runs: it goes on, and costs no more than that."},
    {"elastic.deadline_ms", "TIDE_ELASTIC_DEADLINE_MS", "600000", "ms",
     "The longest that a process of an elastic job waits for another one's iteration."},
    {"elastic.frozen_ms", "TIDE_ELASTIC_FROZEN_MS", "10000", "ms",
     "A process of an elastic job that is stopped for longer is killed; the others go on."},
    {"elastic.overlap", "TIDE_ELASTIC_OVERLAP", "auto", "text",
     "Between hosts, gradients are sent while backward still makes others: on, off or auto "
     "(tries)."},
    {"elastic.start_ms", "TIDE_ELASTIC_START_MS", "60000", "ms",
     "How long an elastic job waits for its first processes before it begins with fewer."},
    {"need.wait_ms", "TIDE_NEED_WAIT_MS", "2000", "ms",
     "How long an allocation waits for others to give memory back before it fails."},
    {"journal.events", "TIDE_JOURNAL_EVENTS", "10000", "count",
     "Events that the daemon's journal keeps; older ones go."},
    {"journal.inputs", "TIDE_JOURNAL_INPUTS", "10000", "count",
     "Inputs of a cluster after which its coordinator's journal gets a snapshot and forgets older "
     "inputs; 0: it keeps all."},
    {"cuda.hook", "TIDE_CUDA_HOOK", "auto", "text",
     "How the memory of a job on devices is reached from its first use of CUDA on: auto (the first "
     "that works of the next three), table (of driver calls), malloc (cudaMalloc), pool, fraction "
     "(PyTorch's own limit alone) or off (not at all; torchtide.cuda.enable() still works)."},
    {"cuda.driver", "TIDE_CUDA_DRIVER", "libcuda.so.1", "text",
     "The driver's library, looked up like any other; containers may need a path."},
    {"cuda.spare_max", "TIDE_CUDA_SPARE_MAX", "128MiB", "bytes",
     "Device memory kept for the next request, per device; given back before anybody is "
     "refused."},
    {"cuda.headroom", "TIDE_CUDA_HEADROOM", "1GiB", "bytes",
     "Kept free on a device while several jobs are on it, at most a 64th of it: contexts and "
     "libraries take memory without asking and fail where there is none."},
    {"cuda.pinned_keep", "TIDE_CUDA_PINNED_KEEP", "32GiB", "bytes",
     "Host memory that a resumed job keeps ready for its next suspension, at most, and only while "
     "half of the machine's memory is free."},
    {"cuda.switch_share", "TIDE_CUDA_SWITCH_SHARE", "0.1", "fraction",
     "Largest share of time in which jobs that do not fit a device together move their pages: "
     "turns are kept until iterations outweigh it."},
    {"cuda.prefetch", "TIDE_CUDA_PREFETCH", "0.25", "fraction",
     "Largest share of a job's device memory that is away and comes back while the job waits for "
     "its turn, into room that nobody wants; 0: none."},
    {"cuda.resume", "TIDE_CUDA_RESUME", "whole", "text",
     "How device pages return after a pause or with a turn: whole (all before the next iteration), "
     "pipelined (the state of optimizers while it runs; what looks at that state before the "
     "step, other than state_dict, must call torchtide.cuda.settle()) or layers (parameters too, "
     "in "
     "the order in which operators were seen to use them first; kernels of your own that PyTorch "
     "does not dispatch must not be the first to use one)."},
    {"cuda.nccl", "TIDE_CUDA_NCCL", "keep", "text",
     "What a pause does with the memory of NCCL's communicators: keep (it stays on the device) or "
     "suspend (it leaves too; PyTorch 2.12 or newer, and all ranks of the job are paused)."},
    {"cuda.pause", "TIDE_CUDA_PAUSE", "pages", "text",
     "What a pause takes from devices: pages (all that PyTorch has allocated) or deep (the job's "
     "CUDA contexts too, by the driver's checkpoint: CUDA 12.8 or newer. Until its resume every "
     "CUDA "
     "call of the job waits. Where the driver refuses, it is an ordinary pause)."},
    {"cuda.host_mapping", "TIDE_CUDA_HOST_MAPPING", "1", "bool",
     "Let cold pages live in host memory that the device maps, where the driver offers it."},
    {"cuda.lanes", "TIDE_CUDA_LANES", "0", "bool",
     "Jobs of a lane have device memory that lives only inside an iteration in common, so that a "
     "device holds the sum of what stays and the largest of what does not. Off until it has run "
     "on a GPU: docs/guides/gpu.md."},
    {"test.always_spill", "TIDE_TEST_ALWAYS_SPILL", "0", "bool",
     "Hostile configuration: every persistent page is demoted at every boundary."},
    {"test.always_suspend", "TIDE_TEST_ALWAYS_SUSPEND", "0", "bool",
     "Hostile configuration: suspend and resume at every boundary."},
    {"test.skip_privatise", "TIDE_TEST_SKIP_PRIVATISE", "0", "bool",
     "Control experiment: leaves survivors in lane pages; corrupts them, on purpose."},
};

}  // namespace

const std::vector<OptionInfo>& OptionTable() {
  static const std::vector<OptionInfo>& table =
      *new std::vector<OptionInfo>(std::begin(kOptions), std::end(kOptions));
  return table;
}

}  // namespace tide
