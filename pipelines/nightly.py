"""Where a nightly model is trained: a clone of its own, so that no workspace is touched.

The clone lies in .longtail/retrain/<name>. It trains the code of HEAD with a params.yaml of one method and one seed; it
shares this repository's DVC cache and configuration, and the images are linked into it. What a promoted model was made
of (params.yaml, dvc.lock, the sides of its images and their list) is committed there and kept in this repository under
the git tag retrain/<name>/v<version>: `git checkout` of it and `dvc checkout` bring the bytes back. The next night
takes the sides of known images from the newest tag.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from longtail.data.own_images import OwnImages
from longtail.params import Params, load_params
from longtail.retraining.inventory import Inventory
from longtail.retraining.settings import Retraining
from longtail.spec import InputError
from longtail.workspace import digest_of
from pipelines.clone import ASSIGNMENT, RAW, check_code, git, link, share_cache, update_clone
from pipelines.failures import UserError, failure_of
from pipelines.processes import Sink, run
from pipelines.repro import DVC
from pipelines.rows import only_method
from pipelines.stage_graph import default_remote
from pipelines.variants import Variant

LINK = RAW / "images"  # in the clone: the images, wherever they are
INVENTORY = Path("data") / "inventory.csv"
KEPT = ("params.yaml", "dvc.lock", str(ASSIGNMENT), str(INVENTORY), "reports")
NOBODY = ("-c", "user.name=longtail", "-c", "user.email=longtail@localhost")


@dataclass(frozen=True)
class Nightly:
    """A night's work.

    Args:
        root: the repository.
        params: what the clone trains; its data.path is the link in the clone.
        text: the clone's params.yaml.
        retraining: `retrain` of the params file.
        source: the images where they really are.
    """

    root: Path
    params: Params
    text: str
    retraining: Retraining
    source: OwnImages

    @property
    def clone(self) -> Path:
        """Where it is trained."""
        return self.root / ".longtail" / "retrain" / self.retraining.name

    @property
    def recipe(self) -> str:
        """Identify all that decides the model and its promotion, besides the images."""
        code = [git(self.root, "rev-parse", f"HEAD:{path}") for path in ("src", "dvc.yaml")]
        return digest_of(self.params.model_dump(mode="json"), *code)

    def prepare(self) -> None:
        """Bring the clone to HEAD, with its params.yaml, the images and the sides that are known of them.

        Raises:
            UserError: the code differs from HEAD.
        """
        check_code(self.root)
        self.clone.parent.mkdir(parents=True, exist_ok=True)
        name = self.retraining.name
        update_clone(self.root, self.clone, Variant(self.root / "params.yaml", name, self.text, {"retrain.name": name}))
        git(self.clone, "update-index", "--skip-worktree", "params.yaml")  # so that the clone is not dirty
        share_cache(self.root, self.clone)
        link(self.source.find_root().resolve(), self.clone / LINK)
        if (known := self._kept(None, ASSIGNMENT)) is not None:
            (self.clone / ASSIGNMENT).write_text(known)

    def inventory_of(self, version: str) -> Inventory | None:
        """Return the images that a version was made of; None if nothing was kept of it."""
        text = self._kept(version, INVENTORY)
        if text is None:
            return None
        file = self.clone / ".longtail" / "inventory.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return Inventory.load(file)

    def push(self, sink: Sink) -> None:
        """Send the stages' outputs to the DVC remote, if there is one.

        Raises:
            PipelineError: it cannot be reached, or does not take them.
        """
        if default_remote(self.clone):
            finished = run([*DVC, "push"], self.clone, sink, extra={})
            if failure := failure_of(finished, "dvc push"):
                raise failure

    def keep(self, version: str) -> str:
        """Commit what a version was made of and tag it in this repository; return the tag.

        Raises:
            PipelineError: git refuses, such as a remote that cannot be reached.
        """
        tag = self._tag(version)
        git(self.clone, "update-index", "--no-skip-worktree", "params.yaml")
        git(self.clone, "add", "--force", "--", *(path for path in KEPT if (self.clone / path).exists()))
        git(self.clone, *NOBODY, "commit", "--quiet", "--allow-empty", "--message", f"Train {tag}")
        git(self.clone, "tag", "--force", tag)
        git(self.clone, "push", "--quiet", "--force", "origin", tag)
        if self.retraining.git_remote:
            git(self.root, "push", "--quiet", "--force", self.retraining.git_remote, tag)
        return tag

    def _tag(self, version: str) -> str:
        return f"retrain/{self.retraining.name}/v{version}"

    def _kept(self, version: str | None, path: Path) -> str | None:
        """Return a file of a version's tag, or of the newest tag; None if there is none."""
        tags = git(self.root, "tag", "--list", self._tag(version or "*"), "--sort=-v:refname").splitlines()
        if tags:
            return git(self.root, "show", f"{tags[0]}:{path}") + "\n"
        own = self.root / path
        return own.read_text() if version is None and own.exists() else None


def plan_night(root: Path, data: str | None) -> Nightly:
    """Read params.yaml and say what is trained tonight.

    Args:
        data: the folder of the images instead of data.path.

    Raises:
        UserError: params.yaml does not hold, has no `retrain`, or its data cannot grow.
    """
    file = root / "params.yaml"
    try:
        params = load_params(file)
    except InputError as error:
        raise UserError(str(error)) from None
    if params.retrain is None:
        raise UserError("params.yaml has no `retrain`. Copy it from benchmarks/own_images.yaml.")
    if not isinstance(params.data, OwnImages):
        raise UserError(
            f"data.name is {params.data.name}, whose images never change. "
            "Retraining watches image_folder or image_list; see benchmarks/own_images.yaml."
        )
    source = params.data.model_copy(update={"path": str(_place(root, data or params.data.path))})
    content = only_method(yaml.safe_load(file.read_text()), params, params.retrain.method)
    content |= {"seeds": [params.retrain.seed], "data": content["data"] | {"path": str(LINK)}, "published": {}}
    text = "# What retraining trains: one method, one seed.\n" + yaml.safe_dump(content, sort_keys=False)
    return Nightly(root, Params.model_validate(content), text, params.retrain, source)


def _place(root: Path, path: str) -> Path:
    folder = Path(path).expanduser()
    return root / folder if (root / folder).exists() else folder
