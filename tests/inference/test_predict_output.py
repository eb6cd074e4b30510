# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import numpy as np
import pyarrow.parquet
import pytest

from modeling_cssfe.cli import main
from modeling_cssfe.common.files import SavingError
from modeling_cssfe.inference import Predictor, find_images
from modeling_cssfe.inference.output import parts_folder, predict_to_file


ROOT = Path(__file__).parents[2]
OPTIONS = {"batch_size": 4, "boxes": True, "box_threshold": 0.5}


@pytest.fixture(scope="module")
def predictor(small_run):
    return Predictor.from_pretrained(small_run, **OPTIONS)


@pytest.fixture
def files(photographs, broken_file):
    found = find_images([photographs])
    return [*found[:7], broken_file, *found[7:]]


def read(path):
    """Rows of a file of any kind as `{"image", "error", "width", "height", "labels", "boxes", scores, ...}`."""
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8") as file:
            rows = []
            for row in csv.DictReader(file):
                rows.append({key: value or None for key, value in row.items()})
                for key, value in rows[-1].items():
                    if value is not None and key not in ("image", "error"):
                        rows[-1][key] = json.loads(value)
            return rows
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        scores, probabilities = row.pop("scores", {}), row.pop("probabilities", {})
        row |= {f"score:{name}": score for name, score in scores.items()}
        rows.append(row | {f"probability:{name}": value for name, value in probabilities.items()})
    return rows


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_the_file_holds_what_the_stream_gives(predictor, files, tmp_path, suffix):
    target = tmp_path / "new" / f"scores{suffix}"
    report = predict_to_file(predictor, files, target, chunk_size=10)
    assert (report.num_images, report.num_resumed, report.num_failed) == (31, 0, 1)
    assert report.failures[0][0] == files[7]
    assert os.listdir(target.parent) == [target.name]
    rows = read(target)
    assert [row["image"] for row in rows] == files
    numbers = 0
    position = 0
    for batch in predictor.stream(files):
        for row, image in enumerate(batch.images):
            written = rows[position]
            position += 1
            assert written["image"] == image
            if batch.errors[row]:
                assert written.pop("error") == batch.errors[row]
                assert {key for key, value in written.items() if value is not None} == {"image"}
                continue
            assert written.get("error") is None
            assert [written["width"], written["height"]] == batch.sizes[row].tolist()
            above = {}
            for index, name in enumerate(predictor.label_names):
                score = np.float32(written[f"score:{name}"])
                assert score == batch.scores[row, index]  # fp32, to the last bit through any kind of file
                assert written[f"probability:{name}"] == batch.probabilities[row, index]
                numbers += 1
                if score >= predictor.thresholds[index]:
                    above[name] = score
            assert written["labels"] == sorted(above, key=above.get, reverse=True)
            boxes = {box["label"]: (box["x_min"], box["y_min"], box["x_max"], box["y_max"]) for box in written["boxes"]}
            assert boxes == {name: box for name, box in batch.boxes[row].items() if box is not None}
    assert numbers == 30 * 5
    assert any(row.get("boxes") for row in rows)


def test_a_file_of_json_lines_may_hold_the_highest_scores_alone(predictor, files, tmp_path):
    for name, top_k in (("all.jsonl", None), ("two.jsonl", 2)):
        predict_to_file(predictor, files, tmp_path / name, top_k=top_k)
    everything, two = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in ("all.jsonl", "two.jsonl")
    )
    for all_row, row in zip(everything, two, strict=True):
        if "error" not in row:
            assert list(row["scores"].items()) == sorted(all_row["scores"].items(), key=lambda pair: -pair[1])[:2]
            assert list(row["probabilities"]) == list(row["scores"])
            assert row["labels"] == all_row["labels"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_an_interrupted_run_continues_to_the_same_file(predictor, files, tmp_path, suffix):
    whole, resumed = tmp_path / f"whole{suffix}", tmp_path / f"resumed{suffix}"
    predict_to_file(predictor, files, whole, chunk_size=8)

    class StopsError(Exception):
        pass

    class Stops(list):
        """Files of which the fourteenth and later cannot be asked for."""

        def __getitem__(self, index):
            if isinstance(index, int) and index >= 13:
                raise StopsError
            return Stops(list.__getitem__(self, index)) if isinstance(index, slice) else list.__getitem__(self, index)

    with pytest.raises(StopsError):
        predict_to_file(predictor, Stops(files), resumed, chunk_size=8)
    assert not resumed.exists()
    parts = sorted(parts_folder(resumed).glob("*.parquet"))
    assert [part.name for part in parts] == ["000000000000.parquet"]
    with pytest.raises(ValueError, match="continue it with --resume"):
        predict_to_file(predictor, files, resumed, chunk_size=8)
    report = predict_to_file(predictor, files, resumed, chunk_size=8, resume=True)
    assert (report.num_resumed, report.num_images, report.num_failed) == (8, 31, 1)
    assert resumed.read_bytes() == whole.read_bytes()
    assert not parts_folder(resumed).exists()


def test_a_part_that_is_not_whole_is_made_again(predictor, files, tmp_path):
    target = tmp_path / "scores.jsonl"
    predict_to_file(predictor, files, target, chunk_size=8)
    expected = target.read_bytes()
    folder = parts_folder(target)

    def stop(*_):
        raise KeyboardInterrupt

    for damage in (lambda part: part.write_bytes(b""), lambda part: part.unlink()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("modeling_cssfe.inference.output._tables", stop)
            with pytest.raises(KeyboardInterrupt):
                predict_to_file(predictor, files, target, chunk_size=8, overwrite=True)
        assert len(list(folder.glob("*.parquet"))) == 4
        damage(folder / "000000000016.parquet")
        report = predict_to_file(predictor, files, target, chunk_size=8, resume=True)
        assert report.num_resumed == 16
        assert target.read_bytes() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run, files: (Predictor.from_pretrained(run, **OPTIONS), files[1:]), "another images"),
        (
            lambda run, files: (Predictor.from_pretrained(run, **OPTIONS | {"batch_size": 2}), files),
            "another batch_size",
        ),
        (lambda run, files: (Predictor.from_pretrained(run, **OPTIONS, tta=["flip"]), files), "another tta"),
        (lambda run, files: (Predictor.from_pretrained(run, batch_size=4), files), "another box_threshold"),
        (lambda run, files: (_with_another_weight(run), files), "another model"),
    ],
)
def test_another_run_does_not_continue_it(predictor, small_run, files, tmp_path, change, message):
    target = tmp_path / "scores.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modeling_cssfe.inference.output._tables", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict_to_file(predictor, files, target, chunk_size=8)
    other, others = change(small_run, files)
    with pytest.raises(ValueError, match=message) as caught:
        predict_to_file(other, others, target, chunk_size=8, resume=True)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    predict_to_file(other, others, target, chunk_size=8, overwrite=True)
    assert len(read(target)) == len(others)


