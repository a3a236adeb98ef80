"""Checks: what torch promises about CPU tensors holds with the runtime on, over boundaries."""

import copy
import io
import os
import pathlib
import tempfile
import threading
import warnings

import checks
import numpy as np
import torch
import torchtide as tide
from checks import check
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.mkldnn import to_mkldnn
from torchtide import _core

COUNT = 1 << 20  # floats: 4 MiB, far above the smallest block of the arena

torch.set_num_threads(1)


def reference_output(model_of):
    """What plain torch computes; called before the hook is set."""
    torch.manual_seed(0)
    model = model_of()
    return model(torch.randn(8, 3, 128, 128)).detach()


def convolutions():
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3))


class Rows(Dataset):
    """A data set whose workers scribble over the tensor they share with the parent by fork."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return 4

    def __getitem__(self, index):
        value = self.rows[index].clone()
        self.rows.fill_(-1.0)
        mine = torch.full((COUNT,), float(index))  # workers allocate large blocks too
        return value + mine[0] - index


if __name__ == "__main__":
    BORN_BEFORE = [torch.arange(COUNT, dtype=torch.float32) for _ in range(4)]
    PLAIN_OUTPUT = reference_output(convolutions)
    tide.start()


def boundary():
    """The job comes to a boundary: in a hostile configuration every page moves here."""
    tide.runtime.boundary()
    _core.validate()


def ours(tensor):
    return _core.owns(tensor.untyped_storage().data_ptr())


def only_with_private_pages():
    """For what takes seconds and is the same wherever the pages are."""
    if os.environ.get("TIDE_TEST_ALWAYS_SPILL") or os.environ.get("TIDE_TEST_ALWAYS_SUSPEND"):
        raise checks.Skip("runs with private pages only")


def in_child(work):
    """Runs `work` in a forked child; what it raises is an exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@check
def blocks_are_aligned_and_large_ones_are_ours():
    for size in (1, 63, 4097, (1 << 18) - 1, 1 << 18, COUNT + 17):
        tensor = torch.empty(size)
        assert tensor.data_ptr() % 64 == 0, size
        assert ours(tensor) == (size >= 1 << 18), size


@check
def zero_size_tensors_behave_as_always():
    empty = torch.empty(0)
    assert empty.data_ptr() == 0 and empty.sum().item() == 0
    boundary()
    grown = empty.resize_(COUNT).fill_(3.0)
    boundary()
    assert ours(grown) and grown.sum().item() == 3.0 * COUNT
    assert torch.cat([torch.empty(0, 5), torch.ones(2, 5)]).shape == (2, 5)


@check
def a_forked_child_writes_only_its_own_copy():
    tensor = torch.ones(COUNT)
    boundary()

    def work():
        same = tensor.sum().item() == COUNT
        tensor.fill_(7.0)
        fresh = torch.full((COUNT,), 2.0) + tensor
        return same and fresh.sum().item() == 9.0 * COUNT

    in_child(work)
    assert torch.equal(tensor, torch.ones(COUNT))
    boundary()
    assert torch.equal(tensor, torch.ones(COUNT))


@check
def a_child_forked_inside_an_iteration_can_train_and_exit():
    boundary()
    weight = torch.ones(COUNT, requires_grad=True)
    kept = weight * 2

    def work():
        kept.sum().backward()
        with torch.no_grad():
            weight.sub_(weight.grad)
        return weight.detach().sum().item() == -COUNT

    in_child(work)
    assert weight.grad is None and kept.sum().item() == 2.0 * COUNT
    boundary()
    assert weight.detach().sum().item() == COUNT


@check
def pages_that_are_freed_and_used_again_do_not_change_what_a_child_sees():
    tensor = torch.full((COUNT,), 5.0)
    boundary()
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go[1])
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0 if tensor.sum().item() == 5.0 * COUNT else 1)
    os.read(ready[0], 1)
    del tensor
    others = [torch.full((COUNT,), float(i)) for i in range(4)]
    boundary()
    os.write(go[1], b"x")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert [other.mean().item() for other in others] == [0.0, 1.0, 2.0, 3.0]


@check
def forked_loader_workers_leave_the_parents_tensor_alone():
    rows = torch.arange(4.0).repeat_interleave(COUNT).reshape(4, COUNT).clone()
    boundary()
    batches = []
    for batch in DataLoader(
        Rows(rows), batch_size=2, num_workers=2, multiprocessing_context="fork"
    ):
        boundary()
        batches.append(batch)
    assert rows.sum().item() == 6.0 * COUNT
    # each worker reads one batch: its first row as it was, its second after its own scribble
    assert [batch[:, 0].tolist() for batch in batches] == [[0.0, -1.0], [2.0, -1.0]]


