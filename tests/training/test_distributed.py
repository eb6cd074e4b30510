import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from safetensors.torch import load_file
from tiny_runs import tiny_overrides, tiny_splits, write_parquet
from torch import nn

from modeling_cssfe import CSSFEForImageClassification
from modeling_cssfe.common.environment import build_accelerator, process_state, store_of_restart, warn_of_idle_cores
from modeling_cssfe.training import load_recipe, train
from modeling_cssfe.training.run import enable_activation_checkpointing


ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "train" / "accelerate").glob("*.yaml"))
# Each process draws dropout of its own: without, two processes do what one does.
NO_DROPOUT = ["model.hidden_dropout_prob=0", "model.label_dropout=0", "model.attention_probs_dropout_prob=0"]
# Batch statistics of two processes are not those of one. SGD, as Adam turns what rounding leaves near 0 into steps.
ALIKE = {"freeze_batch_norm": "true", "optimizer": "sgd", "learning_rate": 0.04, "schedule": "constant"}

CASES = {
    "average, accumulation and clipping": {"gradient_accumulation_steps": 2, "max_grad_norm": 0.05, "batch_size": 2},
    "sum of a loss": {"loss": "bce", "loss_kwargs": "{reduction: sum}", "learning_rate": 0.001, "batch_size": 3},
    "class weights": {"loss": "cb_focal", "sampler": "class_aware", "batch_size": 3, "ablation": "net1"},
    "one cycle": {"schedule": "one_cycle", "gradient_accumulation_steps": 3, "batch_size": 2, "ablation": "net0"},
    "two phases": {"first_phase": "{epochs: 1, freeze_backbone: true}", "batch_size": 3, "ablation": "net1"},
    "stream": {"streaming_shards": 2, "streaming_shuffle_buffer": 0, "batch_size": 3, "ablation": "net0"},
}
# Two epochs whose scores differ by rounding alone must not be told apart: the last one is the only one judged.
ALONE = {"ema_decay": "null", "evaluate_every": 2, "learning_rate": 0.01}


def overrides_of(data, **changes):
    return [*tiny_overrides(data, **{**ALIKE, **changes}), *NO_DROPOUT]


@pytest.fixture(scope="module")
def uneven_data(tmp_path_factory):
    """Unknown labels, one image that cannot be read, and 11 images to validate on, which two processes cannot share."""
    folder = tmp_path_factory.mktemp("uneven_data")
    splits = tiny_splits()
    splits["train"] = splits["train"] + [["red"], ["green"]] * 3 + [["red", "blue"]]
    splits["validation"] = splits["validation"][:11]
    write_parquet(folder, splits)
    for split in splits:
        file = str(folder / f"{split}.parquet")
        table = datasets.load_dataset("parquet", data_files=file, split="train")
        rows = table.cast_column("image", datasets.Image(decode=False)).to_list()
        for number, row in enumerate(rows):
            absent = [label for label in range(3) if label not in row["labels"]]
            row["unknown_labels"] = absent[: number % 3] if split == "train" else []
        if split == "train":
            rows[5]["image"]["bytes"] = rows[5]["image"]["bytes"][:40]
        features = datasets.Features({**table.features, "unknown_labels": table.features["labels"]})
        encoded = datasets.Features({**features, "image": datasets.Image(decode=False)})
        datasets.Dataset.from_list(rows, features=encoded).cast(features).to_parquet(file)
    return folder


