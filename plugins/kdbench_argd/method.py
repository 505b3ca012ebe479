"""ARGD: a fine-tuned copy of a network teaches it where each group looks, and how far apart two
groups look.

J. Xia, T. Wang, J. Ding, X. Wei, M. Chen: Eliminating Backdoor Triggers for Deep Neural Networks
Using Attention Relation Graph Distillation. IJCAI 2022, arXiv:2204.09975.

Implemented: the nodes and edges of the attention relation graph, section 3, as copies of the
authors' code have them. A_l is NAD's attention map of group l, of length 1 for each image.

    node:  (H_1 W_1) / 1024 * sum_l beta_l * MSE(A_l(student), A_l(attention teacher))
        H_1 x W_1 the size of the first map
    d_ij = || pool(A_i) - pool(A_j) ||^2, pooled to the smaller of the two
    e_ij = d_ij / (max of d_ij in the batch + 1e-12)
    edge:  mean over the pairs 12, 13, 23 of MSE(e_ij(student), e_ij(attention teacher))
    L = CE + node_weight * node + edge_weight * edge

Deviations from the paper:
- Its third part, the embeddings of the graph, is left out. In the code its weights are in no
  optimiser, so they stay as they were drawn.
- The code squares the maps once more where it takes them for an edge. Here they are NAD's.
- Their code divides by the maximum alone, which is 0 for equal maps.
- beta is the value at 32x32 and is scaled to other sizes, as NAD's is here.
- The authors' scripts choose the epoch by its test ASR. Here it is the last.
- Used after distillation on the student (``when=after``, default) or before it on the teacher
  (``before``).
- Recipe from the preset unless given here; ``paper`` has the authors'. The presets give the
  defender every training image; the authors give 5 % (``--clean-fraction 0.05``).
- It draws as fine-tuning does. With both weights 0 it is fine-tuning, bit for bit.
"""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.attention import attention, attention_terms
from kdbench.data.base import Batch
from kdbench.defense import DefenseSetting
from kdbench.matching import match_size
from kdbench.method import Info, Variant
from kdbench.models.base import FeatureModel
from kdbench.repair import GuidedParams, Repair, fine_tune, tuned_copy


class ARGDParams(GuidedParams):
    """The weights of the two parts. The recipe is as NAD's."""

    beta: tuple[float, float, float] = Field(
        (2000.0, 5000.0, 2000.0),
        description="weights of the nodes of groups 1-3, >= 0; their values at 32x32; authors' "
        "code",
    )
    node_weight: float = Field(1.0, ge=0, le=100, description="weight of the nodes; authors' code")
    edge_weight: float = Field(1.0, ge=0, le=100, description="weight of the edges; authors' code")


def edges(groups: tuple[Tensor, ...]) -> Tensor:
    """e of each pair of groups, (pairs, N) float32 in [0, 1]. Groups are (N, C, H, W)."""
    found = []
    for a, b in combinations([attention(g)[:, None] for g in groups], 2):
        one, other = match_size(a, b)
        length = (one - other).square().sum((1, 2, 3))
        found.append(length / (length.max() + 1e-12))
    return torch.stack(found)


class ARGD(Repair):
    """Repair by attention and its relations, from a fine-tuned copy of the same network."""

    info = Info(
        name="argd",
        title="Eliminating Backdoor Triggers for Deep Neural Networks Using Attention Relation "
        "Graph Distillation",
        authors="Xia, Wang, Ding, Wei, Chen",
        venue="IJCAI",
        year=2022,
        link="https://arxiv.org/abs/2204.09975",
        evidence="defenses-of-the-field",
    )
    Params = ARGDParams
    zero = {"node_weight": 0, "edge_weight": 0, "epochs": 0}
    presets = {
        "quick": {},
        "standard": {},
        "paper": {
            "teacher_epochs": 10,
            "epochs": 20,
            "batch_size": 64,
            "lr": 0.1,
            "weight_decay": 1e-4,
            "teacher_milestones": (0.2,),
            "milestones": (0.1,),
        },
    }
    variants = {
        "nodes": Variant("without edges: NAD at ARGD's weights", {"edge_weight": 0}),
        "edges": Variant("without nodes: the relations alone", {"node_weight": 0}),
    }
    params: ARGDParams

    def repair(self, model: FeatureModel, setting: DefenseSetting) -> FeatureModel:
        """Fine-tune a copy, then train ``model`` in place towards labels and the copy's graph;
        returns it."""
        params = self.params
        beta = tuple(params.node_weight * weight for weight in params.beta)
        wanted = any(beta) or bool(params.edge_weight)
        guide = tuned_copy(model, setting, params) if wanted else None

        def loss(batch: Batch) -> dict[str, Tensor]:
            out = model.features(batch.images)
            terms = {"ce": F.cross_entropy(out.logits.float(), batch.labels)}
            if guide is not None:
                groups = guide.features(batch.images).groups
                terms |= attention_terms(out.groups, groups, beta)
                if params.edge_weight:
                    apart = F.mse_loss(edges(out.groups), edges(groups))
                    terms["edge"] = params.edge_weight * apart
            return terms

        fine_tune(model, setting, params.recipe(setting.recipe), loss=loss)
        return model
