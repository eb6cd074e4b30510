"""Train the ablations of a recipe on real photographs, several seeds each, and write the validation table.

Data, weights and label embeddings are given by file. A row is written after each run, with the environment in it; runs
whose row exists already are skipped, so an interrupted benchmark goes on where it stopped.
"""

import argparse
import csv
import statistics
import tempfile
from pathlib import Path

from modeling_cssfe.training import load_recipe, train


COLUMNS = ("map_total", "map_head", "map_medium", "map_tail")


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append_row(path: Path, row: dict) -> None:
    rows = [*read_rows(path), {key: str(value) for key, value in row.items()}]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--recipe", default="voc07_lt_resnet18", help="shipped recipe or YAML file")
    parser.add_argument("--data", required=True, help="folder of Parquet files")
    parser.add_argument("--backbone_weights", required=True, help="safetensors file")
    parser.add_argument("--label_embeddings", required=True, help="safetensors file")
    parser.add_argument("--ablations", nargs="+", default=["net0", "net3"], help="which networks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds of each")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other keys of the recipe")
    parser.add_argument("--output", type=Path, required=True, help="CSV file")
    arguments = parser.parse_args()
    values = {name: getattr(arguments, name) for name in ("data", "backbone_weights", "label_embeddings")}
    for seed in arguments.seeds:
        for ablation in arguments.ablations:
            done = {(row["ablation"], row["seed"]) for row in read_rows(arguments.output)}
            if (ablation, str(seed)) in done:
                continue
            recipe = load_recipe(arguments.recipe, arguments.set, {**values, "ablation": ablation, "seed": seed})
            with tempfile.TemporaryDirectory() as folder:
                results = train(recipe, Path(folder) / "run")
            row = {"recipe": arguments.recipe, "ablation": ablation, "seed": seed, "split": results["chosen_on"]}
            row |= {column: round(results[column], 4) for column in COLUMNS}
            row |= {"best_epoch": results["best_epoch"], "epochs": recipe.epochs, "image_size": recipe.image_size}
            row |= {"changed": " ".join(arguments.set), "mixed_precision": results["mixed_precision"]}
            row |= {"wall_time_seconds": results["wall_time_seconds"], **results["environment"]}
            append_row(arguments.output, row)
    rows = read_rows(arguments.output)
    for ablation in arguments.ablations:
        chosen = [row for row in rows if row["ablation"] == ablation]
        figures = [
            f"{column.removeprefix('map_')} {100 * statistics.mean(float(row[column]) for row in chosen):.1f}"
            for column in COLUMNS
        ]
        print(f"{ablation}, mean of {len(chosen)} seeds: {', '.join(figures)}")


if __name__ == "__main__":
    main()
