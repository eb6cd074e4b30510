"""Write images of a data set to files and print their labels: something to predict on, or to look at."""

import argparse
from pathlib import Path

from modeling_cssfe.data import decode_image, label_names_of, load_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("data", help="lt_digits, folder, file or `datasets` name")
    parser.add_argument("--split", default="test", help="split to take images from")
    parser.add_argument("--indices", type=int, nargs="+", default=[0], help="rows of the split")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the PNG files")
    arguments = parser.parse_args()
    dataset = load_images(arguments.data)[arguments.split]
    names = label_names_of(dataset)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for index in arguments.indices:
        row = dataset[index]
        file = arguments.output_dir / f"{index:04d}.png"
        decode_image(row["image"], image_id=row["image_id"]).save(file)
        print(f"{file}: {', '.join(names[label] for label in row['labels']) or 'no label'}")


if __name__ == "__main__":
    main()
