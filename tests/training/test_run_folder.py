import errno
import json
import os
import subprocess
import sys

import pytest

from modeling_cssfe.common.files import SavingError, write_whole
from modeling_cssfe.training import run_folder
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


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "_SECONDS_OF_ORPHANS", 0.1)
    code = (
        "import sys; from modeling_cssfe.training.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).claimed(): print('claimed', flush=True); sys.stdin.read()"
    )
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", code, folder], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "claimed\n"
        for resume in (False, True):
            with (
                pytest.raises(ValueError, match=r"another process trains in output_dir '.*run'; wait for it") as caught,
                RunFolder(folder, resume=resume).claimed(),
            ):
                pass
            assert "\n" not in str(caught.value)
        other.kill()  # nothing of the claim is left but a file, which is no reason to refuse the folder
    assert [entry.name for entry in folder.iterdir()] == [".lock"]
    with RunFolder(folder).claimed():
        (folder / "results.json").write_text("{}")
    assert [entry.name for entry in folder.iterdir()] == ["results.json"]


def test_a_folder_that_was_filled_while_another_process_had_it_is_refused(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "log.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="holds another run"), folder.claimed():
        pass


def test_a_claimed_folder_in_which_nothing_is_left_goes_with_the_claim(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.claimed():
        folder.create()
        folder.remove_if_empty()
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_files_have_the_rights_of_this_users_new_files(tmp_path):
    (tmp_path / "plain").touch()

    def save(path):
        path.touch(0o600)  # as safetensors does

    write_whole(tmp_path / "one", save)
    RunFolder(tmp_path / "run").save_files(lambda path: save(path / "two"))
    assert (tmp_path / "one").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "run" / "two").stat().st_mode == (tmp_path / "plain").stat().st_mode
