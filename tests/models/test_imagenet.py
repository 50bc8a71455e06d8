"""torchvision's nets: the same logits as torchvision from the same weights, and one sentence for a wrong file."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from longtail.models import NetworkSpec, build_network
from longtail.models.imagenet import BACKBONES, TORCHVISION
from longtail.models.network import Network
from longtail.spec import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def network(weights: str | None, backbone: str = "imagenet_resnet50") -> Network:
    spec = NetworkSpec(backbone=backbone, classifier="linear", scale=1.0, weights=weights)
    return build_network(spec, channels=3, image_size=64, num_classes=7, mean=MEAN, std=STD, seed=0)


def torchvision_net(backbone: str) -> Any:
    torch.manual_seed(1)
    net = torchvision.models.get_model(TORCHVISION[backbone], weights=None)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics that differ from the initial ones
            module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.9, 1.1)  # type: ignore[union-attr]
    return net


@pytest.mark.parametrize("backbone", BACKBONES)
def test_maps_have_the_documented_shapes(backbone: str) -> None:
    shapes: list[tuple[int, ...]] = []
    with torch.device("meta"):
        maps = torch.rand(2, 3, 224, 224)
        for stage in BACKBONES[backbone].build(3, 224):
            maps = stage(maps)
            shapes.append(tuple(maps.shape[1:]))
    expansion = 1 if backbone == "imagenet_resnet10" else 4
    assert shapes == [(64 * expansion * 2**k, 56 // 2**k, 56 // 2**k) for k in range(4)]
    assert shapes[-1][0] == BACKBONES[backbone].feature_dim


def test_resnet10_is_the_net_of_kang_and_oltr_written_without_modules() -> None:
    """A 7x7 stem and four basic blocks with projections where the shape changes."""
    torch.manual_seed(0)
    stages = nn.Sequential(*BACKBONES["imagenet_resnet10"].build(3, 64)).double().eval()
    kernels = iter([m.weight for m in stages.modules() if isinstance(m, nn.Conv2d)])
    norms = iter([m for m in stages.modules() if isinstance(m, nn.BatchNorm2d)])

    def convolve(x: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
        norm = next(norms)
        assert norm.running_var is not None and norm.running_mean is not None
        y = F.conv2d(x, next(kernels), stride=stride, padding=padding)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return (y - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]

    for module in stages.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5)
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    x = F.max_pool2d(convolve(images, 2, 3).clamp(min=0), 3, 2, 1)
    for stage in range(4):
        stride = 1 if stage == 0 else 2
        residual = convolve(convolve(x, stride, 1).clamp(min=0), 1, 1)
        x = (residual + (x if stage == 0 else convolve(x, stride, 0))).clamp(min=0)
    torch.testing.assert_close(stages(images), x)
    assert next(kernels, None) is None and next(norms, None) is None


def test_resnet10_takes_no_weights_since_nobody_publishes_them() -> None:
    with pytest.raises(ValidationError, match=r"imagenet_resnet10 has no pretrained weights.*choose imagenet_resnet50"):
        NetworkSpec(backbone="imagenet_resnet10", classifier="linear", scale=1.0, weights="IMAGENET1K_V1")


@pytest.mark.parametrize("backbone", ["imagenet_resnet50", "imagenet_resnext50"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_from_a_file_give_torchvisions_features(backbone: str, suffix: str, tmp_path: Path) -> None:
    reference, path = torchvision_net(backbone), tmp_path / f"net.{suffix}"
    torch.save(reference.state_dict(), path) if suffix == "pth" else save_file(reference.state_dict(), path)
    images = torch.rand(2, 3, 64, 64)
    normalised = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    reference.fc = nn.Identity()
    with torch.no_grad():
        features = network(str(path), backbone).eval().features(images)
        torch.testing.assert_close(features, reference.eval()(normalised), rtol=1e-4, atol=1e-5)


def test_weights_leave_the_fresh_classifier_alone(tmp_path: Path) -> None:
    torch.save(torchvision_net("imagenet_resnet50").state_dict(), tmp_path / "net.pth")
    loaded, fresh = network(str(tmp_path / "net.pth")), network(None)
    assert torch.equal(loaded.classifier.weight, fresh.classifier.weight)
    assert not torch.equal(next(loaded.stages.parameters()), next(fresh.stages.parameters()))


def test_published_weights_come_from_torchs_cache_when_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = Path(torchvision.models.ResNet50_Weights.IMAGENET1K_V2.url).name
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    reference = torchvision_net("imagenet_resnet50")
    torch.save(reference.state_dict(), tmp_path / "hub" / "checkpoints" / name)
    assert torch.equal(next(network("IMAGENET1K_V2").stages.parameters()), reference.conv1.weight)


def test_a_failed_download_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ConnectionError, match=r"network\.weights is IMAGENET1K_V1, but https://\S+ could not"):
        network("IMAGENET1K_V1")


def broken_files() -> dict[str, Any]:
    net = torchvision_net("imagenet_resnet50").state_dict()
    return {
        "list.pth": [1, 2],
        "nested.pth": {"state_dict": net},
        "partial.pth": {key: tensor for key, tensor in net.items() if key.startswith("layer1")},
        "other.pth": torchvision.models.resnet18(weights=None).state_dict(),
    }


def test_a_file_of_something_else_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    (tmp_path / "text.safetensors").write_text("<html>not found</html>")
    (tmp_path / "empty.pth").touch()
    for name, content in broken_files().items():
        torch.save(content, tmp_path / name)
    torch.save({"conv1.weight": torch.rand(64, 3, 7, 7)}, tmp_path / "truncated.pth")
    (tmp_path / "truncated.pth").write_bytes((tmp_path / "truncated.pth").read_bytes()[:2000])
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InputError, match=rf"^network\.weights is '{path}', which [^\n]*$"):
            network(str(path))


class Trap:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder,)


def test_a_file_with_code_is_refused_and_never_run(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    with pytest.raises(InputError, match=r"cannot be read \(UnpicklingError\)"):
        network(str(tmp_path / "trap.pth"))
    assert not (tmp_path / "sprung").exists()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"^network\.weights is 'nowhere\.pth', but there is no such file\."):
        network("nowhere.pth")