@check
def spawned_loader_workers_deliver_and_leave_the_parents_tensor_alone():
    only_with_private_pages()
    rows = torch.ones(4, COUNT)
    boundary()
    loader = DataLoader(
        Rows(rows.clone()), batch_size=4, num_workers=1, multiprocessing_context="spawn"
    )
    batches = list(loader)
    boundary()
    assert batches[0][0].sum().item() == COUNT
    assert rows.sum().item() == 4.0 * COUNT


@check
def shared_memory_is_still_shared():
    tensor = torch.ones(COUNT)
    boundary()
    tensor.share_memory_()
    assert tensor.is_shared() and not ours(tensor)
    boundary()
    in_child(lambda: tensor.fill_(4.0) is tensor)
    boundary()
    assert tensor.sum().item() == 4.0 * COUNT


@check
def numpy_views_stay_views_over_boundaries():
    tensor = torch.zeros(COUNT)
    view = tensor.numpy()
    array = np.zeros(COUNT, dtype=np.float32)
    borrowed = torch.from_numpy(array)
    boundary()
    tensor.add_(1.0)
    view[0] = 9.0
    array[1] = 5.0
    boundary()
    assert view[1] == 1.0 and tensor[0].item() == 9.0 and borrowed[1].item() == 5.0
    del tensor
    boundary()
    torch.full((COUNT,), -1.0)
    assert view[0] == 9.0 and view.sum() == COUNT + 8.0  # the array alone keeps the block


@check
def saved_tensors_load_from_buffers_files_and_mappings():
    tensor = torch.arange(COUNT, dtype=torch.float32)
    boundary()
    buffer = io.BytesIO()
    torch.save({"tensor": tensor, "view": tensor[10:20]}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer)
    assert torch.equal(loaded["tensor"], tensor)
    assert loaded["view"].data_ptr() == loaded["tensor"][10:].data_ptr()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "state.pt"
        torch.save(tensor, path)
        boundary()
        assert torch.equal(torch.load(path), tensor)
        mapped = torch.load(path, mmap=True)
        boundary()
        assert torch.equal(mapped, tensor) and not ours(mapped)
        mapped.add_(1.0)  # private: the file keeps its contents
        assert torch.equal(torch.load(path), tensor)


@check
def tensors_born_before_the_hook_resize_and_die():
    first, second, third, fourth = BORN_BEFORE
    BORN_BEFORE.clear()
    assert not ours(first)
    boundary()
    expected = torch.arange(COUNT, dtype=torch.float32)
    first.resize_(2 * COUNT)
    assert torch.equal(first[:COUNT], expected)
    second.untyped_storage().resize_(0)
    assert second.untyped_storage().nbytes() == 0
    boundary()
    second.untyped_storage().resize_(4 * COUNT)
    second.fill_(1.0)
    third.resize_(4)
    third.set_(torch.ones(COUNT))
    boundary()
    assert second.sum().item() == COUNT and third.sum().item() == COUNT
    del first, second, third
    boundary()
    assert torch.equal(fourth, expected)


@check
def tensors_of_ours_resize_in_both_directions():
    tensor = torch.arange(COUNT, dtype=torch.float32)
    boundary()
    tensor.resize_(3 * COUNT)
    boundary()
    assert torch.equal(tensor[:COUNT], torch.arange(COUNT, dtype=torch.float32))
    tensor.resize_(100)
    assert tensor[99].item() == 99.0
    storage = tensor.untyped_storage()
    storage.resize_(400)  # below the smallest block: torch's own allocator takes it over
    assert not ours(tensor) and tensor[99].item() == 99.0
    storage.resize_(0)
    boundary()
    storage.resize_(4 * COUNT)
    assert ours(tensor)
    boundary()
    assert tensor.fill_(2.0).sum().item() == 200.0


@check
def onednn_layers_compute_the_same():
    if not torch.backends.mkldnn.is_available():
        raise checks.Skip("this torch has no oneDNN")
    torch.manual_seed(0)
    model = convolutions()
    inputs = torch.randn(8, 3, 128, 128)
    boundary()
    assert torch.equal(model(inputs), PLAIN_OUTPUT)
    dense = inputs.to_mkldnn()
    boundary()
    assert torch.equal(dense.to_dense(), inputs)
    linear = nn.Linear(2048, 1024)
    rows = torch.randn(512, 2048)
    plain = linear(rows)
    boundary()
    with torch.no_grad():
        converted = to_mkldnn(copy.deepcopy(linear))
        again = converted(rows.to_mkldnn()).to_dense()
    boundary()
    assert torch.allclose(again, plain, atol=1e-5)


