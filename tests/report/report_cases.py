"""Tables of judged images, hostile ones among them, and a reader of the page."""

import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from modeling_cssfe.evaluation import ScoreTable


HOSTILE_NAMES = (
    "<script>window.hacked=1;alert(1)</script>",
    '"><img src=x onerror="window.hacked=1">',
    "</script></style></title><script>window.hacked=1</script>",
    "' onclick='window.hacked=1' {{ 7 * 7 }} {% raw %}",
    "$\\frac{1}$ \\unknown {",
    "javascript:window.hacked=1//&lt;b&gt;",
)
HOSTILE_ID = "\"><svg onload='window.hacked=1'>../../<b>"


def make_table(names=("person", "dog", "cow", "horse"), counts=(775, 48, 4, 0), images=60, seed=0, **changes):
    """Images whose labels are random and whose scores know something of them; the last class has no positive image."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, len(names))) < 0.3).astype(np.float32)
    labels[rng.random(labels.shape) < 0.05] = -1
    labels[:, -1] = np.minimum(labels[:, -1], 0)
    scores = np.clip(rng.random(labels.shape) * 0.7 + 0.3 * (labels == 1), 0, 1).round(2)  # rounded: ties
    settings = {
        "name": "runs/net3",
        "image_ids": tuple(f"image-{number}" for number in range(images)),
        "label_names": tuple(names),
        "scores": scores,
        "labels": labels,
        "class_counts": tuple(counts),
        **changes,
    }
    return ScoreTable(**settings)


def hostile_table():
    ids = (HOSTILE_ID, *(f"image-{number}" for number in range(1, 60)))
    counts = (300, 120, 60, 9, 5, 2)
    return make_table(HOSTILE_NAMES, counts, name=HOSTILE_NAMES[0], image_ids=ids)


def make_dataset(table, broken=()):
    """Small photographs by image id, as `load_images` gives them."""
    import datasets

    rng = np.random.default_rng(1)
    cells = []
    for image_id in table.image_ids:
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (24, 36, 3), dtype=np.uint8)).save(stream, format="PNG")
        cells.append({"bytes": b"broken" if image_id in broken else stream.getvalue(), "path": None})
    features = datasets.Features(image_id=datasets.Value("string"), image=datasets.Image(decode=False))
    return datasets.Dataset.from_dict({"image_id": list(table.image_ids), "image": cells}, features=features)


class Page(HTMLParser):
    """Reads what a test asks of a page.

    Attributes:
        tags: `(tag, attributes)` in the order of the page.
        text: Everything that is shown, without script and style.
        spaced: The same with a space between elements.
        scripts: Text of each script.
        tables: Id -> rows of `(text, data-value or None)` cells.
    """

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.tables = [], [], {}
        self.text = self.spaced = ""
        self._open = []
        self._table = self._cell = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag in ("script", "style"):
            self._open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(attributes["id"], [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append(["", attributes.get("data-value")])
            self._cell = self._table[-1][-1]

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._open.pop()
        if tag in ("td", "th"):
            self._cell[0] = self._cell[0].strip()
            self._cell = None

    def handle_data(self, data):
        if self._open:
            if self._open[-1] == "script":
                self.scripts.append(data)
            return
        self.text += data
        self.spaced += data + " "
        if self._cell is not None:
            self._cell[0] += data

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def column(self, table, heading):
        rows = self.tables[table]
        index = [cell[0] for cell in rows[0]].index(heading)
        return {row[0][0]: row[index] for row in rows[1:]}
