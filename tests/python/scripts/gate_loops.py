"""Checks: iterations are counted as the author of the loop would count them."""

import copy
import io
import pickle
import threading

import torch
import torchtide as tide
from checks import check, main
from torch import nn
from torchtide import _gate

torch.set_num_threads(1)
tide.start()
GATE = _gate.GATE


def batches(count):
    return [(torch.randn(4, 8), torch.randint(3, (4,))) for _ in range(count)]


def model_and_optimizer(**options):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    return model, torch.optim.Adam(model.parameters(), **options)


def train(model, optimizer, inputs, targets):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()


def count():
    """Iterations that have ended, the open one included."""
    GATE.end()
    return tide.report()["iterations"]


class Counting:
    """`with Counting(7):` fails when another number of iterations was seen."""

    def __init__(self, expected):
        self.expected = expected

    def __enter__(self):
        self.before = count()

    def __exit__(self, kind, *rest):
        if kind is None:
            seen = count() - self.before
            assert seen == self.expected, f"{seen} iterations, not {self.expected}"


def warmed_up(model, optimizer):
    """Steps first, so that the outermost module is known: before, a boundary may be missing."""
    for inputs, targets in batches(3):
        train(model, optimizer, inputs, targets)


@check
def the_first_loop_without_code_change_misses_at_most_the_first_boundary():
    model, optimizer = model_and_optimizer()
    before = count()
    for inputs, targets in batches(6):
        train(model, optimizer, inputs, targets)
    assert count() - before in (5, 6)


@check
def each_step_of_a_plain_loop_is_one():
    model, optimizer = model_and_optimizer()
    warmed_up(model, optimizer)
    with Counting(6):
        for inputs, targets in batches(6):
            train(model, optimizer, inputs, targets)


@check
def each_batch_of_iterations_is_one_from_the_first():
    model, optimizer = model_and_optimizer()
    with Counting(6):
        for inputs, targets in tide.iterations(batches(6)):
            train(model, optimizer, inputs, targets)


@check
def a_second_model_in_the_same_process_is_counted_too():
    for _ in range(3):  # folds; each model may be born where the last one died
        model, optimizer = model_and_optimizer()
        before = count()
        for inputs, targets in batches(8):
            train(model, optimizer, inputs, targets)
        assert count() - before in (7, 8)
        del model, optimizer


@check
def accumulated_gradients_make_one_of_several_forwards():
    model, optimizer = model_and_optimizer()
    warmed_up(model, optimizer)
    for wrap in (list, tide.iterations):
        with Counting(3):
            for index, (inputs, targets) in enumerate(wrap(batches(12))):
                (nn.functional.cross_entropy(model(inputs), targets) / 4).backward()
                if index % 4 == 3:
                    optimizer.step()
                    optimizer.zero_grad()


@check
def several_optimizers_that_step_in_a_row_make_one():
    model, first = model_and_optimizer()
    second = torch.optim.SGD(model[2].parameters(), lr=0.1)
    third = torch.optim.SGD(model[0].parameters(), lr=0.1)
    warmed_up(model, first)
    for wrap in (list, tide.iterations):
        with Counting(5):
            for inputs, targets in wrap(batches(5)):
                nn.functional.cross_entropy(model(inputs), targets).backward()
                for optimizer in (first, second, third):
                    optimizer.step()
                for optimizer in (first, second, third):
                    optimizer.zero_grad()


def gan_step(discriminator_first):
    generator, discriminator = nn.Linear(4, 8), nn.Linear(8, 1)
    of_g = torch.optim.Adam(generator.parameters())
    of_d = torch.optim.Adam(discriminator.parameters())

    def step():
        """Returns the phases of the two halves."""
        if discriminator_first:
            real, fake = discriminator(torch.randn(4, 8)), generator(torch.randn(4, 4))
        else:
            fake, real = generator(torch.randn(4, 4)), discriminator(torch.randn(4, 8))
        of_d.zero_grad()
        (discriminator(fake.detach()) - real).sum().backward()
        first = GATE.phase
        of_d.step()
        of_g.zero_grad()
        (-discriminator(fake)).sum().backward()
        of_g.step()
        return first, GATE.phase

    return step


@check
def a_gan_is_one_where_the_generator_comes_first():
    step = gan_step(discriminator_first=False)
    for _ in range(4):
        step()
    with Counting(5):
        phases = [step() for _ in range(5)]
    assert len({phase for halves in phases[1:] for phase in halves}) == 1, phases


