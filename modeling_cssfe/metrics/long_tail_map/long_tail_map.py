# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`long_tail_map` as an `evaluate` module: a thin layer over the function of the same name."""

import datasets
import evaluate

from modeling_cssfe.metrics import long_tail_map  # From: cssfe


_DESCRIPTION = """\
Mean average precision of a multi-label classifier over all classes and over the head, medium and tail classes of a
long-tailed training set, with F1, precision, recall, AUROC, ranking and calibration figures.
It needs the package `modeling_cssfe`, which is installed by `pip install cssfe`.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one list of C sigmoid scores an image.
    references: one list of C labels an image: 1, 0, and -1 or NaN for unknown.
    class_counts: training images of each class, length C.
    head_min: smallest count of a head class (100).
    tail_max: counts below it are tail (20).
    label_names: C names.
    threshold, top_k, average_precision_method, num_bins, num_workers: see `modeling_cssfe.metrics.long_tail_map`.
Returns:
    The dictionary of `modeling_cssfe.metrics.long_tail_map`: `map_total`, `map_head`, `map_medium`, `map_tail`,
    `per_class`, `f1_micro`, ... as fractions in [0, 1], None where nothing can be averaged.
Examples:
    >>> metric = evaluate.load("modeling_cssfe/metrics/long_tail_map")
    >>> metric.add_batch(predictions=[[0.9, 0.2], [0.8, 0.7]], references=[[1, 0], [0, 1]])
    >>> metric.add_batch(predictions=[[0.3, 0.8]], references=[[1, 0]])
    >>> result = metric.compute(class_counts=[775, 4], label_names=["person", "cow"])
    >>> round(result["map_head"], 4), result["map_tail"]
    (0.8333, 0.5)
"""

_CITATION = """\
@inproceedings{wu2020distribution,
  title={Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets},
  author={Wu, Tong and Huang, Qingqiu and Liu, Ziwei and Wang, Yu and Lin, Dahua},
  booktitle={European Conference on Computer Vision},
  year={2020}
}
"""


class LongTailMap(evaluate.Metric):
    """The `evaluate` module; load it with `evaluate.load("modeling_cssfe/metrics/long_tail_map")`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    # fp64, so that the module agrees with the function to the last digit.
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.List(datasets.Value("float32")),
                }
            ),
        )

    def _compute(self, predictions, references, class_counts=None, **options):
        if class_counts is None:
            raise ValueError("class_counts is missing; pass compute(class_counts=[training images of each class]).")
        return long_tail_map(predictions, references, class_counts, **options)