@pytest.fixture(scope="module")
def two_processes(uneven_data, tmp_path_factory):
    """The runs of all cases in two processes that torchrun starts once, as they take ten seconds to import torch."""
    folder = tmp_path_factory.mktemp("two_processes")
    skip = {"skip_unreadable_images": "true"}
    cases = {
        str(folder / name): {"overrides": overrides_of(uneven_data, **changes, **skip)}
        for name, changes in CASES.items()
    }
    sharded = overrides_of(uneven_data, batch_size=3, **ALONE, **skip)
    cases[str(folder / "sharded")] = {"overrides": sharded, "sharded": True, "may_fail": True}
    averaged = overrides_of(uneven_data, batch_size=3, **skip)
    cases[str(folder / "sharded average")] = {"overrides": averaged, "sharded": True, "may_fail": True}
    synchronised = overrides_of(uneven_data, batch_size=3, sync_batch_norm="true", **skip)
    cases[str(folder / "synchronised")] = {"overrides": synchronised, "may_fail": True}
    # Last, as torchrun starts both processes again: what is finished by then, they only look at.
    killed = overrides_of(uneven_data, **CASES["stream"], checkpoint_every_steps=1, **skip)
    cases[str(folder / "killed")] = {"overrides": killed, "kill_at": 5}
    dry = ["train", "--dry_run", "--output_dir", str(folder / "dry"), "--set", *overrides_of(uneven_data, **skip)]
    cases[str(folder / "dry")] = {"command": dry}
    (folder / "cases.json").write_text(json.dumps(cases))
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("rank_runs.py"))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--max_restarts", "1",
         "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", script, str(folder / "cases.json")],
        cwd=ROOT, capture_output=True, text=True, env=environment, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def require_alike(run, other, rtol=1e-4, atol=2e-6):
    ours, theirs = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=rtol, atol=atol, msg=lambda text, name=name: name + text)
    for mine, their in zip(log_of(run), log_of(other), strict=True):
        assert mine["loss"] == pytest.approx(their["loss"], rel=1e-5)
        assert mine["learning_rate"] == pytest.approx(their["learning_rate"])
        if "map_total" in mine:
            assert mine["map_total"] == pytest.approx(their["map_total"], abs=1e-6)


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow  # two processes import torch and transformers, and train eight times
@pytest.mark.parametrize("name", CASES)
def test_two_processes_do_what_one_does_with_batches_twice_as_large(name, two_processes, uneven_data, tmp_path):
    changes = {**CASES[name], "batch_size": 2 * CASES[name]["batch_size"], "skip_unreadable_images": "true"}
    results = train(load_recipe(None, overrides_of(uneven_data, **changes)), tmp_path / "one", quiet=True)
    both = json.loads((two_processes / name / "results.json").read_text())
    assert both["num_processes"] == 2
    assert both["skipped_images"] == results["skipped_images"] == {"train": ["train-5"], "validation": [], "test": []}
    require_alike(two_processes / name, tmp_path / "one")


@pytest.mark.slow
def test_each_process_draws_dropout_of_its_own(two_processes):
    for name in CASES:
        first, second = (Path(f"{two_processes / name}.noise.{rank}").read_bytes() for rank in range(2))
        assert first != second


@pytest.mark.slow
def test_torchrun_starts_a_run_again_that_lost_a_process_and_it_ends_as_if_nothing_had_been(two_processes):
    whole, killed = two_processes / "stream", two_processes / "killed"
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    logs = [[{**entry, "seconds": 0, "images_per_second": 0} for entry in log_of(run)] for run in (whole, killed)]
    assert logs[0] == logs[1]
    assert (two_processes / "restarts").read_text() == "1"


