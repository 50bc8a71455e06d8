"""Copy the leaderboard that the pipeline wrote, and the picture, into README.md: its numbers are never typed."""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- leaderboard: written by `make readme` from reports/leaderboard.md -->", "<!-- end of leaderboard -->"
PICTURES = ("accuracy_by_count.png", "features_glag.png")


def with_leaderboard(readme: str, leaderboard: str) -> str:
    """Return the README's text with the leaderboard between its marks."""
    body = leaderboard.removeprefix("# Leaderboard\n").strip()
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    return re.sub(pattern, lambda _: f"{BEGIN}\n{body}\n{END}", readme, flags=re.DOTALL)


def main() -> None:
    """Write README.md and docs/images/."""
    readme = ROOT / "README.md"
    readme.write_text(with_leaderboard(readme.read_text(), (ROOT / "reports" / "leaderboard.md").read_text()))
    for name in PICTURES:
        shutil.copy(ROOT / "reports" / "plots" / name, ROOT / "docs" / "images" / name)


if __name__ == "__main__":
    main()