@check
def the_halves_of_a_gan_are_two_and_learnt_apart_where_the_discriminator_comes_first():
    step = gan_step(discriminator_first=True)
    for _ in range(4):
        step()
    with Counting(10):
        phases = [step() for _ in range(5)]
    assert len(set(phases[1:])) == 1 and phases[1][0] != phases[1][1], phases


@check
def compiled_models_are_counted():
    for in_place in (False, True):
        model, optimizer = model_and_optimizer()
        compiled = model
        if in_place:
            model.compile(backend="eager")
        else:
            compiled = torch.compile(model, backend="eager")
        warmed_up(compiled, optimizer)
        before = count()
        for inputs, targets in batches(4):
            train(compiled, optimizer, inputs, targets)
        assert count() - before in ((3, 4) if in_place else (4,))
        with Counting(4):
            for inputs, targets in tide.iterations(batches(4)):
                train(compiled, optimizer, inputs, targets)


@check
def a_loop_of_plain_functions_with_an_optimizer_counts_its_steps():
    weight = torch.randn(8, 3, requires_grad=True)
    optimizer = torch.optim.Adam([weight])
    before = count()
    for inputs, targets in batches(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(inputs @ weight, targets).backward()
        optimizer.step()
    assert count() - before in (5, 6)


@check
def a_checkpointed_forward_inside_backward_is_no_boundary():
    from torch.utils.checkpoint import checkpoint

    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)])
    optimizers = {weight: torch.optim.SGD([weight], lr=0.1) for weight in model.parameters()}
    for weight, optimizer in optimizers.items():
        weight.register_post_accumulate_grad_hook(lambda w, o=optimizer: o.step())

    def step():
        values = torch.randn(4, 8)
        for layer in model:
            values = checkpoint(layer, values, use_reentrant=False)
        values.sum().backward()

    for _ in range(3):
        step()
    with Counting(4):
        for _ in tide.iterations(range(4)):
            step()


