"""Keep: what stage one trained is what comes out."""

import torch
from torch import nn

from banks import biased_network, copied, make_bank, make_run, same
from longtail.balancers.keep import Keep
from longtail.images.labeled import LongTailSplit
from longtail.models.classifier import CosineClassifier
from longtail.models.network import Network


def test_logits_are_the_networks(tiny_split: LongTailSplit) -> None:
    bank = make_bank()
    features = bank.features[0].float()
    linear = biased_network(bank, bias=1.0)
    cosine = Network([nn.Identity()], CosineClassifier(16, 5, scale=8.0)).freeze()
    for network in (linear, cosine):
        classifier, history = Keep().fit(bank, network, tiny_split, make_run())
        assert torch.allclose(classifier(features), network.classifier(features), atol=1e-5)
        assert history == []


def test_the_classifier_is_a_copy_and_inputs_stay(tiny_split: LongTailSplit) -> None:
    bank = make_bank()
    before, network = copied(bank), biased_network(bank, bias=1.0)
    classifier, _ = Keep().fit(bank, network, tiny_split, make_run())
    classifier.weight.zero_()
    assert network.classifier.weight.abs().sum() > 0
    assert same(bank, before)


def test_separable_features_are_told_apart(tiny_split: LongTailSplit) -> None:
    bank = make_bank()
    classifier, _ = Keep().fit(bank, biased_network(bank, bias=0.0), tiny_split, make_run())
    assert torch.equal(classifier(bank.val_features.float()).argmax(1), bank.val_labels)
