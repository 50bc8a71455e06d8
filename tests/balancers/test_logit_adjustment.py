"""Post-hoc logit adjustment: the formula in plain loops, tau chosen on validation images alone."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from banks import COUNTS, biased_network, make_bank, make_run
from longtail.balancers.logit_adjustment import LogitAdjustment, adjusted
from longtail.features.bank import FeatureBank
from longtail.images.labeled import LongTailSplit
from longtail.models.classifier import Classifier, CosineClassifier
from longtail.models.network import Network
from longtail.spec import InputError

GRID = {"start": 0.0, "stop": 3.0, "step": 0.1}


def _spec(tau: Any) -> LogitAdjustment:
    return LogitAdjustment.model_validate({"tau": tau})


def _accuracy(classifier: Classifier, bank: FeatureBank) -> float:
    guesses = classifier(bank.val_features.float()).argmax(1)
    recalls = [(guesses[bank.val_labels == k] == k).float().mean().item() for k in range(len(bank.class_counts))]
    return sum(recalls) / len(recalls)


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0, 2.5])
def test_logits_lose_tau_times_the_log_prior(tau: float) -> None:
    draws = torch.Generator().manual_seed(0)
    weight, bias = torch.randn((5, 3), generator=draws).double(), torch.randn(5, generator=draws).double()
    features = torch.rand((4, 3), generator=draws).double()
    logits = adjusted(Classifier(weight, bias), torch.tensor(COUNTS), tau)(features)
    for row, found in zip(features.tolist(), logits.tolist(), strict=True):
        plain = [math.fsum(w * f for w, f in zip(weight[k].tolist(), row, strict=True)) + bias[k] for k in range(5)]
        expected = [float(z) - tau * math.log(n / sum(COUNTS)) for z, n in zip(plain, COUNTS, strict=True)]
        assert found == pytest.approx(expected, abs=1e-12)


def test_tau_one_divides_the_prior_out_of_the_posterior() -> None:
    prior = torch.tensor(COUNTS).double() / sum(COUNTS)
    likelihood = torch.tensor([0.1, 0.2, 0.4, 0.05, 0.25]).double()
    posterior = Classifier(torch.zeros(5, 1).double(), (prior * likelihood).log())
    balanced = adjusted(posterior, torch.tensor(COUNTS), 1.0)(torch.zeros(1).double()).softmax(0)
    assert torch.allclose(balanced, likelihood / likelihood.sum(), atol=1e-12)


def test_tau_zero_is_keep(tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=1.0)
    network = biased_network(bank, bias=1.0)
    classifier, history = _spec(0.0).fit(bank, network, tiny_split, make_run())
    keep = network.classifier.export()
    assert torch.equal(classifier.weight, keep.weight)
    assert torch.equal(classifier.bias, keep.bias)
    assert history[0]["tau"] == 0.0


def test_equal_counts_change_no_prediction() -> None:
    draws = torch.Generator().manual_seed(0)
    classifier = Classifier(torch.randn((5, 3), generator=draws), torch.randn(5, generator=draws))
    features = torch.rand((20, 3), generator=draws)
    after = adjusted(classifier, torch.full((5,), 30), 2.0)(features)
    assert torch.allclose(after.softmax(1), classifier(features).softmax(1), atol=1e-6)


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_a_class_without_images_is_never_predicted(tau: float) -> None:
    classifier = Classifier(torch.zeros(3, 2), torch.tensor([0.0, 50.0, 0.0]))
    logits = adjusted(classifier, torch.tensor([9, 0, 1]), tau)(torch.eye(2))
    assert logits.isfinite().all()
    assert (logits.softmax(1)[:, 1] == 0).all()


def test_a_cosine_classifier_keeps_seeing_unit_features(tiny_split: LongTailSplit) -> None:
    bank = make_bank()
    network = Network([nn.Identity()], CosineClassifier(16, 5, scale=8.0)).freeze()
    classifier, _ = _spec(1.0).fit(bank, network, tiny_split, make_run())
    features = bank.val_features.float()
    prior = bank.class_counts / bank.class_counts.sum()
    assert torch.allclose(classifier(features), network.classifier(features) - prior.log(), atol=1e-5)


def test_validation_chooses_and_the_tail_gains(tiny_split: LongTailSplit) -> None:
    bank = make_bank(spread=0.5, val_per_class=20)
    network = biased_network(bank, bias=1.5)
    keep = network.classifier.export()
    # biased_network adds 1.5 log n_k, so that about tau = 1.5 takes it off again
    candidates = [i / 10 for i in range(31)]
    scores = [_accuracy(adjusted(keep, bank.class_counts, tau), bank) for tau in candidates]
    best = scores.index(max(scores))
    classifier, history = _spec(GRID).fit(bank, network, tiny_split, make_run())
    assert 0.5 < candidates[best] < 2.5
    assert history == [{"epoch": 0, "tau": candidates[best], "val_accuracy": pytest.approx(max(scores))}]
    assert _accuracy(classifier, bank) > _accuracy(keep, bank) + 0.1


def test_without_validation_images_tau_must_be_a_number(tiny_split: LongTailSplit) -> None:
    bank = make_bank(val_per_class=0)
    network = biased_network(bank, bias=1.0)
    with pytest.raises(InputError, match=r"give balancer.tau a number"):
        _spec(GRID).fit(bank, network, tiny_split, make_run())
    assert _spec(1.0).fit(bank, network, tiny_split, make_run())[1] == [{"epoch": 0, "tau": 1.0}]
    assert (_spec(GRID).without_validation(), _spec(1.0).without_validation()) == ("tau: 1.0", None)
