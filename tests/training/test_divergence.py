import json
import re
from statistics import median

import datasets
import numpy as np
import pytest
import torch
from tiny_runs import make_scene, tiny_overrides, write_parquet

import modeling_cssfe.training.preparation
from modeling_cssfe.cli import main
from modeling_cssfe.training import load_recipe, train
from modeling_cssfe.training.divergence import LossMonitor


def feed(monitor, losses, batch_size=2, pixels=None):
    for step, loss in enumerate(losses, start=1):
        rows = torch.arange(batch_size) + batch_size * (step - 1)
        batch = {"index": rows}
        if pixels is not None:
            batch["pixel_values"] = pixels(step)
        monitor.step(3, step, torch.tensor(loss), batch)


def names(rows):
    return [f"img{row}" for row in rows]


@pytest.mark.parametrize("every", [1, 4, 10])
@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_the_step_and_its_images_are_named_whenever_it_is_checked(every, bad):
    losses = [0.5] * 40
    losses[21] = float(bad)  # step 22: rows 42 and 43
    losses[22:] = [float("nan")] * 18
    with pytest.raises(FloatingPointError) as caught:
        feed(LossMonitor(names, every=every), losses)
    text = str(caught.value)
    assert f"the loss is {bad} at epoch 3, step 22, with image(s) 'img42', 'img43';" in text
    assert "learning_rate" in text
    assert "\n" not in text


def test_it_reads_losses_only_every_so_often():
    class Unread(torch.Tensor):
        reads = 0

        def item(self):
            raise AssertionError("read")

        def tolist(self):
            raise AssertionError("read")

    monitor = LossMonitor(names, every=5)
    for step in range(1, 5):
        assert not monitor.step(1, step, torch.tensor(0.5).as_subclass(Unread), {})
    assert monitor.recent_loss is None


def test_an_image_that_is_not_finite_is_named_alone():
    def pixels(step):
        images = torch.zeros(2, 3, 4, 4)
        if step == 7:
            images[1, 2, 3, 3] = float("nan")
        return images

    with pytest.raises(FloatingPointError, match=r"step 7: image\(s\) 'img13' of the batch hold") as caught:
        feed(LossMonitor(names), [0.5] * 6 + [float("nan")] * 4, pixels=pixels)
    assert "img12" not in str(caught.value)


def test_batches_that_bring_their_image_ids_are_named_by_them():
    monitor = LossMonitor(names, every=1)
    batch = {"index": torch.tensor([4, -1]), "image_id": ["left", "right"]}
    with pytest.raises(FloatingPointError, match=r"with image\(s\) 'left', 'right';"):
        monitor.step(1, 1, torch.tensor(float("nan")), batch)


@pytest.mark.parametrize("changes", [{}, {"streaming_shards": 2}], ids=["rows", "stream"])
def test_the_images_that_are_named_are_those_of_the_batch(tiny_data, tmp_path, monkeypatch, changes):
    # Pixels of colours that only one training image of 18 has give its id away, whatever order they come in.
    from modeling_cssfe.data import ImageDataset, load_images
    from modeling_cssfe.image_processing_cssfe import CSSFEImageProcessor

    seen = []
    step = LossMonitor.step

    def failing(self, epoch, number, loss, batch):
        seen.append(batch["pixel_values"])
        return step(self, epoch, number, loss * float("nan") if number == 2 else loss, batch)

    monkeypatch.setattr(LossMonitor, "step", failing)
    overrides = tiny_overrides(tiny_data, crop_scale="[1.0,1.0]", horizontal_flip=0, **changes)
    with pytest.raises(FloatingPointError) as caught:
        train(load_recipe(None, overrides), tmp_path / "run", quiet=True)
    named = re.findall(r"'(train-\d+)'", str(caught.value))

    split = load_images(str(tiny_data))["train"]
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (CSSFEImageProcessor.image_mean, CSSFEImageProcessor.image_std)
    )
    plain = ImageDataset(
        split, lambda image: (torch.from_numpy(np.array(image.resize((64, 64)))).permute(2, 0, 1) / 255 - mean) / std
    )
    images = torch.stack([plain[row]["pixel_values"] for row in range(len(split))])
    nearest = [split[int((images - pixels).square().flatten(1).mean(1).argmin())]["image_id"] for pixels in seen[1]]
    assert named == nearest


def test_many_images_are_cut_short():
    with pytest.raises(FloatingPointError, match=r"'img31' and 68 more;"):
        feed(LossMonitor(names, every=1), [float("nan")], batch_size=100)


