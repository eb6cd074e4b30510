"""The page's server: answers, limits, the queue, and that nothing is kept."""

import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from tiny_runs import make_scene


pytest.importorskip("gradio", reason="the page needs gradio")

from demo_pages import Visitor, files_below, launched

from modeling_cssfe.demo.classifier import Classifier


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """Where gradio puts its files."""
    folder = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def page(tiny_run, temporary):
    with launched(tiny_run, max_pixels=100_000, max_bytes=200_000, queue_size=64) as page:
        yield page


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(5)
    return [make_scene(rng, names) for names in (["red"], ["green", "blue"], [])]


@pytest.fixture(scope="module")
def wanted(tiny_run, scenes):
    classifier = Classifier(tiny_run, 100_000, 200_000)
    return [classifier.describe(classifier.read(scene)) for scene in scenes]


def assert_same(found, wanted):
    assert [one["label"] for one in found] == [one["label"] for one in wanted]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in wanted], abs=1e-5)
    assert [one["above_threshold"] for one in found] == [one["above_threshold"] for one in wanted]


def test_a_program_gets_the_labels_through_gradio_client(page, temporary, scenes, wanted, tmp_path):
    from gradio_client import Client, handle_file

    scenes[1].save(tmp_path / "scene.png")
    client = Client(page.address, verbose=False, download_files=False, httpx_kwargs={"timeout": 120})
    assert_same(client.predict(handle_file(str(tmp_path / "scene.png")), api_name="/classify"), wanted[1])
    assert files_below(temporary) == []


def test_ten_at_once_are_all_answered_also_with_the_same_photograph(page, temporary, scenes, wanted):
    visitors = [Visitor(page, f"many{number}") for number in range(10)]

    def ask(number):
        kind = 0 if number < 6 else number % 3
        path = visitors[number].upload("same.png", png(scenes[kind])).json()[0]
        return kind, visitors[number].ask("classify", path)

    with ThreadPoolExecutor(10) as pool:
        for kind, answer in pool.map(ask, range(10)):
            assert_same(answer["data"][0], wanted[kind])
    assert files_below(temporary) == []


def test_what_finds_the_queue_full_is_refused_with_a_reason_and_later_calls_work(
    tiny_run, temporary, scenes, wanted, monkeypatch
):
    with launched(tiny_run, queue_size=2) as page:
        begun, go_on, describe = threading.Semaphore(0), threading.Event(), Classifier.describe

        def hold(self, reading):
            begun.release()
            go_on.wait(30)
            return describe(self, reading)

        monkeypatch.setattr(Classifier, "describe", hold)
        visitors = [Visitor(page, f"full{number}") for number in range(24)]
        paths = [visitor.upload("a.png", png(scenes[0])).json()[0] for visitor in visitors]
        with ThreadPoolExecutor(24) as pool:
            waiting = []
            for visitor, path in list(zip(visitors, paths, strict=True))[:8]:  # as many as are at work together
                waiting.append(pool.submit(visitor.ask, "classify", path))
                assert begun.acquire(timeout=30)
            waiting += [
                pool.submit(*job) for job in [(v.ask, "classify", p) for v, p in zip(visitors, paths, strict=True)][8:]
            ]
            deadline = time.monotonic() + 30
            while sum(one.done() for one in waiting) < 14 and time.monotonic() < deadline:
                time.sleep(0.05)
            go_on.set()
            answers = [one.result(30) for one in waiting]
        refused = [answer for answer in answers if "refused" in answer]
        answered = [answer for answer in answers if "data" in answer]
        assert (len(answered), len(refused)) == (10, 14)
        for answer in refused:
            assert answer["refused"] == 503
            assert "Queue is full" in json.dumps(answer)
        for answer in answered:
            assert_same(answer["data"][0], wanted[0])
        again = Visitor(page, "after")
        assert_same(again.ask("classify", again.upload("a.png", png(scenes[1])).json()[0])["data"][0], wanted[1])
    assert files_below(temporary) == []


@pytest.mark.parametrize("action", ["classify", "show"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(Image.new("RGB", (500, 400))), "500 x 400 pixels, more than the limit of 100,000; shrink it."),
        (png(Image.new("RGB", (50, 50)))[:60], "cannot be decoded"),
        (b"no image", "not an image"),
        (b"", "0 bytes"),
    ],
)
def test_a_bad_upload_is_refused_in_one_line_and_not_kept(page, temporary, action, content, message):
    visitor = Visitor(page, f"bad-{action}")
    path = visitor.upload("<b>.png", content).json()[0]
    told = visitor.ask(action, path, "<b>.png")["error"]
    assert message in told
    assert "\n" not in told
    assert "<b>" not in told  # a browser shows it as HTML
    assert str(temporary) not in told
    assert files_below(temporary) == []