def _with_another_weight(run):
    import torch

    predictor = Predictor.from_pretrained(run, **OPTIONS)
    with torch.no_grad():
        next(iter(predictor.model.parameters())).view(-1)[0] += 1e-3
    return predictor


def test_one_process_writes_a_file_at_a_time(predictor, files, tmp_path):
    folder = parts_folder(tmp_path / "scores.csv")
    folder.mkdir()
    with filelock.FileLock(folder / ".lock"), pytest.raises(ValueError, match="another process is writing"):
        predict_to_file(predictor, files, tmp_path / "scores.csv")


def test_a_file_that_cannot_be_written_is_an_error_of_one_line(predictor, files, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SavingError, match="cannot save") as caught:
        predict_to_file(predictor, files, tmp_path / "file" / "scores.csv")
    assert "\n" not in str(caught.value)


def test_names_that_are_no_utf8_are_written(predictor, photographs, tmp_path):
    odd = os.path.join(str(tmp_path), os.fsdecode(b"caf\xe9 \xc3\xbc.png"))
    try:
        os.symlink(find_images([photographs])[0], odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for suffix in (".parquet", ".csv", ".jsonl"):
        predict_to_file(predictor, [odd], tmp_path / f"scores{suffix}")
        assert [row["image"] for row in read(tmp_path / f"scores{suffix}")] == [f"{tmp_path}/caf\\xe9 ü.png"]


def run_cli(*arguments):
    return main(["predict", *map(str, arguments), "--device", "cpu"])


def test_the_command_writes_counts_failures_and_goes_on(small_run, photographs, broken_file, tmp_path, capsys):
    target = tmp_path / "scores.parquet"
    arguments = [small_run, photographs / "**", broken_file, "--batch_size", 8, "--num_workers", 1, "--output", target]
    assert run_cli(*arguments) == 0
    shown = capsys.readouterr()
    assert f"31 images -> {target}" in shown.out
    assert "1 of 31 images cannot be read" in shown.err
    assert broken_file in shown.err
    assert len(read(target)) == 31
    before = target.read_bytes()
    for again, code, message in (([], 2, "already there"), (["--resume"], 2, "nothing left to resume")):
        assert run_cli(*arguments, *again) == code
        assert message in capsys.readouterr().err
    assert run_cli(*arguments, "--overwrite") == 0
    assert target.read_bytes() == before


def test_without_a_readable_image_the_command_fails(small_run, broken_file, tmp_path, capsys):
    assert run_cli(small_run, broken_file, "--output", tmp_path / "scores.csv") == 1
    assert "none of the 1 images can be read" in capsys.readouterr().err
    assert [bool(row["error"]) for row in read(tmp_path / "scores.csv")] == [True]


def test_the_screen_shows_boxes_and_what_cannot_be_read(small_run, photographs, broken_file, capsys):
    files = find_images([photographs])
    arguments = [small_run, files[0], broken_file, "--boxes", "--tta", "flip"]
    assert run_cli(*arguments) == 0
    shown = capsys.readouterr()
    header = next(line for line in shown.out.splitlines() if "calibrated probability" in line)
    assert "box" in header
    assert "1 of 2 images cannot be read" in shown.err
    assert run_cli(*arguments, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "error" in lines[1]
    labels = lines[0]["predictions"]
    assert any(label["above_threshold"] for label in labels)
    assert all(("box" in label) == label["above_threshold"] for label in labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "http://localhost/a.png"], "address of the web"),
        (["{run}", "{images}", "--output", "{new}.txt"], "choose a file ending in .parquet, .csv, .jsonl"),
        (["{run}", "{images}", "--output", "{new}.csv", "--top_k", "3"], "top_k is 3"),
        (["{run}", "{images}", "--output", "{new}.csv", "--json"], "choose one"),
        (["{run}", "{images}", "--resume"], "are about --output"),
        (["{run}", "{images}", "--output", "{new}.csv", "--resume", "--overwrite"], "not allowed with"),
        (["{run}", "{images}", "--chunk_size", "0"], "--chunk_size is 0"),
        (["{run}", "{images}", "--batch_size", "0"], "batch_size is 0"),
        (["{run}", "{images}", "--max_pixels", "0"], "max_pixels is 0"),
        (["{run}", "{images}", "--tta", "none", "flip"], "--tta is none flip"),
        (["{run}", "{images}", "--box_threshold", ".5"], "about --boxes"),
        (["{run}", "{images}", "--boxes", "--box_threshold", "2"], "box_threshold is '2'"),
        (["{run}", "{images}", "--max_pixels", "9"], "none of the 30 images can be read"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, small_run, photographs, tmp_path, capsys):
    places = {"run": small_run, "images": photographs, "new": tmp_path / "new"}
    assert main(["predict", *(argument.format(**places) for argument in arguments)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert os.listdir(tmp_path) == []


def test_the_command_reads_images_as_large_as_the_decoder_does(capsys):
    from modeling_cssfe.data.decoding import MAX_PIXELS

    assert main(["predict", "--help"]) == 0
    assert f"(default: {MAX_PIXELS})" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow  # the killed process imports torch and transformers, ten seconds or more
def test_a_killed_run_continues_to_the_file_of_an_unbroken_one(small_run, photographs, tmp_path):
    many = tmp_path / "many"
    many.mkdir()
    files = find_images([photographs])
    for number in range(240):
        source = files[number % len(files)]
        os.symlink(source, many / f"{number:04d}{Path(source).suffix}")
    killed, whole = tmp_path / "killed.csv", tmp_path / "whole.csv"
    options = [str(small_run), str(many), "--batch_size", "4", "--chunk_size", "8", "--device", "cpu"]
    command = [sys.executable, "-m", "modeling_cssfe.cli", "predict", *options, "--output", str(killed)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while len(list(parts_folder(killed).glob("0*.parquet"))) < 3:
            assert process.poll() is None, process.stderr.read().decode()[-2000:]
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    left = len(list(parts_folder(killed).glob("0*.parquet")))
    assert 3 <= left < 30
    assert not killed.exists()
    assert main(["predict", *options, "--output", str(killed), "--resume"]) == 0
    assert main(["predict", *options, "--output", str(whole)]) == 0
    assert killed.read_bytes() == whole.read_bytes()
    assert len(read(killed)) == 240


MEASURE = """
import resource, sys
from pathlib import Path
import torch
sys.path[:0] = [{tests!r}, {here!r}]
from planted_models import PlantedModel, ZeroProcessor
from modeling_cssfe import CSSFEConfig
from modeling_cssfe.inference import Predictor, predict_to_file

config = CSSFEConfig(label_names=["a", "b", "c"], class_counts=[3, 30, 300])
model = PlantedModel(config, torch.tensor([0.5, -1.0, 2.0]), torch.zeros(3, 2, 2))
predictor = Predictor(model, ZeroProcessor(), batch_size=100, device="cpu")
files = sorted(str(file) for file in Path({images!r}).iterdir())
for count in (10_000, 100_000):
    report = predict_to_file(predictor, files * (count // len(files)), {output!r} + f"/{{count}}.parquet")
    print(report.num_images, report.num_failed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow  # 110,000 files are opened and decoded
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is in kilobytes on Linux")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    for number in range(20):
        Image.new("RGB", (32, 32), (number, 2 * number, 0)).save(images / f"{number:02d}.png")
    (images / "99.png").write_bytes(b"no image")
    (images / "19.png").unlink()
    code = MEASURE.format(
        tests=str(ROOT / "tests"), here=str(Path(__file__).parent), images=str(images), output=str(tmp_path)
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    small, large = ([int(word) for word in line.split()] for line in done.stdout.splitlines())
    assert small[:2] == [10_000, 500]
    assert large[:2] == [100_000, 5_000]
    # The list of 90,000 more names and what the allocator keeps; as rows of Python objects they would take 100 MB.
    assert (large[2] - small[2]) / 1024 < 40
    file = pyarrow.parquet.ParquetFile(tmp_path / "100000.parquet")
    assert file.metadata.num_rows == 100_000
    assert file.num_row_groups == 100
