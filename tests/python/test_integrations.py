"""What the adapters refuse, and what they say where a package is missing."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from torchtide.errors import OptionError

torch = pytest.importorskip("torch")


ROOT = pathlib.Path(__file__).resolve().parents[2]


def run_snippet(page: str, marker: str, names: dict[str, Any]) -> dict[str, Any]:
    """Runs the guide's Python block with `marker` in it; what it needs is in `names`."""
    text = (ROOT / "docs/guides" / page).read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", text, re.S) if marker in b]
    space = names | {"__name__": "__main__"}
    exec(compile(block, page, "exec"), space)
    return space


@pytest.mark.parametrize("name", ["transformers", "lightning", "ray"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(name: str) -> None:
    program = (
        f"import sys; sys.modules[{name!r}] = None\n"
        f"try:\n    import torchtide.integrations.{name}\n"
        "except ImportError as error:\n    print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert f'needs {name}: pip install "torchtide[{name}]"' in ended.stdout


@pytest.fixture
def hugging_face(tmp_path: pathlib.Path) -> Callable[..., Any]:
    """Makes an ElasticTrainer over eight samples; arguments of TrainingArguments."""
    transformers = pytest.importorskip("transformers")
    from torchtide.integrations.transformers import ElasticTrainer

    class Model(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, x: Any) -> dict[str, Any]:
            return {"loss": self.layer(x).square().mean()}

    def make(kind: type = ElasticTrainer, samples: int = 8, **options: Any) -> Any:
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), report_to=[], use_cpu=True, disable_tqdm=True,
            save_strategy="no", max_steps=2, **options,
        )  # fmt: skip
        data = [{"x": torch.ones(2) * index} for index in range(samples)]
        return kind(Model(), arguments, train_dataset=data, workers=4)

    return make


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"neftune_noise_alpha": 1.0}, "neftune_noise_alpha"),
        ({"auto_find_batch_size": True}, "the batch defines the result"),
        ({"push_to_hub": True}, "push when the training is over"),
        ({"include_num_input_tokens_seen": "all"}, "include_num_input_tokens_seen"),
        ({"eval_on_start": True, "eval_strategy": "no"}, "call evaluate"),
    ],
)
def test_trainers_options_that_cannot_work_are_refused(
    hugging_face: Callable[..., Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        hugging_face(**options)


def test_a_training_step_that_would_not_be_called_is_refused(
    hugging_face: Callable[..., Any],
) -> None:
    from torchtide.integrations.transformers import ElasticTrainer

    class Own(ElasticTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError

    with pytest.raises(OptionError, match="override compute_loss"):
        hugging_face(Own)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_sampling_strategy": "group_by_length"}, "chooses samples by itself"),
        ({"samples": 3}, "3 samples cannot feed 4 logical workers"),
    ],
)
def test_data_that_cannot_be_divided_are_refused_before_the_first_step(
    hugging_face: Callable[..., Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        hugging_face(per_device_train_batch_size=1, **options).train()


def test_a_folder_that_trainer_itself_has_written_is_no_checkpoint_of_a_run(
    hugging_face: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    trainer = hugging_face(per_device_train_batch_size=1)
    assert trainer.train().global_step == 2
    with pytest.raises(OptionError, match=r"has no elastic\.pt"):
        trainer.train(resume_from_checkpoint=str(tmp_path))
    with pytest.raises(OptionError, match="there is no checkpoint"):
        trainer.train(resume_from_checkpoint=True)


@pytest.fixture
def lightning_module() -> Any:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: Any, index: int) -> Any:
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Module


def fit(module: Any, samples: int = 8, **options: Any) -> Any:
    from torchtide.integrations.lightning import ElasticTrainer

    data = torch.utils.data.TensorDataset(torch.ones(samples, 2))
    loader = torch.utils.data.DataLoader(data, batch_size=1)
    return ElasticTrainer(workers=4, **options).fit(module, loader)


def test_a_plain_module_is_fitted(lightning_module: Any) -> None:
    module = lightning_module()
    before = module.layer.weight.detach().clone()
    fit(module)
    assert not torch.equal(before, module.layer.weight)


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("automatic_optimization", property(lambda self: False), "steps its optimizers itself"),
        ("backward", lambda self, loss: loss.backward(), "backward would not be called"),
        ("training_step", lambda self, batch, index: None, "a batch cannot be left out"),
        ("configure_optimizers", lambda self: [], "0 optimizers"),
        (
            "configure_optimizers",
            lambda self: {
                "optimizer": (o := torch.optim.SGD(self.parameters(), 0.1)),
                "lr_scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(o),
            },
            "follows metrics",
        ),
    ],
)
def test_modules_that_cannot_be_trained_are_refused(
    lightning_module: Any, member: str, value: Any, words: str
) -> None:
    odd = type("Odd", (lightning_module,), {member: value})
    with pytest.raises(OptionError, match=words):
        fit(odd())


def test_words_and_numbers_that_make_no_sense_are_refused(lightning_module: Any) -> None:
    with pytest.raises(OptionError, match="32-true or bf16-mixed"):
        fit(lightning_module(), precision="16-mixed")
    with pytest.raises(OptionError, match="3 samples cannot feed 4"):
        fit(lightning_module(), samples=3)
    with pytest.raises(OptionError, match="no LightningModule"):
        fit(torch.nn.Linear(2, 1))


def test_the_guides_lines_for_hugging_face_train(tmp_path: pathlib.Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=16, n_positions=4, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0
    )
    rows = [{"input_ids": torch.tensor([i % 16, 1, 2, 3])} for i in range(20)]
    data = [row | {"labels": row["input_ids"]} for row in rows]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), report_to=[], use_cpu=True, disable_tqdm=True, max_steps=3
    )
    model = transformers.GPT2LMHeadModel(config)
    names = {"model": model, "arguments": arguments, "data": data, "held_out": data[:4]}
    space = run_snippet("frameworks.md", "integrations.transformers", names)
    assert space["trainer"].state.global_step == 3


def test_the_guides_lines_for_lightning_train(
    lightning_module: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = torch.utils.data.TensorDataset(torch.ones(16, 2))
    loader = torch.utils.data.DataLoader(data, batch_size=1)
    names = {"module": lightning_module(), "train_loader": loader, "val_loader": None}
    run_snippet("frameworks.md", "integrations.lightning", names)
    assert torch.load(tmp_path / "run.pt")["step"] == 6


@pytest.mark.integration
@pytest.mark.slow
def test_the_guides_lines_for_ray_train(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray")
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("TIDE_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "python"))

    def make() -> tuple[Any, Any]:
        model = torch.nn.Linear(4, 2)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    dataset = torch.utils.data.TensorDataset(torch.ones(51200, 4), torch.zeros(51200).long())
    names = {"make": make, "dataset": dataset, "criterion": torch.nn.functional.cross_entropy}
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20)
    monkeypatch.setattr(ray, "init", lambda: None)
    try:
        run_snippet("elastic.md", "tide_ray.start", names)
    finally:
        ray.shutdown()
    assert "[600, 600]" in capsys.readouterr().out
