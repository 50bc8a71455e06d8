"""Rare-class sample generator (RSG): in the last epochs, tail samples gain what varies among head samples.

    L = L_cls + lambda_cesc CESC + lambda_mv MV                                                                 (eq. 7)
    L_cls: of the batch, and from `start` on of x_new = T(x_head - up(C_head)) + x_tail as well

x are the maps between two stages of the network. Centres C, contrastive module and transformation T belong to the step
and are gone after training. CESC trains the centres at all times and the contrastive module until `start`; MV and L_cls
train T; L_cls alone trains the network, and through real samples only the stages before the generator (Algorithm 1).

Source    Wang et al., CVPR 2021, arXiv:2106.09859
Differs   where a batch has more tails than heads, each head meets max(floor(beta n_t / n_h), 1) tails, as in the
          released code: the paper speaks of no such batches. From `start` on CESC lacks the term of the contrastive
          module, which no longer learns from it. From the released code: pairs are drawn ("randomly picking"), not
          taken in the order of the batch
Limits    start = 1: plain learning, with centres that nobody asks
"""

from math import ceil
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from longtail.learners.head_tail_pairs import floor, head_classes, pairs
from longtail.learners.rare_sample_generator import Form, MVTerm, RareSampleGenerator
from longtail.models.network import Network
from longtail.seeding import seeded
from longtail.spec import InputError, Member
from longtail.training.objective import Objective


class RSG(Member):
    """Learning from a batch and from samples that a generator adds to its tail classes.

    Args:
        centres: K, per class; 15 in the paper.
        head_share: alpha, the share of classes, from the most frequent on, that lend; 0.2 long-tailed, 0.5 step.
        transfer_strength: beta in (0, 1], the share of a batch's head samples that lend; 1 long-tailed, 0.01 step.
        lambda_cesc, lambda_mv: of the losses; 0.1 and 0.01 in the paper.
        start: progress from which samples are generated; 0.8 is epoch 160 of 200, where the learning rate drops.
        position: the generator works on the maps of stages[:position]; -1 is before the last stage, null behind it.
        cm_kernel: of the contrastive module's first convolution; 3 in the paper, 1 in the released code.
        cm_pair: what that module compares in MV; `paper`: T(u) and u, `reference` (released code): x_head and T(u).
        mv_layout: what a vector of MV is; `paper`: the channels at a location, `reference` (released code): as many
            numbers in a row of one channel.
        mv_terms: of MV, any of direction, length and contrast (table 3).
        generation: `transform` for T(u) + x_tail; without T and MV, `direct` for u + x_tail, `centre` for
            u + up(C_tail) (table 3).
    """

    name: Literal["rsg"] = "rsg"
    centres: int = Field(ge=1)
    head_share: float = Field(gt=0, lt=1)
    transfer_strength: float = Field(gt=0, le=1)
    lambda_cesc: float = Field(ge=0)
    lambda_mv: float = Field(ge=0)
    start: float = Field(ge=0, le=1)
    position: int | None
    cm_kernel: Literal[1, 3]
    cm_pair: Form
    mv_layout: Form
    mv_terms: tuple[MVTerm, ...]
    generation: Literal["transform", "direct", "centre"]

    @field_validator("position")
    @classmethod
    def _is_behind_a_stage(cls, position: int | None) -> int | None:
        if position == 0:
            raise ValueError("0 would generate images; write -1 for before the last stage, or null for behind it")
        return position

    @model_validator(mode="after")
    def _terms_have_something_to_train(self) -> "RSG":
        if len(set(self.mv_terms)) < len(self.mv_terms):
            raise ValueError(f"mv_terms lists a term twice: {', '.join(self.mv_terms)}. Write each once.")
        if self.generation != "transform" and self.mv_terms:
            raise ValueError(
                f"generation {self.generation} has no transformation that MV could train; write mv_terms: []"
            )
        return self

    @property
    def varies_from(self) -> int | None:
        """Return the first stage behind the generator."""
        return self.position

    def step_for(self, network: Network, objective: Objective) -> nn.Module:
        """Return the module that `fit` trains.

        Raises:
            InputError: if the network has no such position, or all classes or none are head classes.
        """
        _check_position(self.position, len(network.stages))
        _check_share(self.head_share, len(objective.class_counts))
        return RSGStep(network, objective, self)


