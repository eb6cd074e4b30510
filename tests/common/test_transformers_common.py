# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""transformers' own common tests, from its source distribution, run against CSSFE in a process of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import transformers

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification, CSSFEModel


HERE = Path(__file__).parent
# What pip prints where no index answers; everything else that goes wrong is a failure.
OUT_OF_REACH = r"connection|network is unreachable|name resolution|timed out|proxy|max retries"
# What is skipped, by the words of the skip, and why that is right for CSSFE. A skip with any other words fails.
EXPECTED_SKIPS = {
    "Images have no embedding table": "the common test looks for an nn.Embedding",
    "No model with a differentiable loss was available": "needs an embedding table too",
    "uses? `inputs_embeds`|use `inputs_embeds`": "text models",
    "resize_embeddings|position embeddings": "text models",
    "anguage modeling head": "text models",
    "RoPE": "text models, or inside timm",
    "sliding window": "text models",
    "sparse experts|router_logits|grouped_mm": "mixtures of experts",
    "omposite|No subconfigs|CSSFEModel does not support SDPA": "composite models; SDPA is tested by its other tests",
    "No conversion found": "checkpoints have one naming only",
    "TP plan": "no tensor parallelism",
    "several classes capturing": "hidden states are the feature map and the fused tokens, of two classes",
    "less than 2 backends|no PIL backend": "the image processor has the torchvision backend alone",
    "No validation found for `preprocess`|dict size or list image_mean": "older image processors",
    "not in `self.pipeline_model_mapping`|`run_pipeline_test` is currently not implemented": "other tasks",
    "requires (PyTesseract|av)": "other tasks",
    "requires (multiple )?accelerators?|requires MPS|requires Flash Attention|kernels library|deepspeed": "hardware",
    "BatchNorm's counter": "an error of older versions of the test",
    "test is slow": "torch.compile, which this project tests itself",
    "Could not locate the classification Linear layer": "the classifier is a weight vector a class, tested here itself",
}


@pytest.fixture(scope="module")
def source_archive(request) -> Path:
    """The archive of the installed version, downloaded once into pytest's cache."""
    folder = Path(request.config.cache.mkdir("transformers-source"))
    name = f"transformers-{transformers.__version__}.tar.gz"
    if not (folder / name).is_file():
        requirement = f"transformers=={transformers.__version__}"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", requirement]
        unfinished = folder / "unfinished"
        result = subprocess.run(
            [*command, "--dest", str(unfinished)], capture_output=True, text=True, timeout=300, check=False
        )
        output = result.stdout + result.stderr
        if result.returncode and re.search(OUT_OF_REACH, output, re.IGNORECASE):
            pytest.skip("the package index is out of reach, so transformers' source distribution cannot be had")
        if result.returncode:
            pytest.fail(f"`{' '.join(command)}` failed:\n{output[-2000:]}")
        os.replace(unfinished / name, folder / name)
    return folder / name


@pytest.fixture
def tree(source_archive, tmp_path) -> Path:
    """The archive's tests, with what it leaves out replaced by as little as they need."""
    with tarfile.open(source_archive) as archive:
        members = [member for member in archive.getmembers() if re.match(r"[^/]+/tests/[^/]+\.py$", member.name)]
        archive.extractall(tmp_path, members=members, filter="data")
    root = next(tmp_path.iterdir())
    empty = ["tests", "tests/models", "tests/models/cssfe", "tests/exporters", "tests/generation"]
    empty += ["tests/pipelines", "tests/utils", "src/transformers"]
    files = {f"{folder}/__init__.py": "" for folder in empty}
    files |= {
        "tests/exporters/test_export.py": "class ExportTesterMixin: pass\n",
        "tests/generation/test_utils.py": "class GenerationTesterMixin: pass\n",
        "tests/utils/test_configuration_utils.py": (
            "config_common_kwargs = {'return_dict': False, 'output_hidden_states': True, 'output_attentions': True, "
            "'dtype': 'float16', 'chunk_size_feed_forward': 5, 'architectures': ['CSSFEModel']}\n"
        ),
        "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url): return url\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    shutil.copy(HERE / "common_suite.py", root / "tests/models/cssfe/test_modeling_cssfe.py")
    for task in ("image_classification", "image_feature_extraction"):
        shutil.copy(HERE / "pipeline_checks.py", root / f"tests/pipelines/test_pipelines_{task}.py")
    # Older versions import the tests of all pipelines at once, of which only the two above concern CSSFE.
    mixin = (root / "tests/test_pipeline_mixin.py").read_text()
    for task, name in re.findall(r"from \.pipelines\.(test_pipelines_\w+) import (\w+)", mixin):
        if not (root / f"tests/pipelines/{task}.py").exists():
            (root / f"tests/pipelines/{task}.py").write_text(f"class {name}: pass\n")
    return root


@pytest.fixture
def tiny_models(tmp_path_factory) -> Path:
    """Saved models where the pipeline mixin looks for them."""
    folder = tmp_path_factory.mktemp("tiny_models")
    summary = {}
    config = CSSFEConfig(
        backbone="test_resnet",
        image_size=64,
        label_names=["person", "dog", "cow"],
        class_counts=[775, 48, 4],
        label_embedding_dim=10,
        hidden_size=16,
    )
    for model_class in (CSSFEModel, CSSFEForImageClassification):
        name = model_class.__name__
        model_class(config).save_pretrained(folder / "cssfe" / name)
        summary[name] = {"tokenizer_classes": [], "processor_classes": ["CSSFEImageProcessor"]}
    (folder / "reports").mkdir()
    (folder / "reports" / "tiny_model_summary.json").write_text(json.dumps(summary))
    return folder


# A minute or more: it downloads an archive of 10 MB once, and runs some hundred tests, each of which builds models.
@pytest.mark.slow
def test_transformers_common_tests_pass(tree, tiny_models, capsys):
    report = tree / "report.xml"
    environment = {
        **os.environ,
        "TRANSFORMERS_TINY_MODEL_PATH": str(tiny_models),
        "HF_HOME": str(tree / "hf_home"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(tree), str(HERE.parents[1])]),
    }
    command = [sys.executable, "-m", "pytest", "tests/models/cssfe", "-q", "-rfE", "--tb=short"]
    command += ["-p", "no:cacheprovider", "-W", "ignore"]
    # The empty file keeps this project's pytest settings, and any other's, out.
    (tree / "pytest.ini").write_text("[pytest]\n")
    result = subprocess.run(
        [*command, "-c", "pytest.ini", f"--junitxml={report}"],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if not report.is_file():
        pytest.fail(f"the common tests did not run:\n{(result.stdout + result.stderr)[-4000:]}")
    cases = list(ElementTree.parse(report).iter("testcase"))
    found = ((case.get("name", ""), case.find("skipped")) for case in cases)
    skips = {name: skip.get("message", "") for name, skip in found if skip is not None}
    bad = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    passed = len(cases) - len(skips) - len(bad)
    answers = {name: [why for words, why in EXPECTED_SKIPS.items() if re.search(words, skips[name])] for name in skips}
    with capsys.disabled():
        print(f"\ntransformers {transformers.__version__} common tests: {passed} passed, {len(skips)} skipped")
        for why in sorted({why for whys in answers.values() for why in whys[:1]}):
            names = sorted(name for name, whys in answers.items() if whys[:1] == [why])
            print(f"  skipped {len(names)} ({why}): {', '.join(names)}")
    assert not bad, f"{len(bad)} common tests fail:\n{result.stdout[-6000:]}"
    assert [name for name, whys in answers.items() if not whys] == []
    assert passed >= 110
