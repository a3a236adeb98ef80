"""
torchtide's core without torch: options, the job's runtime, the client of the daemon, the simulator.
"""
from __future__ import annotations
import collections.abc
import typing
import typing_extensions
__all__: list[str] = ['Client', 'DaemonUnavailable', 'ElasticExchange', 'ElasticGroup', 'JobRow', 'ProtocolError', 'Trace', 'View', 'api', 'await_devices', 'begin_iteration', 'carry_out_orders', 'cluster_policies', 'cuda_api', 'cuda_boundary', 'cuda_end_forward', 'cuda_finish_return', 'cuda_frozen', 'cuda_host_mapping', 'cuda_look_up_cold', 'cuda_make_room', 'cuda_memory_table', 'cuda_offers_checkpoint', 'cuda_pause_deeply', 'cuda_report', 'cuda_restore', 'cuda_resume', 'cuda_retire', 'cuda_set_checkpoint_command', 'cuda_set_framework', 'cuda_set_limit', 'cuda_share', 'cuda_shareable', 'cuda_start', 'cuda_started', 'cuda_suspend', 'cuda_suspended_devices', 'cuda_take_lost', 'cuda_validate', 'draw_trace', 'elastic_checksum', 'elastic_create', 'elastic_plan', 'end_iteration', 'expect_iterations', 'format_bytes', 'gang_waits', 'get_option', 'join_gang', 'keep_log', 'leave', 'memory_table', 'name', 'operators_wanted', 'options', 'owns', 'parse_bytes', 'parse_trace', 'read_trace', 'register', 'report', 'resume', 'runtime_dir', 'sample', 'set_limit', 'set_option', 'shutdown', 'simulate', 'start', 'started', 'suspend', 'take_log', 'validate']
class DaemonUnavailable(ConnectionError):
    pass
class ProtocolError(RuntimeError):
    pass
class Client:
    """
    A connection with tided: one request at a time, from any thread.
    """
    def __init__(self, path: str, timeout_s: typing.SupportsFloat | typing.SupportsIndex = 5.0) -> None:
        """
        Connects to the socket at `path`. Raises DaemonUnavailable, TimeoutError, ProtocolError.
        """
    def close(self) -> None:
        ...
    def next(self, timeout_s: typing.SupportsFloat | typing.SupportsIndex) -> typing.Any:
        """
        The next followed event as (kind, body), or None when none comes in time.
        """
    def request(self, kind: str, body: bytes, timeout_s: typing.SupportsFloat | typing.SupportsIndex = 30.0) -> tuple[typing.Any, ...]:
        """
        Sends a MessagePack body as a frame of `kind` and returns (kind, body) of the answer.
        """
class JobRow:
    """
    A job that runs or waits, as it is at a decision.
    """
    def speed(self, gpus: typing.SupportsInt | typing.SupportsIndex) -> float:
        """
        Speed with so many GPUs over that with its gang; 0: it does not run on them.
        """
    @property
    def deadline_s(self) -> float:
        ...
    @property
    def duration_s(self) -> float:
        ...
    @property
    def executed_s(self) -> float:
        ...
    @property
    def gpus(self) -> int:
        ...
    @property
    def gpus_max(self) -> int:
        ...
    @property
    def gpus_min(self) -> int:
        ...
    @property
    def held(self) -> int:
        ...
    @property
    def job_id(self) -> str:
        ...
    @property
    def remaining_s(self) -> float:
        ...
    @property
    def submit_s(self) -> float:
        ...
    @property
    def user(self) -> int:
        ...
    @property
    def weight(self) -> float:
        ...
class View:
    """
    What a policy sees, and how it answers.
    """
    def preempt(self, job: JobRow, reason: str = 'the policy preempts it') -> None:
        """
        Stops a job that runs; it waits again.
        """
    def refuse(self, job: JobRow, reason: str) -> None:
        """
        Declines a job that waits, for ever.
        """
    def resize(self, job: JobRow, gpus: typing.SupportsInt | typing.SupportsIndex, reason: str = 'the policy resizes it') -> None:
        """
        Changes the GPUs of a job that runs.
        """
    def start(self, job: JobRow, gpus: typing.SupportsInt | typing.SupportsIndex = 0, reason: str = 'the policy starts it') -> None:
        """
        Starts a job that waits, on its gang or on `gpus`.
        """
    def wake_at(self, time_s: typing.SupportsFloat | typing.SupportsIndex) -> None:
        """
        Asks to be called then, though nothing has happened.
        """
    @property
    def free(self) -> int:
        """
        Of those, nobody's before this decision.
        """
    @property
    def gpus(self) -> int:
        """
        GPUs that work.
        """
    @property
    def now_s(self) -> float:
        ...
    @property
    def running(self) -> list[JobRow]:
        """
        In order of submission.
        """
    @property
    def waiting(self) -> list[JobRow]:
        """
        In order of submission.
        """
