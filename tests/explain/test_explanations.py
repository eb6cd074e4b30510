"""Grids, overlays and the enhancement matrix, on planted models whose maps are known."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.cli import main
from modeling_cssfe.explain import (
    compute_enhancement_matrix,
    draw_enhancement_matrix,
    draw_grid,
    explain_images,
    overlay,
    resize_maps,
    write_enhancement_matrix,
)
from modeling_cssfe.explain.enhancement import EnhancementMatrix
from modeling_cssfe.explain.overlays import describe_emptiness


NAMES = ["cat", "dog"]


class Red(nn.Module):
    """Stands in for the backbone: one feature, how red an 8 px square is."""

    def forward(self, pixel_values):
        red = pixel_values[:, 0] - pixel_values[:, 1:].mean(dim=1)
        maps = torch.zeros(len(pixel_values), 96, pixel_values.shape[2] // 8, pixel_values.shape[3] // 8)
        maps[:, 0] = F.avg_pool2d(red[:, None], 8)[:, 0].relu()
        return maps


def seeker(ablation="net0", weight=1.0, names=NAMES):
    """A model that finds red for `dog`, and its processor."""
    torch.manual_seed(0)
    config = CSSFEConfig(
        backbone="test_resnet",
        image_size=64,
        label_names=names,
        class_counts=[200, 5],
        ablation=ablation,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        label_embedding_dim=4,
        hidden_size=8,
        num_attention_heads=2,
        attention_head_dim=4,
        intermediate_size=8,
    )
    model = CSSFEForImageClassification(config).eval()
    model.cssfe.backbone = Red()
    with torch.no_grad():
        model.cssfe.class_activation.weight.zero_()
        model.cssfe.class_activation.weight[names.index("dog"), 0] = weight
        model.cssfe.class_activation.bias.zero_()
    return model, CSSFEImageProcessor.from_model_config(config)


def scene(width=240, height=160):
    """Grey, with a red square of 40 px whose centre is at x 180, y 50."""
    canvas = np.full((height, width, 3), 100, dtype=np.uint8)
    canvas[30:70, 160:200] = (255, 0, 0)
    return Image.fromarray(canvas)


def centre(values):
    """Centre of mass (x, y) of a map in pixels."""
    weight = values.clip(min=0)
    rows, columns = np.indices(values.shape) + 0.5
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


def found_at(image, kind):
    model = seeker()
    row = next(explain_images({"model": model}, [("scene", image)], ["dog"], kinds=[kind]))
    return centre(resize_maps(row.panels[0].values[None], (image.height, image.width))[0])


@pytest.mark.parametrize("kind", ["cam", "grad_cam", "grad_cam_plus_plus", "layer_cam"])
def test_maps_stay_on_a_planted_marker_under_resize_crop_and_flip(kind):
    # An 8 px square of the model covers 30 x 20 px of the photograph; a tenth of that is the tolerance.
    photograph = scene()
    cases = {
        "as it is": (photograph, (180, 50)),
        "larger": (photograph.resize((600, 320)), (450, 100)),
        "flipped": (photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (60, 50)),
        "upside down": (photograph.transpose(Image.Transpose.FLIP_TOP_BOTTOM), (180, 110)),
        "cropped": (photograph.crop((120, 10, 240, 130)), (60, 40)),
        "on its side": (photograph.transpose(Image.Transpose.ROTATE_90), (50, 60)),
    }
    for name, (image, place) in cases.items():
        assert np.abs(found_at(image, kind) - place).max() < 3, name


def test_an_overlay_is_the_photograph_where_the_map_is_0_and_a_colour_where_it_is_strong():
    from matplotlib import colormaps

    photograph = Image.fromarray(np.full((2, 3, 3), 100, dtype=np.uint8))
    values = np.array([[0.0, 2.0, -2.0], [np.nan, 1.0, 0.0]])
    pixels = np.asarray(overlay(photograph, values))
    for place, strength in {(0, 0): 0.0, (0, 1): 1.0, (0, 2): -1.0, (1, 0): 0.0, (1, 1): 0.5}.items():
        color = np.array(colormaps["RdBu_r"]((strength + 1) / 2)[:3])
        expected = 255 * (0.75 * abs(strength) * color + (1 - 0.75 * abs(strength)) * 100 / 255)
        assert np.abs(pixels[place] - expected).max() <= 0.5 + 1e-6
    # With the scale of another map, this one is half as strong.
    assert np.array_equal(np.asarray(overlay(photograph, values, top=4.0))[0, 1], pixels[1, 1])
    # Without negative values, what is below 0 shows nothing.
    assert tuple(np.asarray(overlay(photograph, values, signed=False))[0, 2]) == (100, 100, 100)
    with pytest.raises(ValueError, match="see resize_maps"):
        overlay(photograph, values.T)


def test_rows_are_a_label_of_an_image_and_columns_a_kind_of_a_model():
    images = [("one", scene()), ("two", Image.new("RGB", (50, 90))), ("three", scene())]
    # The second model numbers the classes the other way round.
    models = {"net0": seeker(), "twice": seeker(weight=2.0, names=NAMES[::-1])}
    rows = list(explain_images(models, images, kinds=["cam", "grad_cam"], top_k=5, batch_size=2))
    expected = [(0, "one"), (0, "one"), (1, "two"), (1, "two"), (2, "three"), (2, "three")]
    assert [(row.number, row.name) for row in rows] == expected
    assert {row.label for row in rows[:2]} == {"cat", "dog"}
    dogs = [row for row in rows if row.label == "dog"]
    for row in dogs:
        assert [(panel.model, panel.kind) for panel in row.panels] == [
            ("net0", "cam"), ("net0", "grad_cam"), ("twice", "cam"), ("twice", "grad_cam")
        ]  # fmt: skip
        assert torch.equal(row.panels[2].values, 2 * row.panels[0].values)
        assert row.panels[0].score == pytest.approx(1 / (1 + np.exp(-row.panels[0].values.mean().item())), abs=1e-6)
    assert torch.equal(dogs[0].panels[0].values, dogs[2].panels[0].values)


def test_kinds_that_only_one_model_has_are_columns_of_that_one():
    models = {"net0": seeker(), "net3": seeker("net3")}
    row = next(explain_images(models, [("one", scene())], ["dog"]))
    assert [(panel.model, panel.kind) for panel in row.panels] == [
        ("net0", "cam"), ("net3", "cam"), ("net3", "enhanced")
    ]  # fmt: skip
    with pytest.raises(ValueError, match="'net0' has no maps 'enhanced'; choose among cam"):
        explain_images({"net0": models["net0"]}, [("one", scene())], kinds=["enhanced"])


def test_grids_go_over_pages_and_say_which_maps_are_empty(tmp_path):
    broken, processor = seeker(weight=float("nan"))
    models = {"whole": seeker(), "broken": (broken, processor)}
    rows = explain_images(models, [("a", scene()), ("b", Image.new("RGB", (40, 30)))], ["dog"], kinds=["cam"])
    files, notes = draw_grid(rows, tmp_path / "grid.png", rows_per_page=1)
    assert [file.name for file in files] == ["grid.png", "grid-2.png"]
    assert all(Image.open(file).format == "PNG" for file in files)
    assert notes == [
        "a, dog: cam of broken is NaN or infinite",
        "b, dog: cam of whole is 0 everywhere",
        "b, dog: cam of broken is NaN or infinite",
    ]
    assert describe_emptiness(np.array([np.nan, 1.0])) == "NaN or infinite in 50%"
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_grid([], tmp_path / "none.png")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["grid-2.png", "grid.png"]


def test_a_grid_drawn_again_is_the_same_file_and_dollar_signs_are_no_formula(tmp_path):
    for name in ("first.svg", "second.svg"):
        rows = explain_images({"$m$": seeker(names=["$x$", "dog"])}, [("$a$", scene())], ["$x$", "dog"], kinds=["cam"])
        draw_grid(rows, tmp_path / name, shared_scale=True)
    first = (tmp_path / "first.svg").read_text()
    assert "<svg" in first
    assert first == (tmp_path / "second.svg").read_text()


def test_shared_scales_are_those_of_maps_in_the_same_units():
    from modeling_cssfe.explain.grids import GridRow, Panel, row_scales

    strength = {"cam": -4.0, "enhanced": 2.0, "grad_cam": 0.5, "layer_cam": 9.0}
    panels = tuple(Panel("m", kind, 0.5, torch.full((2, 2), value)) for kind, value in strength.items())
    row = GridRow(0, "a", scene(), "dog", panels)
    assert row_scales(row, shared=False) == [4.0, 2.0, 0.5, 9.0]
    assert row_scales(row, shared=True) == [4.0, 4.0, 0.5, 9.0]


def test_a_processor_that_crops_is_refused():
    model, processor = seeker()
    processor.do_center_crop = True
    with pytest.raises(ValueError, match="do_center_crop=True, so maps would not lie on the image"):
        explain_images({"model": (model, processor)}, [("a", scene())])


@pytest.fixture(scope="module")
def enhancing():
    torch.manual_seed(0)
    config = CSSFEConfig(
        backbone="test_resnet",
        image_size=64,
        label_names=["cow", "person", "sofa", "car", "bus"],
        class_counts=[4, 700, 82, 240, 17],
        label_embedding_dim=6,
        hidden_size=8,
        num_attention_heads=2,
        attention_head_dim=4,
        intermediate_size=8,
    )
    model = CSSFEForImageClassification(config).eval()
    with torch.no_grad():
        for layer in (model.cssfe.enhancement.query, model.cssfe.enhancement.key):
            layer.weight.normal_()
    return model


def test_the_matrix_is_that_which_enhances_the_maps(enhancing):
    matrix = compute_enhancement_matrix(enhancing)
    with torch.no_grad():
        output = enhancing(torch.randn(1, 3, 64, 64))
    maps = output.class_activation_maps[0].flatten(1).numpy()
    expected = maps + matrix.weights @ maps  # preset "corrected": residual, no V
    assert np.allclose(output.enhanced_activation_maps[0].flatten(1).numpy(), expected, atol=1e-5)
    assert matrix.groups == ("tail", "head", "medium", "head", "tail")
    for receiver, row in enumerate(matrix.masked):
        rank = ["head", "medium", "tail"].index
        expected_row = [rank(giver) > rank(matrix.groups[receiver]) for giver in matrix.groups]
        assert row.tolist() == expected_row
    assert not matrix.weights[matrix.masked].any()
    # Head by falling count, then medium, then tail.
    assert [matrix.label_names[index] for index in matrix.order] == ["person", "car", "sofa", "bus", "cow"]
    assert np.allclose(matrix.received().sum(axis=1), 1)
    assert np.allclose(matrix.received()[:, 0], matrix.weights[:, 1] + matrix.weights[:, 3])


def test_matrix_files_hold_the_same_numbers(enhancing, tmp_path):
    matrix = compute_enhancement_matrix(enhancing)
    write_enhancement_matrix(matrix, tmp_path / "m.csv")
    write_enhancement_matrix(matrix, tmp_path / "m.json")
    content = json.loads((tmp_path / "m.json").read_text())
    assert np.array_equal(np.array(content["weights"], dtype=np.float32), matrix.weights)
    assert content["mask_mode"] == "remove"
    with open(tmp_path / "m.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 25
    for line in lines:
        receiver, giver = (matrix.label_names.index(line[role]) for role in ("receiver", "giver"))
        assert np.float32(line["weight"]) == matrix.weights[receiver, giver]
        assert line["masked"] == str(int(matrix.masked[receiver, giver]))
        assert line["giver_group"] == matrix.groups[giver]


@pytest.mark.parametrize("classes", [3, 60, 150])
def test_matrices_of_any_number_of_classes_are_drawn(classes, tmp_path):
    rng = np.random.default_rng(0)
    groups = tuple(("head", "medium", "tail")[index % 3] for index in range(classes))
    ranks = np.arange(classes) % 3
    masked = ranks[None, :] > ranks[:, None]
    names = tuple(f"class $ {index}" for index in range(classes))
    matrix = EnhancementMatrix(names, groups, None, rng.random((classes, classes)), masked, "multiply_scores")
    draw_enhancement_matrix(matrix, tmp_path / "m.png")
    assert Image.open(tmp_path / "m.png").size[0] > 500


def test_matrices_that_cannot_be_made_or_drawn_are_one_line_errors(enhancing, tmp_path):
    with pytest.raises(ValueError, match="'net0' has no enhancement matrix"):
        compute_enhancement_matrix(seeker()[0])
    many = EnhancementMatrix(("a",) * 2001, ("head",) * 2001, None, np.empty(0), np.empty(0), None)
    with pytest.raises(ValueError, match=r"2001 classes cannot be drawn.*choose a .csv or .json"):
        draw_enhancement_matrix(many, tmp_path / "m.png")
    with pytest.raises(ValueError, match=r"choose a file of .png, .svg, .csv, .json"):
        write_enhancement_matrix(compute_enhancement_matrix(enhancing), tmp_path / "m.txt")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def saved(tmp_path):
    """Two saved models, and two photographs of the same name."""
    for name, ablation in (("net2", "net2"), ("net3", "net3")):
        config = CSSFEConfig(
            backbone="test_resnet",
            image_size=64,
            label_names=NAMES,
            class_counts=[200, 5],
            ablation=ablation,
            label_embedding_dim=4,
            hidden_size=8,
            num_attention_heads=2,
            attention_head_dim=4,
            intermediate_size=8,
        )
        CSSFEForImageClassification(config).save_pretrained(tmp_path / name)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        scene().save(tmp_path / folder / "photo.png")
    return tmp_path


def test_the_command_draws_a_picture_for_each_image_or_one_grid(saved, capsys):
    net3, net2, photos = str(saved / "net3"), str(saved / "net2"), [str(saved / "a"), str(saved / "b" / "photo.png")]
    output = saved / "out" / "maps.png"
    assert main(["explain", net3, *photos, "--labels", "dog", "--output", str(output)]) == 0
    written = [str(output.with_name(f"maps_{number}_photo.png")) for number in (1, 2)]
    assert capsys.readouterr().out.splitlines() == written

    grid = saved / "grid.svg"
    kinds = ["enhanced", "unmasked", "grad_cam"]
    options = ["--grid", "--kinds", *kinds, "--layer", "layer2", "--compare", net2, "--shared_scale"]
    overlays = ["--overlays", str(saved / "overlays")]
    assert main(["explain", net3, *photos, *options, *overlays, "--top_k", "1", "--output", str(grid)]) == 0
    assert grid.read_text().count("<image") >= 2 * (1 + 3 + 2)
    files = sorted(file.name for file in (saved / "overlays").iterdir())
    assert len(files) == 2 * (3 + 2)  # net2 has nothing to unmask
    assert {Image.open(saved / "overlays" / file).size for file in files} == {(240, 160)}
    assert any(file.startswith("1_photo_") and file.endswith("_net3_unmasked.png") for file in files)


def test_the_command_writes_the_matrix_in_every_form(saved, capsys):
    for ending in ("png", "svg", "csv", "json"):
        output = saved / f"m.{ending}"
        assert main(["explain", str(saved / "net3"), "--enhancement_matrix", "--output", str(output)]) == 0
        assert output.stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{photo}", "--kinds", "gradcam"], "did you mean 'grad_cam'"),
        (["{photo}", "--kinds", "grad_cam", "--layer", "layer9"], "no layer 'layer9'"),
        (["{photo}", "--layer", "layer3"], "have no layer to choose"),
        (["{photo}", "--compare", "{model}"], "is given twice"),
        (["{photo}", "--top_k", "0"], "--top_k is 0"),
        (["{photo}", "--device", "cdua"], "cdua"),
        ([], "no image to explain"),
        (["{photo}", "--enhancement_matrix"], "give no images with it"),
        (["--enhancement_matrix", "--output", "m.jpg"], "choose a file of"),
    ],
)
def test_mistakes_at_the_command_are_one_line(arguments, message, saved, capsys):
    places = {"photo": str(saved / "a" / "photo.png"), "model": str(saved / "net3")}
    before = sorted(saved.rglob("*"))
    assert main(["explain", places["model"], *(argument.format(**places) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in next(line for line in error.splitlines() if "error:" in line)
    assert sorted(saved.rglob("*")) == before
