"""Where a training step of CSSFE spends its time: seconds of each part's forward pass, and torch's own profile."""

import argparse
import time
from collections import Counter

import torch
from model_cost import Step
from torch import nn
from torch.profiler import ProfilerActivity, profile


def time_forward(name: str, module: nn.Module, seconds: Counter) -> None:
    """Add the seconds of every forward pass of a module to `seconds[name]`."""
    started = []
    module.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))
    module.register_forward_hook(lambda *_: seconds.update({name: time.perf_counter() - started.pop()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--classes", type=int, default=1203, help="number of classes")
    parser.add_argument("--backbone", default="resnet50", help="timm architecture")
    parser.add_argument("--image_size", type=int, default=448, help="image side in pixels")
    parser.add_argument("--batch_size", type=int, default=2, help="images a step")
    parser.add_argument("--repeats", type=int, default=5, help="steps that are timed")
    arguments = parser.parse_args()
    arguments.device, arguments.bf16 = "cpu", False  # on a GPU, forward hooks would time launches alone
    step = Step("net3", arguments.classes, True, arguments)
    step()
    step()
    network, seconds = step.model.cssfe, Counter()
    parts = {
        "whole": step.model,
        "backbone": network.backbone,
        "class activation": network.class_activation,
        "label encoder": network.label_encoder,
        "enhancement": network.enhancement,
        "fusion": network.fusion,
        "fusion: attention": network.fusion.block.attention,
        "fusion: feed-forward, in": network.fusion.block.intermediate,
        "fusion: feed-forward, out": network.fusion.block.output,
    }
    for name, module in parts.items():
        time_forward(name, module, seconds)
    for _ in range(arguments.repeats):
        step()
    for name, total in seconds.most_common():
        print(f"{name:28} {total / arguments.repeats:.3f} s forward")
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=50))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
