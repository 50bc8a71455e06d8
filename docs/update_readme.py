"""Write what others wrote into README.md: the pipeline's leaderboard and pictures, and the methods' docstrings."""

import shutil
from collections.abc import Iterator

from docs.methods import README, ROOT, between, with_methods
from longtail.params import load_params
from longtail.report.leaderboard import percent_with_std
from longtail.report.results import lack, load

BEGIN, END = "<!-- leaderboard: written by `make readme` from reports/leaderboard.md -->", "<!-- end of leaderboard -->"
RESULTS_BEGIN, RESULTS_END = (
    "<!-- results: written by `make readme` from benchmarks/results -->",
    "<!-- end of results -->",
)
HEADLINES = (  # paper, params file, rows
    ("RSG", "rsg_cifar", ("ldam_drw", "ldam_drw_rsg")),
    ("CSA", "csa_cifar", ("ce", "csa")),
    ("CSA", "fashion_mnist_lt", ("ce", "crt", "cb_rs")),
    ("GLAG", "glag_cifar100_lt", ("ce", "graloss", "glag")),
    ("OFA", "ofa_cifar", ("ce", "ofa")),
)
PICTURES = ("accuracy_by_count.png", "features_glag.png")


def with_leaderboard(readme: str, leaderboard: str) -> str:
    """Return the README's text with the leaderboard between its marks."""
    return between(readme, BEGIN, END, leaderboard.removeprefix("# Leaderboard\n").strip())


def with_results(readme: str) -> str:
    """Return the README's text with the papers' headline rows between its marks."""
    lines = ["| paper | table | row | accuracy | published | n | hardware |", "|---|---|---|---:|---:|---:|---|"]
    return between(readme, RESULTS_BEGIN, RESULTS_END, "\n".join([*lines, *_headlines()]))


def _headlines() -> Iterator[str]:
    for paper, name, methods in HEADLINES:
        params = load_params(ROOT / "benchmarks" / f"{name}.yaml")
        rows = load(ROOT / "benchmarks" / "results" / name)
        for method in methods:
            published = f"{100 * params.published[method]['overall']:.1f}"
            ours = ["not run yet", published, "", ""]
            if not lack(rows, params, method):
                overall = rows[method]["summary"]["overall"]
                hardware = ", ".join(dict.fromkeys(seed["hardware"] for seed in rows[method]["seeds"].values()))
                ours = [percent_with_std(overall), published, str(overall["n"]), hardware]
            yield f"| {' | '.join([paper, f'[{name}](benchmarks/{name}.yaml)', method, *ours])} |"


def main() -> None:
    """Write README.md and docs/images/."""
    leaderboard = (ROOT / "reports" / "leaderboard.md").read_text()
    README.write_text(with_results(with_methods(with_leaderboard(README.read_text(), leaderboard))))
    for name in PICTURES:
        shutil.copy(ROOT / "reports" / "plots" / name, ROOT / "docs" / "images" / name)


if __name__ == "__main__":
    main()