class Trace:
    """
    Jobs of a trace, read or drawn once and replayed often.
    """
    def __len__(self) -> int:
        ...
    def assume_elastic(self, serial_share: typing.SupportsFloat | typing.SupportsIndex, factor: typing.SupportsInt | typing.SupportsIndex = 2) -> None:
        """
        Lets each rigid job run on 1 to `factor` times its gang, with speeds by Amdahl's law.
        """
    @property
    def name(self) -> str:
        ...
class ElasticExchange:
    """
    One process's part of an elastic job.
    """
    @staticmethod
    def take_orders(fd: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def __init__(self, workers: typing.SupportsInt | typing.SupportsIndex, parameters: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]], context_bytes: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def advance(self, step: typing.SupportsInt | typing.SupportsIndex) -> bool:
        ...
    def assign(self, rank: typing.SupportsInt | typing.SupportsIndex, processes: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def attach(self, fd: typing.SupportsInt | typing.SupportsIndex, contract: str) -> str:
        ...
    def await_orders(self, step: typing.SupportsInt | typing.SupportsIndex, limit: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def await_state(self, step: typing.SupportsInt | typing.SupportsIndex) -> bool:
        ...
    def begin(self, step: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def bound(self, low: typing.SupportsInt | typing.SupportsIndex, high: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def context(self, step: typing.SupportsInt | typing.SupportsIndex, worker: typing.SupportsInt | typing.SupportsIndex) -> memoryview:
        ...
    def drop_state(self) -> None:
        ...
    def expect_state(self, bytes: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def finish(self, step: typing.SupportsInt | typing.SupportsIndex, last: bool) -> bool:
        ...
    def fold(self, worker: typing.SupportsInt | typing.SupportsIndex, addresses: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> None:
        ...
    def fold_one(self, parameter: typing.SupportsInt | typing.SupportsIndex, address: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def gradients(self) -> memoryview:
        ...
    def hold(self, held: bool) -> None:
        ...
    def leave(self, over: bool) -> None:
        ...
    def limit(self) -> tuple[typing.Any, ...]:
        ...
    def limit_done(self, word: typing.SupportsInt | typing.SupportsIndex, smallest: typing.SupportsInt | typing.SupportsIndex | None, moved: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def merge_used(self, used: bytes) -> None:
        ...
    def offsets(self) -> list[int]:
        ...
    def partial_counts(self) -> list[int]:
        ...
    def partials(self) -> memoryview:
        ...
    def pause_due(self, step: typing.SupportsInt | typing.SupportsIndex) -> bool:
        ...
    def pause_wanted(self) -> bool:
        ...
    def place(self) -> dict[str, typing.Any]:
        ...
    def push(self, worker: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def regroup_due(self, step: typing.SupportsInt | typing.SupportsIndex) -> bool:
        ...
    def say_paused(self, paused: bool) -> None:
        ...
    def stand(self) -> bool:
        ...
    def started_at(self, base: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def state(self, bytes: typing.SupportsInt | typing.SupportsIndex = 0) -> memoryview:
        ...
    def state_done(self, bytes: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
        ...
    def sum_piece(self, addresses: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], first: typing.SupportsInt | typing.SupportsIndex, last: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def times(self) -> tuple[typing.Any, ...]:
        ...
    def used(self) -> bytes:
        ...
class ElasticGroup:
    """
    An elastic job seen from outside.
    """
    def __init__(self, fd: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def await_news(self, seen: typing.SupportsInt | typing.SupportsIndex, seconds: typing.SupportsFloat | typing.SupportsIndex) -> bool:
        ...
    def limit(self, bytes: typing.SupportsInt | typing.SupportsIndex) -> int:
        ...
    def news(self) -> int:
        ...
    def pause(self, wanted: bool) -> int:
        ...
    def report(self) -> dict[str, typing.Any]:
        ...
    def resize(self, target: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
def api() -> typing_extensions.CapsuleType:
    ...
def await_devices(on_paused: typing.Any = None) -> None:
    """
    Waits while the job is paused and its device memory away. Raises KeyboardInterrupt.
    """
def begin_iteration(phase: typing.SupportsInt | typing.SupportsIndex = 0, on_paused: typing.Any = None, step: typing.SupportsInt | typing.SupportsIndex = 0, while_waiting: typing.Any = None) -> None:
    """
    Waits for the turn; `on_paused` is called when the job is found paused, `while_waiting` at least every 100 ms. `step`: the optimizer steps so far. Raises KeyboardInterrupt.
    """
def carry_out_orders() -> None:
    """
    Carries out what was asked of the job, between two iterations and on the thread of them. Call await_devices before anything touches a device.
    """
def cluster_policies() -> list[tuple[str, str]]:
    """
    (name, rule in a line) of each cluster policy.
    """
def cuda_api() -> typing_extensions.CapsuleType:
    ...
def cuda_boundary(device: typing.SupportsInt | typing.SupportsIndex) -> dict[str, typing.Any]:
    ...
def cuda_end_forward() -> None:
    """
    What an iteration used until now is the order in which its layers return.
    """
def cuda_finish_return() -> None:
    """
    Waits for pages that return while an iteration runs; any thread.
    """
def cuda_frozen() -> bool:
    """
    Whether the contexts of this process are away, so that its CUDA calls wait.
    """
def cuda_host_mapping() -> bool:
    ...
def cuda_look_up_cold() -> None:
    """
    What the framework calls cold now may leave when an allocation is refused.
    """
def cuda_make_room(device: typing.SupportsInt | typing.SupportsIndex, need: typing.SupportsInt | typing.SupportsIndex) -> dict[str, typing.Any]:
    """
    Waits for the device, flushes PyTorch's cache and moves cold pages.
    """
def cuda_memory_table(arg0: typing.SupportsInt | typing.SupportsIndex) -> str:
    ...
def cuda_offers_checkpoint() -> bool:
    ...
def cuda_pause_deeply() -> str:
    """
    After a suspension: why the contexts stay, or nothing; then cuda_resume brings them back.
    """
def cuda_report(device: typing.SupportsInt | typing.SupportsIndex) -> dict[str, typing.Any]:
    ...
def cuda_restore(arg0: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    Brings pages back as far as they fit; returns the bytes that are still away.
    """
def cuda_resume(arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
    ...
def cuda_retire() -> None:
    ...
def cuda_set_checkpoint_command(command: collections.abc.Sequence[str]) -> None:
    """
    What starts the helper that has the driver checkpoint this process.
    """
def cuda_set_framework(capturing: typing.Any, flush: typing.Any, cached: typing.Any, cold: typing.Any, late: typing.Any, layers: typing.Any, watch: typing.Any, unwanted: typing.Any, communicators: typing.Any, stream: typing.Any, open_lane: typing.Any, close_lane: typing.Any, why_not_deep: typing.Any) -> None:
    """
    What PyTorch does at a boundary: says whether a graph is being captured, gives the cached memory of a device back, says how much that would be, names cold ranges and those that may return while an iteration runs (last, and layer by layer while operators say what they use), names what may lose its contents, sends the memory of communicators away or brings it back, names the stream that iterations run on, routes allocations to the pool of a lane, says what is alive there, and why the process must not be checkpointed. None for a function: that is not done.
    """
def cuda_set_limit(device: typing.SupportsInt | typing.SupportsIndex, limit: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    Returns by how many bytes the job is over it.
    """
def cuda_share(device: typing.SupportsInt | typing.SupportsIndex, percent: typing.SupportsInt | typing.SupportsIndex) -> tuple[int, int]:
    """
    A stream on a share of the device's multiprocessors, and how many these are.
    """
def cuda_shareable(arg0: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    How many multiprocessors of a device could be shared.
    """
def cuda_start(name: str) -> int:
    """
    Opens the driver and the devices' ledgers; returns how many devices.
    """
def cuda_started() -> bool:
    ...
def cuda_suspend(device: typing.SupportsInt | typing.SupportsIndex, to_file: bool = False) -> int:
    ...
def cuda_suspended_devices() -> list[int]:
    """
    Devices that all pages of this process have left.
    """
def cuda_take_lost(device: typing.SupportsInt | typing.SupportsIndex) -> list[tuple[int, int]]:
    """
    Addresses and sizes of pages that were dropped since the last call, and are back; -1: of all devices.
    """
def cuda_validate() -> None:
    ...
def draw_trace(jobs: typing.SupportsInt | typing.SupportsIndex, gpus: typing.SupportsInt | typing.SupportsIndex, load: typing.SupportsFloat | typing.SupportsIndex, seed: typing.SupportsInt | typing.SupportsIndex) -> Trace:
    """
    Draws a trace, for measurements of speed.
    """
def elastic_checksum(address: typing.SupportsInt | typing.SupportsIndex, bytes: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    A number that differs where a byte of the memory differs, as good as always.
    """
def elastic_create(low: typing.SupportsInt | typing.SupportsIndex, high: typing.SupportsInt | typing.SupportsIndex, target: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    Descriptor of the memory file of a new elastic job. Raises ValueError.
    """
def elastic_plan(workers: typing.SupportsInt | typing.SupportsIndex, processes: typing.SupportsInt | typing.SupportsIndex) -> tuple[list[tuple[int, int]], float, str]:
    """
    Who carries which logical workers: (ranges by rank, byte factor, reason).
    """
def end_iteration(continuing: bool = False) -> None:
    """
    Passes the turn on. `continuing`: the next iteration begins at once.
    """
def expect_iterations(count: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    The job will run `count` more iterations; 0: unknown.
    """
def format_bytes(bytes: typing.SupportsInt | typing.SupportsIndex) -> str:
    """
    Three digits and a binary unit: 1.5 GiB.
    """
def gang_waits() -> bool:
    """
    Whether all processes of the gang wait for its turn, before the same step. For `while_waiting`.
    """
def get_option(name: str) -> str:
    """
    Value of an option as text. Raises KeyError.
    """
def join_gang(key: typing.SupportsInt | typing.SupportsIndex, rank: typing.SupportsInt | typing.SupportsIndex, size: typing.SupportsInt | typing.SupportsIndex, meet: bool = False) -> None:
    """
    From the next boundary on this process has turns together with those of the same key. 0: with nobody, and none by itself. `meet`: the first boundary waits for all, three seconds.
    """
def keep_log() -> None:
    """
    From now on warnings of the library wait for `take_log`. Idempotent.
    """
def leave() -> None:
    ...
def memory_table() -> str:
    ...
def name() -> str:
    """
    The job's name as the daemon made it unique.
    """
def operators_wanted() -> int:
    """
    What operators are to be reported for until the next boundary: 1 recording, 2 pace, or both.
    """
def options() -> list[typing.Any]:
    """
    Every option with its value and where it comes from.
    """
def owns(arg0: typing.SupportsInt | typing.SupportsIndex) -> bool:
    ...
def parse_bytes(text: str) -> int:
    """
    Reads a size such as 1.5GiB, 300MB or 4096. Raises ValueError.
    """
def parse_trace(text: str, name: str) -> Trace:
    """
    Reads the text of a CSV file, as read_trace does.
    """
def read_trace(path: str) -> Trace:
    """
    Reads a CSV file with the columns job_id,submit_s,gpus,duration_s.
    """
def register(script: str) -> None:
    """
    Makes the job known to the daemon; returns at once.
    """
def report() -> dict[str, typing.Any]:
    ...
def resume(now: bool = True) -> None:
    ...
def runtime_dir() -> str:
    """
    Where the socket and the device table of this user live.
    """
def sample() -> None:
    ...
def set_limit(limit: typing.SupportsInt | typing.SupportsIndex, guaranteed: typing.SupportsInt | typing.SupportsIndex = 0, now: bool = True) -> dict[str, typing.Any]:
    ...
def set_option(name: str, value: str, origin: str = 'call') -> None:
    """
    Overrides an option. Raises KeyError for unknown names.
    """
def shutdown(exit_code: typing.SupportsInt | typing.SupportsIndex | None = None) -> None:
    """
    Leaves lane and ledgers; the process is about to end, with that code or the one of exit.
    """
def simulate(trace: Trace, policy: typing.Any, nodes: typing.SupportsInt | typing.SupportsIndex, gpus_per_node: typing.SupportsInt | typing.SupportsIndex, policy_options: dict[str, typing.Any] = {}, cluster_options: dict[str, typing.Any] = {}, timed: bool = False, logged: bool = False, spans: bool = False) -> dict[str, typing.Any]:
    """
    Replays a trace; returns its figures. One node of all GPUs is placement by count.
    """
def start() -> str:
    """
    Starts the runtime of this process from the options; returns the job's name. Idempotent.
    """
def started() -> bool:
    ...
def suspend(now: bool = True, deep: bool = False) -> None:
    ...
def take_log() -> list[typing.Any]:
    """
    Warnings since the last call, the oldest first: pairs of "warning" or "error" and a line "event=... key=value ...". One that goes on comes once a minute.
    """
def validate() -> None:
    ...