@check
def a_step_that_the_scaler_skips_ends_its_iteration():
    model, optimizer = model_and_optimizer()
    warmed_up(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    weights = model[0].weight.detach().clone()
    with Counting(4):
        for _, (inputs, targets) in enumerate(batches(4)):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.cross_entropy(model(inputs), targets)
            scaler.scale(loss * float("inf")).backward()
            scaler.step(optimizer)
            scaler.update()
    assert torch.equal(model[0].weight, weights)


@check
def evaluation_cuts_into_slices_and_training_goes_on():
    model, optimizer = model_and_optimizer()
    warmed_up(model, optimizer)
    for guard in (torch.no_grad, torch.inference_mode):
        with Counting(4 + 3):
            for inputs, targets in batches(4):
                train(model, optimizer, inputs, targets)
            model.eval()
            with guard():
                for inputs, _ in batches(3):
                    model(inputs)
                    assert GATE.phase == _gate._EVALUATION
            model.train()
        with Counting(2):
            for inputs, targets in batches(2):
                train(model, optimizer, inputs, targets)
                assert GATE.phase != _gate._EVALUATION


@check
def a_teachers_forward_belongs_to_the_iteration():
    model, optimizer = model_and_optimizer()
    teacher = copy.deepcopy(model)
    warmed_up(model, optimizer)
    with Counting(5):
        for inputs, _ in batches(5):
            optimizer.zero_grad()
            outputs = model(inputs)
            with torch.no_grad():
                wished = teacher(inputs)
                model(inputs)
            (outputs - wished).square().sum().backward()
            optimizer.step()


@check
def a_step_with_a_closure_is_one_however_often_it_is_called():
    model = nn.Linear(8, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    inputs, targets = batches(1)[0]
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    calls.clear()
    with Counting(4):
        for _ in range(4):
            optimizer.step(closure)
    assert len(calls) > 8


@check
def a_loop_without_modules_counts_batches_even_after_one_with():
    model, optimizer = model_and_optimizer()
    for inputs, targets in tide.iterations(batches(3)):
        train(model, optimizer, inputs, targets)
    weight = torch.randn(8, 3, requires_grad=True)
    plain = torch.optim.SGD([weight], lr=0.1)
    with Counting(6):
        for inputs, targets in tide.iterations(batches(6)):
            plain.zero_grad()
            nn.functional.cross_entropy(inputs @ weight, targets).backward()
            plain.step()
    with Counting(6):
        for inputs, _ in tide.iterations(batches(6)):
            with torch.no_grad():
                weight.add_((inputs @ weight).sum() * 1e-9)


@check
def nested_iterations_count_each_batch_of_both():
    model, optimizer = model_and_optimizer()
    with Counting(3 + 6):
        for inputs, targets in tide.iterations(batches(3)):
            train(model, optimizer, inputs, targets)
            with torch.no_grad():
                for inner, _ in tide.iterations(batches(2)):
                    model(inner)


@check
def an_exception_in_the_loop_ends_its_iteration():
    model, optimizer = model_and_optimizer()
    before = count()
    try:
        for index, (inputs, targets) in enumerate(loop := tide.iterations(batches(6))):
            train(model, optimizer, inputs, targets)
            if index == 2:
                raise KeyError("a bug of the user")
    except KeyError:
        loop.close()  # without it the reference in the traceback decides when
    assert not GATE.open
    assert tide.report()["iterations"] - before == 3
    with Counting(2):
        for inputs, targets in tide.iterations(batches(2)):
            train(model, optimizer, inputs, targets)


@check
def a_loop_that_is_left_early_ends_its_iteration():
    model, optimizer = model_and_optimizer()
    before = count()
    for inputs, targets in tide.iterations(batches(6)):
        train(model, optimizer, inputs, targets)
        break
    assert not GATE.open
    assert tide.report()["iterations"] - before == 1


@check
def an_exception_of_the_loader_reaches_the_caller():
    def broken():
        yield from batches(2)
        raise ValueError("a bad file")

    before = count()
    try:
        for _ in tide.iterations(broken()):
            pass
    except ValueError as error:
        assert str(error) == "a bad file"
    else:
        raise AssertionError("nothing was raised")
    assert not GATE.open and tide.report()["iterations"] - before == 2


@check
def saving_a_checkpoint_is_no_iteration_and_keeps_nothing_of_ours():
    model, optimizer = model_and_optimizer()
    warmed_up(model, optimizer)
    with Counting(4):
        for inputs, targets in batches(4):
            train(model, optimizer, inputs, targets)
            buffer = io.BytesIO()
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    assert b"torchtide" not in buffer.getvalue()


@check
def a_model_that_was_trained_can_be_copied_pickled_and_saved_whole():
    model, optimizer = model_and_optimizer()
    warmed_up(model, optimizer)
    inputs = torch.randn(2, 8)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    assert b"torchtide" not in buffer.getvalue()  # it loads where torchtide is not installed
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded, copy.copy(model)):
        assert torch.equal(same(inputs), model(inputs))
    average = copy.deepcopy(model)
    with Counting(3):
        for batch, targets in batches(3):
            train(model, optimizer, batch, targets)
            with torch.no_grad():
                for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                    mean.lerp_(now, 0.1)


@check
def a_copy_that_is_trained_alone_is_counted_once_a_step():
    model, optimizer = model_and_optimizer()
    warmed_up(model, optimizer)
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    warmed_up(twin, optimizer)
    with Counting(4):
        for inputs, targets in batches(4):
            train(twin, optimizer, inputs, targets)
    with Counting(4), torch.no_grad():
        for inputs, _ in batches(4):
            twin(inputs)


@check
def another_thread_neither_counts_nor_moves_the_boundary():
    model, optimizer = model_and_optimizer()
    warmed_up(model, optimizer)
    trouble = []

    def serve():
        try:
            other, its = model_and_optimizer()
            for inputs, targets in tide.iterations(batches(4)):
                train(other, its, inputs, targets)
                model(inputs)
        except Exception as error:
            trouble.append(error)

    with Counting(3):
        for inputs, targets in batches(3):
            train(model, optimizer, inputs, targets)
            thread = threading.Thread(target=serve)
            thread.start()
            thread.join()
            assert GATE.open
    assert trouble == []


@check
def training_may_move_to_another_thread_between_loops():
    def fit():
        model, optimizer = model_and_optimizer()
        for inputs, targets in tide.iterations(batches(5)):
            train(model, optimizer, inputs, targets)

    fit()
    with Counting(5):
        thread = threading.Thread(target=fit)
        thread.start()
        thread.join()
    with Counting(5):
        fit()


@check
def boundaries_by_hand_count():
    with Counting(3):
        for _ in range(3):
            tide.runtime.boundary()


@check
def the_remaining_time_is_predicted_from_the_length_of_the_loader():
    model, optimizer = model_and_optimizer()
    warmed_up(model, optimizer)
    seen = []
    for inputs, targets in tide.iterations(batches(40)):
        train(model, optimizer, inputs, targets)
        seen.append(tide.report()["remaining_seconds"])
    assert seen[10] > seen[-2] > 0, seen
    for _ in tide.iterations(batches(3), total=1000):
        pass
    assert tide.report()["remaining_seconds"] > 5 * seen[10], seen
    for _ in tide.iterations(iter(batches(3))):  # of no known length
        pass
    assert tide.report()["remaining_seconds"] is None


if __name__ == "__main__":
    main()