def test_a_file_beyond_the_limit_is_refused_while_it_comes_and_not_kept(page, temporary):
    answer = Visitor(page, "large").upload("large.png", bytes(300_000))
    assert answer.status_code == 413
    assert answer.text == "the file is larger than 200,000 bytes; shrink it."
    assert files_below(temporary) == []


def test_a_malformed_upload_is_refused(page):
    http = Visitor(page, "malformed").http
    assert http.post("/upload", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 400
    assert http.post("/upload", content=b"x", headers={"Content-Type": "multipart/form-data"}).status_code == 400


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1:9/a.png", "{root}/../a.png", "{root}/a/b/c.png"])
def test_what_was_not_uploaded_is_not_opened(page, temporary, path):
    root = next(temporary.glob("cssfe-*"))
    (temporary / "a.png").write_bytes(b"secret")
    answer = Visitor(page, "thief").ask("classify", path.format(root=root))
    (temporary / "a.png").unlink()
    assert "data" not in answer


def test_a_photograph_is_shown_searched_and_forgotten(tiny_run, temporary, scenes, wanted):
    with launched(tiny_run, keep_seconds=1) as page:
        visitor = Visitor(page, "one")
        path = visitor.upload("scene.png", png(scenes[0])).json()[0]
        shown = visitor.ask("show", path, "my <scene>.png")["data"]
        labels = [one["label"] for one in wanted[0]]
        assert [label for label in labels if f'data-label="{label}"' in shown[2]] == labels
        assert f"“{labels[0]}”" in shown[3]
        assert "my &lt;scene&gt;.png" in shown[3]
        assert files_below(temporary) == []
        assert f"“{labels[2]}”" in choose(visitor, labels[2])
        assert "there is no label" in choose(visitor, "purple")
        holder = page.app.state_holder
        deadline = time.monotonic() + 20
        while "one" in holder.session_data and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "one" not in holder.session_data
        assert "not kept any longer" in choose(visitor, labels[1])


def choose(visitor, label):
    """What a click on a bar shows, or the reason why not."""
    assert visitor.join("choose", None, event_data={"index": 0, "value": label}).status_code == 200
    output = visitor.answer()
    return output["data"][1] if "data" in output else output["error"]


def test_an_upload_that_nobody_asks_about_is_deleted(tiny_run, temporary, scenes):
    with launched(tiny_run, keep_seconds=1) as page:
        path = Visitor(page, "absent").upload("scene.png", png(scenes[0])).json()[0]
        assert files_below(temporary) == [path]
        deadline = time.monotonic() + 20
        while files_below(temporary) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert files_below(temporary) == []
        assert "gone" in Visitor(page, "late").ask("classify", path)["error"]


def test_a_closed_page_leaves_no_folder(tiny_run, temporary, scenes):
    before = set(temporary.iterdir())
    with launched(tiny_run) as page:
        Visitor(page, "absent").upload("scene.png", png(scenes[0]))
        assert len(files_below(temporary)) == 1
    deadline = time.monotonic() + 10
    while set(temporary.iterdir()) - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert set(temporary.iterdir()) == before


def test_many_photographs_become_a_table_in_which_broken_ones_are_named(page, temporary, scenes):
    visitor = Visitor(page, "table")
    contents = {"a.png": png(scenes[0]), "broken.png": b"no image", "b.png": png(scenes[1])}
    files = [
        {"path": visitor.upload(name, content).json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        for name, content in contents.items()
    ]
    assert visitor.join("classify_many", files).status_code == 200
    table = visitor.answer()["data"][0]
    assert "3 files, 1 could not be read" in table
    assert [name for name in contents if f'<th scope="row">{name}</th>' in table] == list(contents)
    assert files_below(temporary) == []


def test_too_many_photographs_are_refused_and_deleted(page, temporary):
    visitor = Visitor(page, "crowd")
    sent = [("files", (f"{number}.png", b"x")) for number in range(65)]
    files = [
        {"path": path, "meta": {"_type": "gradio.FileData"}} for path in visitor.http.post("/upload", files=sent).json()
    ]
    visitor.join("classify_many", files)
    assert visitor.answer()["error"] == "these are 65 files; drop at most 64 at a time."
    assert files_below(temporary) == []


def test_the_page_allows_browsers_nothing_from_elsewhere_and_writes_no_link_to_a_session(page):
    http = Visitor(page, "looker").http
    answer = http.get(f"{page.address}/")
    assert "default-src 'self' data: blob:" in answer.headers["Content-Security-Policy"]
    assert http.get("/deep_link", params={"session_hash": "looker"}).status_code == 404
    settings = http.get(f"{page.address}/config").json()
    assert settings["analytics_enabled"] is False