def test_each_start_of_torchrun_has_addresses_of_its_own(monkeypatch):
    agent = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = {"TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_WORLD_SIZE": "1", "RANK": "0", "WORLD_SIZE": "1"}
    for name, value in (started | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(agent.port)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert store_of_restart() == {}
    agent.set("address", "before any restart")
    for restarts in ("1", "2"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
        arguments = store_of_restart()
        assert (arguments["rank"], arguments["world_size"]) == (0, 1)
        assert not arguments["store"].check(["address"])
        arguments["store"].set("address", f"after restart {restarts}")


def test_a_restart_on_several_machines_says_what_torchrun_needs(monkeypatch, caplog):
    started = {"TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_WORLD_SIZE": "2"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    process_state()
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in caplog.text
    caplog.clear()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")  # what that variable leads to
    process_state()
    assert not caplog.text


@pytest.mark.slow
def test_cores_that_accelerate_launch_leaves_idle_are_told(monkeypatch, caplog):
    accelerator = build_accelerator("no")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    warn_of_idle_cores(accelerator)
    assert not caplog.records  # whoever starts it otherwise has chosen
    # What the launcher itself gives the process.
    (default,) = _validate_launch_command(launch_command_parser().parse_args(["--num_processes", "1", "x.py"]))[:1]
    assert default.num_cpu_threads_per_process == 1
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    warn_of_idle_cores(accelerator)
    if accelerator.device.type == "cpu":
        assert "computes with 1 of 6 cores; give accelerate launch --num_cpu_threads_per_process 6" in caplog.text
    caplog.clear()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    warn_of_idle_cores(accelerator)
    assert not caplog.records


def test_a_dry_run_of_two_processes_passes_and_one_shows_it(two_processes):
    shown, silent = ((two_processes / f"dry.{rank}.txt").read_text() for rank in range(2))
    assert silent == "exit code 0\n"
    assert shown.endswith("exit code 0\n")
    assert "2 process(es)" in shown
    assert shown.count("│ ok │") == 11
    assert not (two_processes / "dry").exists()


@pytest.mark.slow
def test_every_image_is_judged_once_by_two_processes(two_processes):
    for name in CASES:
        results = json.loads((two_processes / name / "results.json").read_text())
        positives = {row["name"]: row["num_positives"] for row in results["validation"]["class_table"]}
        judged = tiny_splits()["validation"][:11]
        assert positives == {label: sum(label in row for row in judged) for label in ("red", "green", "blue")}


@pytest.mark.slow
def test_sharded_weights_give_the_same_model(two_processes, uneven_data, tmp_path):
    error = Path(f"{two_processes / 'sharded'}.error")
    assert not error.exists(), error.read_text()
    overrides = overrides_of(uneven_data, batch_size=6, **ALONE, skip_unreadable_images="true")
    train(load_recipe(None, overrides), tmp_path / "one", quiet=True)
    require_alike(two_processes / "sharded", tmp_path / "one")
    config = json.loads((two_processes / "sharded" / "config.json").read_text())
    assert config["architectures"] == ["CSSFEForImageClassification"]
    CSSFEForImageClassification.from_pretrained(two_processes / "sharded")


@pytest.mark.slow
def test_what_several_processes_cannot_do_is_one_line(two_processes):
    last = Path(f"{two_processes / 'sharded average'}.error").read_text().strip().splitlines()[-1]
    assert "set ema_decay to null" in last
    last = Path(f"{two_processes / 'synchronised'}.error").read_text().strip().splitlines()[-1]
    assert "sync_batch_norm needs GPUs" in last


def test_synchronised_batch_norm_keeps_names_weights_and_what_evaluation_gives(tiny_run):
    from timm.layers import convert_sync_batchnorm

    model = CSSFEForImageClassification.from_pretrained(tiny_run).eval()
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, state = model(pixels).logits, model.state_dict()
        converted = convert_sync_batchnorm(model).eval()
        assert torch.equal(converted(pixels).logits, before)
    assert list(converted.state_dict()) == list(state)
    kinds = [module for module in converted.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert kinds
    assert all(isinstance(module, nn.SyncBatchNorm) for module in kinds)


def test_gradients_do_not_change_when_activations_are_computed_again(tiny_run):
    gradients = []
    for again in (False, True):
        model = CSSFEForImageClassification.from_pretrained(tiny_run).train()
        if again:
            enable_activation_checkpointing(model)
        pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)  # the same dropout
        model(pixels, labels=torch.tensor([[1, 0, 0], [0, 1, 1]])).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-8)


def test_a_run_that_computes_activations_again_learns_the_same(tiny_data, tmp_path):
    for name, again in (("plain", "false"), ("again", "true")):
        overrides = overrides_of(tiny_data, gradient_checkpointing=again, epochs=1)
        train(load_recipe(None, overrides), tmp_path / name, quiet=True)
    require_alike(tmp_path / "again", tmp_path / "plain")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_takes_the_shipped_configurations(path):
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    expected = {"1_gpu": (1, 1), "2_gpus": (1, 2), "8_gpus": (1, 8), "2_nodes": (2, 16), "8_gpus_fsdp": (1, 8)}
    assert (config.num_machines, config.num_processes) == expected[path.stem]
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "train/train.py"])
    validated, _, _ = _validate_launch_command(arguments)
    assert validated.num_processes == expected[path.stem][1]
    assert validated.multi_gpu == (config.num_processes > 1 and "fsdp" not in path.stem)
    assert validated.use_fsdp == ("fsdp" in path.stem)
    if validated.use_fsdp:
        assert int(validated.fsdp_version) == 2


def test_there_is_a_configuration_for_each_size():
    assert {path.stem for path in CONFIGS} >= {"1_gpu", "2_gpus", "8_gpus", "2_nodes"}
