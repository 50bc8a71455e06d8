"""Write what others wrote into README.md: the pipeline's leaderboard and pictures, and the methods' docstrings."""

import shutil

from docs.methods import README, ROOT, between, with_methods

BEGIN, END = "<!-- leaderboard: written by `make readme` from reports/leaderboard.md -->", "<!-- end of leaderboard -->"
PICTURES = ("accuracy_by_count.png", "features_glag.png")


def with_leaderboard(readme: str, leaderboard: str) -> str:
    """Return the README's text with the leaderboard between its marks."""
    return between(readme, BEGIN, END, leaderboard.removeprefix("# Leaderboard\n").strip())


def main() -> None:
    """Write README.md and docs/images/."""
    leaderboard = (ROOT / "reports" / "leaderboard.md").read_text()
    README.write_text(with_methods(with_leaderboard(README.read_text(), leaderboard)))
    for name in PICTURES:
        shutil.copy(ROOT / "reports" / "plots" / name, ROOT / "docs" / "images" / name)


if __name__ == "__main__":
    main()
