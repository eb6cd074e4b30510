"""What the second of two phases adds to the first, from the folders of runs that `cssfe train` has left.

Both phases are judged after their last epoch. The second began with what the first saved, its best epoch if it
validated several. A row a phase and seed goes into the CSV; means and the paired difference, with its 95 % interval,
are printed.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from ablations import append_row, read_rows
from scipy import stats


COLUMNS = ("map_total", "map_head", "map_medium", "map_tail")


def phase_row(run: Path, trial: str, phase: str) -> dict:
    results = json.loads((run / "results.json").read_text())
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    recipe = results["recipe"]
    row = {"trial": trial, "seed": results["seed"], "phase": phase, "epoch": last["epoch"]}
    row |= {column: round(last[column], 4) for column in COLUMNS}
    row |= {key: recipe[key] for key in ("preset", "ablation", "image_size", "freeze_backbone")}
    row |= {"mixed_precision": results["mixed_precision"], "seconds": round(results["wall_time_seconds"])}
    return row | results["environment"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of two phases, one a seed")
    parser.add_argument("--trial", required=True, help="what the rows are called")
    parser.add_argument("--output", type=Path, required=True, help="CSV file; rows that it has are kept")
    arguments = parser.parse_args()
    for run in arguments.runs:
        for phase, folder in (("first", run / "first_phase"), ("second", run)):
            row = phase_row(folder, arguments.trial, phase)
            known = {(entry["trial"], entry["seed"], entry["phase"]) for entry in read_rows(arguments.output)}
            if (row["trial"], str(row["seed"]), phase) not in known:
                append_row(arguments.output, row)
    rows = [row for row in read_rows(arguments.output) if row["trial"] == arguments.trial]
    seeds = sorted({row["seed"] for row in rows})
    figures = {
        phase: np.array(
            [
                [100 * float(row[column]) for column in COLUMNS]
                for seed in seeds
                for row in rows
                if (row["seed"], row["phase"]) == (seed, phase)
            ]
        )
        for phase in ("first", "second")
    }
    gain = figures["second"] - figures["first"]
    print(f"{arguments.trial}, {len(seeds)} seeds: {', '.join(COLUMNS)}")
    for phase, values in figures.items():
        deviation = values.std(axis=0, ddof=1) if len(seeds) > 1 else 0 * values[0]
        pairs = zip(values.mean(axis=0), deviation, strict=True)
        print(f"{phase:<8}" + "  ".join(f"{mean:5.1f} ± {spread:.1f}" for mean, spread in pairs))
    if len(seeds) > 1:
        half = stats.t.ppf(0.975, len(seeds) - 1) * gain.std(axis=0, ddof=1) / len(seeds) ** 0.5
        print(
            "gain    "
            + "  ".join(f"{mean:+5.2f} ± {width:.2f}" for mean, width in zip(gain.mean(axis=0), half, strict=True))
        )


if __name__ == "__main__":
    main()
