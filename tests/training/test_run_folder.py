import errno
import json

import pytest

from modeling_cssfe.common.files import SavingError, write_whole
from modeling_cssfe.training.run_folder import RunFolder


def test_a_folder_with_a_run_or_other_files_is_refused(tmp_path):
    (tmp_path / "log.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"holds another run; choose another folder"):
        RunFolder(tmp_path)
    (tmp_path / "log.jsonl").rename(tmp_path / "holiday.jpg")
    with pytest.raises(ValueError, match="holds other files"):
        RunFolder(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        RunFolder(tmp_path / "holiday.jpg")


def test_a_run_that_was_killed_before_its_first_checkpoint_is_still_known_as_one(tmp_path):
    RunFolder(tmp_path / "run").create()
    (tmp_path / "run" / "tensorboard").mkdir()
    RunFolder(tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match=r"holds another run.*--resume auto"):
        RunFolder(tmp_path / "run")
    (tmp_path / "other" / "tensorboard").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds other files"):
        RunFolder(tmp_path / "other", resume=True)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "results.json"
    file.write_text("old")

    def fill_the_disk(temporary):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SavingError, match=r"results.json'.*No space left on device; free space") as caught:
        write_whole(file, fill_the_disk)
    assert "\n" not in str(caught.value)
    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_a_failed_model_save_leaves_the_folder_as_it_was(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.write_json("results.json", {"map_total": 0.5})

    def save(path):
        (path / "config.json").write_text("{}")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SavingError, match="No space left"):
        folder.save_files(save)
    assert sorted(entry.name for entry in folder.path.iterdir()) == ["checkpoints", "results.json"]
    assert json.loads((folder.path / "results.json").read_text()) == {"map_total": 0.5}


def test_an_error_of_another_kind_is_not_called_a_saving_error(tmp_path):
    def fail(_):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        write_whole(tmp_path / "file", fail)


def test_log_lines_are_appended(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.append_log({"epoch": 1})
    folder.append_log({"epoch": 2})
    lines = (folder.path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