@pytest.mark.parametrize("factor", [900, 1100])
def test_a_thousand_running_medians_are_an_explosion(factor):
    rng = np.random.default_rng(0)
    losses = rng.uniform(0.4, 0.6, 150).tolist()
    losses.append(factor * median(losses[50:150]))  # of the last 100
    monitor = LossMonitor(names, every=10)
    feed(monitor, losses)
    if factor < 1000:
        monitor.check()
    else:
        with pytest.raises(
            FloatingPointError, match=r"has exploded to 5\d\d\.\d from a median of 0\.\d+ at epoch 3, step 151"
        ):
            monitor.check()


def test_a_hard_batch_after_the_loss_reached_nothing_is_no_explosion():
    monitor = LossMonitor(names, every=1)
    feed(monitor, [0.7] * 30 + [1e-8] * 120 + [0.6])
    with pytest.raises(FloatingPointError, match="exploded"):
        monitor.step(3, 152, torch.tensor(0.8), {})


def test_the_first_losses_may_be_anything():
    feed(LossMonitor(names, every=1), [1e-6, 1e6, 3.0] * 6)


def test_a_resumed_monitor_remembers(tmp_path):
    first, second = LossMonitor(names, every=1), LossMonitor(names, every=1)
    feed(first, [0.5] * 60)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    with pytest.raises(FloatingPointError, match="exploded"):
        second.step(1, 1, torch.tensor(501.0), {})


def test_a_huge_learning_rate_stops_a_run_with_exit_code_1(tiny_data, tmp_path, capsys):
    overrides = tiny_overrides(tiny_data, learning_rate=1e30, max_grad_norm="null", epochs=5, optimizer="sgd")
    code = main(["train", "--output_dir", str(tmp_path / "run"), "--quiet", "--set", *overrides])
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "error:" in line]
    assert code == 1
    assert len(lines) == 1
    assert "epoch 1, step 2" in lines[0]
    assert lines[0].count("'train-") == 6  # the batch's images
    assert "lower learning_rate" in lines[0]
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert not (tmp_path / "run" / "results.json").exists()


def test_a_planted_image_that_is_not_finite_is_found(tmp_path, monkeypatch):
    # Encoded images cannot hold a NaN; a transform that divides by an image's own range can make one.
    data = tmp_path / "data"
    data.mkdir()
    write_parquet(data, {"train": [["red"], ["green"], ["blue"]] * 4, "validation": [["red"], ["green"]]})
    table = datasets.load_dataset("parquet", data_files=str(data / "train.parquet"), split="train")
    rows = table.to_list()
    rows[7]["image"] = make_scene(np.random.default_rng(0), []).point(lambda value: 0)
    features = table.features.copy()
    features["image"] = datasets.Image()
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(data / "train.parquet"))

    def transform_of(size, mean, std, **options):
        def transform(image):
            pixels = torch.from_numpy(np.array(image.resize((size, size)), dtype=np.float32)).permute(2, 0, 1)
            return pixels / pixels.max()

        return transform

    monkeypatch.setattr(modeling_cssfe.training.preparation, "build_train_transform", transform_of)
    with pytest.raises(FloatingPointError, match=r"image\(s\) 'train-7' of the batch hold"):
        train(load_recipe(None, tiny_overrides(data, batch_size=4)), tmp_path / "run", quiet=True)


def _watch_on_two_processes(folder):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    # The process was forked from one that has been a run of its own.
    AcceleratorState._reset_state()
    PartialState._reset_state()
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    monitor = LossMonitor(lambda rows: [f"process{rank}-{row}" for row in rows], every=5, accelerator=accelerator)
    losses = [0.5] * 10
    if rank == 1:
        losses[7:] = [float("nan")] * 3
    if rank == 0:
        losses[8:] = [float("nan")] * 2  # what it gets from the other's gradients
    text = "none"
    try:
        feed(monitor, losses)
    except FloatingPointError as error:
        text = str(error)
    (folder / f"{rank}.txt").write_text(text)


def test_of_two_processes_both_stop_and_name_the_first_bad_batch(tmp_path):
    from accelerate import debug_launcher

    debug_launcher(_watch_on_two_processes, (tmp_path,), num_processes=2)
    texts = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert texts[0] == texts[1]
    assert "step 8, with image(s) 'process1-14', 'process1-15';" in texts[0]
