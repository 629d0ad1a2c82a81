"""One feature network for all metrics that name the same one, and one pass of it for each batch."""

import json
import weakref
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from callbacks.metrics.feature_cache import FeatureCache, content_ids
from callbacks.metrics.image_outputs import Counted, generated_images, real_images
from fewstep.files.places import user_cache


class SharedFeatures:
    """Features of the images of an evaluation: computed once per batch, however many metrics ask.

    Held by callbacks, never by the LightningModule: the network is in no checkpoint, optimizer or average.
    """

    def __init__(self, network: Any, cache_dir: str) -> None:
        self.network, self.name = network, network.name
        self.num_features, self.protocol = network.num_features, dict(network.protocol)
        self.cache = FeatureCache(cache_dir, self.protocol, self.num_features)
        self._last: dict[str, tuple[weakref.ref, Tensor]] = {}

    def generated(self, outputs: dict[str, Any], counted: Counted, field: str = "image") -> Tensor:
        """float32 [n, D] of the rows that count."""
        pictures = generated_images(outputs, counted, field)
        return self._remembered(f"generated {field}", outputs[field], lambda: self._forward(pictures))

    def real(self, batch: dict[str, Any], counted: Counted, field: str = "image") -> Tensor:
        """float32 [n, D] of the rows that count; from the cache where their pictures are known."""
        pictures = real_images(batch, counted, field)
        return self._remembered(f"real {field}", batch[field], lambda: self._cached(pictures))

    def _remembered(self, name: str, images: Tensor, compute: Any) -> Tensor:
        of, features = self._last.get(name, (None, None))
        if of is None or of() is not images:
            features = compute()
            self._last[name] = (weakref.ref(images), features)
        return features

    def _cached(self, pictures: Tensor) -> Tensor:
        ids = content_ids(pictures)
        rows = self.cache.find(ids)
        unknown = torch.tensor([row is None for row in rows], dtype=torch.bool)
        features = torch.empty(len(pictures), self.num_features, device=pictures.device)
        if not unknown.all():
            known = np.stack([row for row in rows if row is not None])
            features[(~unknown).to(pictures.device)] = torch.from_numpy(known).to(pictures.device)
        if unknown.any():
            computed = self._forward(pictures[unknown.to(pictures.device)])
            features[unknown.to(pictures.device)] = computed
            self.cache.add(ids[unknown], computed)
        return features

    def _forward(self, pictures: Tensor) -> Tensor:
        if not len(pictures):
            return torch.zeros(0, self.num_features, device=pictures.device)
        with torch.no_grad(), torch.autocast(pictures.device.type, enabled=False):
            features = self.network(pictures)
        if features.shape != (len(pictures), self.num_features):
            raise ValueError(
                f"the feature network {self.name} returned {list(features.shape)} for {len(pictures)} images, it "
                f"promised [{len(pictures)}, {self.num_features}]"
            )
        return features.float()


_SHARED: weakref.WeakValueDictionary[str, SharedFeatures] = weakref.WeakValueDictionary()


def shared_features(network: nn.Module, cache_dir: str | None, trainer: Trainer) -> SharedFeatures:
    """The one instance for this network, on the trainer's device: networks of equal protocol count as one."""
    lacking = [name for name in ("name", "num_features", "protocol") if not hasattr(network, name)]
    if lacking:
        raise ValueError(f"{type(network).__name__} has no {lacking[0]}; see fewstep/metrics/features.py")
    if not network.protocol:
        raise ValueError(f"the protocol of {type(network).__name__} is empty; say what its features depend on")
    folder = str(cache_dir or user_cache() / "features")
    identity = json.dumps([network.protocol, network.name, folder], sort_keys=True)
    shared = _SHARED.get(identity)
    if shared is None:
        shared = _SHARED[identity] = SharedFeatures(network, folder)
    shared.network.to(trainer.strategy.root_device).eval()
    return shared
