"""Pictures to be made for a user: images to edit, or prompts to generate from, as batches for `predict_step`.

caption list[str] (the prompt of the image, or what to generate), key list[str], weight float32 [B] (0 marks padding)
image [B,3,H,W], target list[str], mask [B,1,H,W] if the requests have them; uint8 until they are on the device, then
float32: the image in [-1, 1], the mask in [0, 1], 1 where the image may change.
"""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor

from datamodules.bad_sample import BadSample
from datamodules.image_decoding import decode_image, image_size
from datamodules.image_options import parse_color
from datamodules.image_samples import collate
from datamodules.image_stream import EvaluationImages, Workers
from datamodules.image_text import to_unit_range
from datamodules.image_transforms import ImageTransform
from datamodules.request_files import Request, folder_requests, read_prompts, read_requests, single_request
from datamodules.skipped import Skipped
from datamodules.topology import topology
from fewstep.picture_size import Size, height_and_width


class PictureRequests(LightningDataModule):
    """What `train.py predict` makes pictures of: one image, a folder or a list of them, or prompts.

    Args:
        image: picture to edit, of any size: PNG, JPEG, WebP, GIF or BMP. source: what it shows, in words. target: what
            the edited one shall show; without it the image is encoded and decoded again. mask: picture of the same
            size, white where the image may change.
        folder: pictures to edit, for a model that needs no words; their names are those of the results.
        requests: a .jsonl or .csv file of these four and, if wanted, `key`, the name of the result; see request_files.
        prompts: a text file with a prompt to generate on each line.
        image_size: of the model's pictures in pixels, one number for squares or [height, width].
        crop: "center" cuts off what that shape does not hold, "none" pads with the background colour instead.
        batch_size: pictures made at a time, per process.
        background: colour behind transparent pixels as rrggbb.
        max_pixels: refuse larger pictures before they are decoded.
    """

    def __init__(
        self,
        image: str | None = None,
        source: str | None = None,
        target: str | None = None,
        mask: str | None = None,
        requests: str | None = None,
        prompts: str | None = None,
        image_size: Size = 64,
        crop: str = "center",
        batch_size: int = 16,
        background: str = "ffffff",
        max_pixels: int = 1 << 26,
        folder: str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        if crop == "random":
            raise ValueError("crop='random': an edit needs the same part every time; use center or none")
        color, black = parse_color(background), (0, 0, 0)
        self.batch_size, shape = batch_size, height_and_width(image_size)
        single = {"image": image, "source": source, "target": target, "mask": mask}
        self.samples = RequestedPictures(
            _chosen(single, folder, requests, prompts),
            PictureReader(ImageTransform(shape, crop, background=color), color, max_pixels),
            PictureReader(ImageTransform(shape, crop, background=black), black, max_pixels),
        )

    def predict_dataloader(self) -> EvaluationImages:
        rank, world = topology(self.trainer)
        return EvaluationImages(self.samples, self.batch_size, rank, world, Workers(count=0), Skipped(strict=True))

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """uint8 -> float32, on the device."""
        if "image" in batch:
            batch["image"] = to_unit_range(batch["image"])
        if "mask" in batch:
            batch["mask"] = batch["mask"].float() / 255
        return batch


def _chosen(
    single: dict[str, str | None], folder: str | None, requests: str | None, prompts: str | None
) -> list[Request]:
    one = any(value is not None for value in single.values())
    if (one, folder is not None, requests is not None, prompts is not None).count(True) != 1:
        several = {"folder": folder, "requests": requests, "prompts": prompts}
        given = [name for name, value in {**single, **several}.items() if value]
        raise ValueError(
            "give one of: image with source and target, folder, requests (.jsonl, .csv), or prompts (.txt); "
            f"given are {', '.join(given) or 'none'}"
        )
    if prompts is not None:
        return read_prompts(prompts)
    if folder is not None:
        return folder_requests(folder)
    return single_request(**single) if requests is None else read_requests(requests)


class PictureReader:
    """From a file to uint8 [3, H, W]."""

    def __init__(self, transform: ImageTransform, background: tuple[int, int, int], max_pixels: int) -> None:
        self.transform, self.background, self.max_pixels = transform, background, max_pixels

    def __call__(self, path: Path) -> Tensor:
        """ValueError in one line, naming the file, when it holds no picture."""
        try:
            return self.transform([decode_image(path.read_bytes(), self.background, self.max_pixels)])[0]
        except BadSample as bad:
            raise ValueError(f"cannot read the picture {path}: {bad}") from None


class RequestedPictures(torch.utils.data.Dataset):
    """Batches by numbers of requests, as `EvaluationImages` asks for them."""

    def __init__(self, requests: list[Request], read_image: PictureReader, read_mask: PictureReader) -> None:
        self.requests, self.read_image, self.read_mask = requests, read_image, read_mask
        self.masked = any(request.mask for request in requests)

    def __len__(self) -> int:
        return len(self.requests)

    def __getitems__(self, wanted: list[tuple[int, int]]) -> dict[str, Any]:
        batch = collate([self._sample(self.requests[row]) for _, row in wanted])
        return batch | {"faults": [], "weight": torch.ones(len(wanted))}

    def _sample(self, request: Request) -> dict[str, Any]:
        sample: dict[str, Any] = {"caption": request.source, "key": request.key}
        if request.image is None:
            return sample
        sample["image"] = self.read_image(request.image)
        if request.target is not None:
            sample["target"] = request.target
        if self.masked:
            sample["mask"] = self._mask(request, sample["image"])
        return sample

    def _mask(self, request: Request, image: Tensor) -> Tensor:
        """uint8 [1, H, W], the brightest channel; where a request has no mask, all of its image may change."""
        if request.mask is None:
            return torch.full_like(image[:1], 255)
        mask = self.read_mask(request.mask)
        sizes = [image_size(file.read_bytes()) for file in (request.image, request.mask) if file]
        if sizes[0] != sizes[1]:
            (width, height), (of_width, of_height) = sizes[1], sizes[0]
            raise ValueError(
                f"the mask {request.mask} has {width} x {height} pixels, its image {of_width} x {of_height}; "
                "draw the mask on the image"
            )
        return mask.amax(0, keepdim=True)