@check
def a_deep_copy_is_independent():
    model = nn.Linear(1024, 1024)
    average = copy.deepcopy(model)
    boundary()
    with torch.no_grad():
        before = average.weight.clone()
        model.weight.fill_(1.0)
        assert torch.equal(average.weight, before)
        boundary()
        average.weight.lerp_(model.weight, 0.5)
        boundary()
        assert torch.equal(average.weight, before.lerp(torch.ones(()), 0.5))


@check
def tensors_of_other_threads_are_pinned_and_keep_what_is_written_meanwhile():
    boundary()
    before = tide.report()
    made, stop, wrong = threading.Event(), threading.Event(), []

    def prefetch():
        tensor = torch.zeros(COUNT)
        made.set()
        steps = 0
        while not stop.is_set() or steps < 10:
            tensor.add_(1.0)
            steps += 1
            if tensor[0].item() != steps or tensor[-1].item() != steps:
                wrong.append(steps)
                return
        if tensor.sum().item() != float(steps) * COUNT:
            wrong.append("sum")

    thread = threading.Thread(target=prefetch)
    thread.start()
    assert made.wait(30)
    during = tide.report()
    for _ in range(10):
        boundary()
    stop.set()
    thread.join()
    assert wrong == []
    assert during["foreign_thread_allocations"] > before["foreign_thread_allocations"]
    assert during["pinned"] >= before["pinned"] + 4 * COUNT


@check
def a_tensor_of_another_thread_may_be_freed_here():
    made = []
    thread = threading.Thread(target=lambda: made.append(torch.ones(COUNT)))
    thread.start()
    thread.join()
    pinned = tide.report()["pinned"]
    boundary()
    assert made[0].sum().item() == COUNT
    made.clear()
    boundary()
    assert tide.report()["pinned"] == pinned - 4 * COUNT


@check
def the_profiler_sees_our_bytes():
    only_with_private_pages()
    boundary()
    with torch.profiler.profile(profile_memory=True) as profile:
        kept = torch.ones(COUNT)
        del kept
    usage = {event.key: event.self_cpu_memory_usage for event in profile.key_averages()}
    assert usage["aten::empty"] >= 4 * COUNT, usage
    assert usage["[memory]"] <= -4 * COUNT, usage


@check
def compiled_functions_compute_the_same():
    only_with_private_pages()
    inputs = torch.arange(COUNT, dtype=torch.float32, requires_grad=True)

    def body(values):
        return (values * 2 + 1).relu().sum()

    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        compiled = torch.compile(body, backend=backend)
        for _ in range(3):
            boundary()
            inputs.grad = None
            loss = compiled(inputs)
            loss.backward()
            assert loss.item() == body(inputs.detach()).item()
            assert torch.equal(inputs.grad, torch.full((COUNT,), 2.0))


@check
def storages_outlive_their_tensors_and_views_keep_them():
    tensor = torch.arange(COUNT, dtype=torch.float32)
    view = tensor.view(1024, -1)[3]
    address = tensor.data_ptr()
    del tensor
    for _ in range(3):
        boundary()
    assert view.data_ptr() == address + 3 * 4096
    assert torch.equal(view, torch.arange(3072.0, 4096.0))


@check
def addresses_stay_over_limits_and_suspension():
    tensors = [torch.full((COUNT,), float(i)) for i in range(8)]
    tide.runtime.GATE.end()
    addresses = [tensor.data_ptr() for tensor in tensors]
    tide.pause()
    assert tide.report()["suspended"] and tide.report()["demoted"] >= 32 << 20
    assert [tensor.mean().item() for tensor in tensors] == [float(i) for i in range(8)]
    tide.resume()
    _core.sample()
    report = tide.report()
    # what is outside of tensors may grow between the two calls
    limit = max(report["smallest_limit"], report["outside"] + 4 * COUNT) + (8 << 20)
    answer = tide.set_limit(limit)
    assert answer["status"] in ("applied", "deferred"), answer
    tensors[0].add_(1.0)
    tide.set_limit(None)
    boundary()
    assert [tensor.data_ptr() for tensor in tensors] == addresses
    assert [tensor.mean().item() for tensor in tensors] == [1.0, *map(float, range(1, 8))]


@check
def the_configuration_was_what_it_says():
    report = tide.report()
    assert report["allocations"] > 50, report
    if os.environ.get("TIDE_TEST_ALWAYS_SPILL") or os.environ.get("TIDE_TEST_ALWAYS_SUSPEND"):
        assert report["demoted_pages_total"] > 50, report
    _core.validate()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    checks.main()
