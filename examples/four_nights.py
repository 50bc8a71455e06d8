"""Four nights of retraining on real images (scikit-learn's digits, no download), and a rollback. About five minutes.

    python examples/four_nights.py FOLDER

FOLDER must not exist yet; a clone of this repository is made there, with an image folder of its own.

  night 1   few images of five digits: the first model is trained and promoted
  night 2   no new images: nothing is trained
  night 3   more images of the rare digits: a model is trained, passes the gate and is promoted
  night 4   new images under wrong labels: a model is trained and refused; the gate says which group fell
  rollback  the model of night 1 is served again, with exactly its answers
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parents[1]
COMMON, RARE = range(5), range(5, 10)
TEST = slice(0, 40)  # of each digit: the test set, the same on every night
FIRST = {**dict.fromkeys(COMMON, slice(40, 130)), **dict.fromkeys(RARE, slice(40, 44))}
MORE = slice(44, 90)  # of the rare digits, on the third night
WRONG = slice(90, 120)  # on the fourth


def digits() -> list[np.ndarray]:
    """Return the images of each digit, (N, 8, 8) in 0 to 16, in one shuffled order: file order separates writers."""
    data = load_digits()
    order = np.random.RandomState(0).permutation(len(data.target))
    return [data.images[order][data.target[order] == digit] for digit in range(10)]


def write(folder: Path, images: np.ndarray, first: int) -> None:
    """Write images as 16 x 16 PNG files, numbered from `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(images, start=first):
        picture = Image.fromarray((pixels * 255 / 16).astype(np.uint8)).resize((16, 16), Image.Resampling.BILINEAR)
        picture.save(folder / f"{number:03d}.png")


def add(root: Path, part: str, digit: int, which: slice, label: int | None = None) -> None:
    """Add images of a digit under its own label, or under another."""
    name = f"digit_{digit if label is None else label}"
    write(root / "data" / "raw" / "mine" / part / name, digits()[digit][which], which.start + 1000 * digit)


def first_night(root: Path) -> None:
    """Bring the images of the first day."""
    for digit in range(10):
        add(root, "test", digit, TEST)
        add(root, "train", digit, FIRST[digit])


def third_night(root: Path) -> None:
    """Bring more images of the rare digits."""
    for digit in RARE:
        add(root, "train", digit, MORE)


def fourth_night(root: Path) -> None:
    """Bring images whose labels are permuted among the rare digits."""
    for digit in RARE:
        add(root, "train", digit, WRONG, label=RARE[(digit - RARE.start + 1) % len(RARE)])


def run(root: Path, *words: str) -> None:
    """Run a command of longtail in the clone; its output is seen."""
    print(f"\n$ python -m {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", *words], cwd=root, check=True)


def prepare(root: Path) -> None:
    """Clone this repository and give the clone the example's params.yaml."""
    subprocess.run(["git", "clone", "--quiet", str(HERE), str(root)], check=True)
    (root / "params.yaml").write_bytes((HERE / "examples" / "four_nights.yaml").read_bytes())


def nights(root: Path) -> Iterator[str]:
    """Play the nights; yields the name of each after it has passed."""
    first_night(root)
    run(root, "pipelines.retrain")
    yield "night 1"
    run(root, "pipelines.retrain")
    yield "night 2"
    third_night(root)
    run(root, "pipelines.retrain")
    yield "night 3"
    fourth_night(root)
    run(root, "pipelines.retrain")
    yield "night 4"
    run(root, "longtail.tracking.registry", "rollback")
    yield "rollback"


def main() -> int:
    """Play everything in the folder that the command line names."""
    if len(sys.argv) != 2 or Path(sys.argv[1]).exists():
        print("Name a folder that does not exist yet: python examples/four_nights.py FOLDER", file=sys.stderr)
        return 2
    root = Path(sys.argv[1]).resolve()
    prepare(root)
    for name in nights(root):
        print(f"--- {name} is over")
    run(root, "longtail.tracking.registry", "show")
    print(f"\nEverything is in MLflow: cd {root}, then `mlflow ui --backend-store-uri sqlite:///mlflow.db`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
