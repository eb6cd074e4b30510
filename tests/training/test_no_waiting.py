"""A GPU works ahead of Python until something reads a value. Each reading is a `_local_scalar_dense` in the dispatcher,
or a call of `tolist`, `cpu` or `numpy`, on any device, so that a CPU can count them.
"""

from functools import partial

import pytest
import torch
from tiny_runs import tiny_overrides
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.losses import list_losses
from modeling_cssfe.training import load_recipe, loop, monitor, train


# What has to know a value on the host: .item(), bool(tensor) and float(tensor); results whose size is a value.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero", "bincount")


class ReadingsCounted(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self.patch = pytest.MonkeyPatch()

    def __enter__(self):
        for name in ("tolist", "cpu", "numpy"):
            self.patch.setattr(torch.Tensor, name, self._counted(name, getattr(torch.Tensor, name)))
        return super().__enter__()

    def __exit__(self, *error):
        self.patch.undo()
        return super().__exit__(*error)

    def _counted(self, name, method):
        def counted(tensor, *args, **kwargs):
            self.found.append(name)
            return method(tensor, *args, **kwargs)

        return counted

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split("::")[-1].split(".")[0]
        if name in WAITING or (
            name == "index" and args[1] and args[1][0] is not None and args[1][0].dtype == torch.bool
        ):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def test_the_counter_counts():
    with ReadingsCounted() as readings:
        values = torch.tensor([1.0, -1.0])
        assert values.sum().item() == 0
        assert bool((values > 0).any())
        assert len(values[values > 0]) == 1
        assert values.tolist() == [1, -1]
    assert readings.found == ["_local_scalar_dense", "_local_scalar_dense", "index", "tolist"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augment_on_device": "true", "color_jitter": 0.2, "random_erasing": 0.2},
        {"optimizer": "sgd", "ema_decay": "null", "schedule": "cosine", "record_gradients": "true"},
    ],
    ids=lambda changes: " ".join(changes) or "defaults",
)
def test_an_update_reads_nothing_back_from_the_device(tiny_data, tmp_path, monkeypatch, changes):
    counts = []
    update = loop._update

    def counted(*arguments):
        with ReadingsCounted() as readings:
            update(*arguments)
        counts.append(readings.found)

    monkeypatch.setattr(loop, "_update", counted)
    # On a CPU, where reading costs nothing, losses are looked at each step; here as on a GPU.
    as_on_a_gpu = partial(monitor.LossMonitor, every=monitor._CHECK_EVERY)
    monkeypatch.setattr(monitor, "LossMonitor", lambda *args, every, **kwargs: as_on_a_gpu(*args, **kwargs))
    recipe = load_recipe(None, tiny_overrides(tiny_data, batch_size=1, epochs=1, **changes))
    train(recipe, tmp_path / "run", quiet=True)
    assert len(counts) == 18
    # Every ten steps the losses since the last time are looked at, in one reading.
    assert [number for number, found in enumerate(counts) if found] == [9], counts
    assert counts[9] == ["tolist"]


@pytest.mark.parametrize("name", list_losses())
def test_a_loss_reads_nothing_back_from_the_device(name):
    config = CSSFEConfig(
        backbone="test_resnet", image_size=64, class_counts=[3, 8, 140], num_samples=150, loss=name, hidden_size=16,
        num_attention_heads=2, attention_head_dim=4, intermediate_size=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CSSFEForImageClassification(config).train()
    labels = torch.tensor([[1, 0, 1], [0, 1, -1.0]])
    assert model.loss_function is not None  # constants are made once
    model(torch.randn(2, 3, 64, 64), labels=labels).loss.backward()
    with ReadingsCounted() as readings:
        model(torch.randn(2, 3, 64, 64), labels=labels).loss.backward()
    assert readings.found == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA's own check of what waits needs a GPU")
def test_cuda_itself_finds_nothing_that_waits_in_an_update(tiny_data, tmp_path, monkeypatch):
    update = loop._update

    def checked(*arguments):
        torch.cuda.set_sync_debug_mode("error")
        try:
            update(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop, "_update", checked)
    changes = {"augment_on_device": "true", "color_jitter": 0.2, "mixed_precision": "bf16"}
    recipe = load_recipe(None, tiny_overrides(tiny_data, batch_size=3, **changes))  # six steps: no look at the losses
    results = train(recipe, tmp_path / "run", quiet=True)
    assert results["best_epoch"] in (1, 2)