class RSGStep(nn.Module):
    """L_cls + lambda_cesc CESC + lambda_mv MV of a batch; owns the generator."""

    is_head: Tensor

    def __init__(self, network: Network, objective: Objective, spec: RSG) -> None:
        super().__init__()
        self.network, self.objective, self.spec = network, objective, spec
        channels, _, _ = network.map_shape(spec.position)
        # Named by the network's own numbers, which name the training seed.
        with seeded(0, "rsg", network.classifier.weight.detach().cpu().numpy().tobytes().hex()):
            self.rare = RareSampleGenerator(
                channels,
                len(objective.class_counts),
                centres=spec.centres,
                cm_kernel=spec.cm_kernel,
                transforms=spec.generation == "transform",
            )
        self.register_buffer("is_head", head_classes(objective.class_counts, spec.head_share), persistent=False)

    def forward(self, batch: Any, *, progress: Tensor, generator: torch.Generator) -> Tensor:
        """Return the scalar to minimise for a batch of images (B, C, H, W) and labels (B,); draws one permutation."""
        images, labels = batch
        maps = self.network.maps(images, stop=self.spec.position)
        known = maps.detach()  # the generator's losses never reach the network
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        cesc = self.rare.centres.loss(known, labels)
        mv = torch.zeros((), device=maps.device)
        if float(progress) < self.spec.start:
            cesc = cesc + self.rare.contrastive.loss(known, labels, order)
        else:
            more, rows, mv = self.generate(known, labels, order)
            maps = torch.cat([maps, more]).contiguous(memory_format=torch.channels_last)
            labels = torch.cat([labels, labels[rows]])
        loss: Tensor = self.objective(self.classify(maps), labels, progress)
        return loss + self.spec.lambda_cesc * cesc + self.spec.lambda_mv * mv

    def generate(self, maps: Tensor, labels: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make new samples of the tail classes in a batch.

        Args:
            maps: (B, D, H, W) without gradients.
            labels: (B,).
            order: (B,) a random permutation, from which heads and tails are taken.

        Returns:
            Maps (S, D, H, W) of the new samples; rows (S,) of the tail samples they come from; MV. Without heads or
            without tails S is 0.
        """
        is_head = self.is_head[labels[order]]
        heads, tails = pairs(order[is_head], order[~is_head], self.spec.transfer_strength)
        if len(tails) == 0:
            return maps[:0], tails, torch.zeros((), device=maps.device)
        transfer = self.rare.transfer(maps, labels, heads, tails)
        anchors = transfer.centres if self.spec.generation == "centre" else transfer.tails
        mv = self.rare.mv_loss(transfer, self.spec.mv_terms, self.spec.mv_layout, self.spec.cm_pair)
        return (anchors + transfer.moved).to(maps.dtype), tails, mv

    def classify(self, maps: Tensor) -> Tensor:
        """Return logits (B, K) for maps (B, D, H, W) at the generator's place."""
        start = len(self.network.stages) if self.spec.position is None else self.spec.position
        logits: Tensor = self.network.classifier(self.network.maps(maps, start=start).mean((2, 3)))
        return logits


def _check_position(position: int | None, stages: int) -> None:
    if position is not None and not 0 < abs(position) < stages:
        places = f"1 to {stages - 1}, -1 to -{stages - 1}, or " if stages > 1 else ""
        raise InputError(
            f"learner.position is {position}, but the network has {stages} stage{'s' * (stages > 1)}. "
            f"Choose {places}null for behind the last."
        )


def _check_share(share: float, num_classes: int) -> None:
    heads = floor(share * num_classes)
    if heads == 0:
        raise InputError(
            f"learner.head_share is {share:g}, which of {num_classes} classes makes none a head class, so that nothing "
            f"could be generated. Write at least {ceil(100 / num_classes) / 100:g}, for 2 or more classes."
        )
