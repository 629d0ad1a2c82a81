"""What an export is for: the command that comes next, by the class of the module that was trained."""

from pathlib import Path
from shlex import quote

from lightning.pytorch import LightningModule

from fewstep.installed_command import in_its_words

TEACHER = "python train.py fit -c configs/diffusion_teacher/emoji.yaml --data.path DATA"
CALIBRATE = "python -m fewstep.collaboration calibrate"
USES = {
    "OTConditionalModule": (
        "python train.py predict -c configs/ot_conditional/predict.yaml --ckpt_path {best} --data.x TABLE"
    ),
    "AutoencoderModule": f"{TEACHER} --model.autoencoder {{export}}",
    "ContrastiveModule": f"{TEACHER} --model.text_encoder {{export}}",
    "DiffusionTeacherModule": (
        "python train.py fit -c configs/guidance_distillation/emoji.yaml --data.path DATA --model.pipeline {export}"
    ),
    "GuidanceDistillationModule": (
        "python train.py fit -c configs/icd/emoji.yaml --data.path DATA --model.pipeline {pipeline} "
        "--model.network {export}"
    ),
    "ICDModule": "python -m fewstep.icd edit {export} --image PICTURE --source TEXT --target TEXT --out edited.png",
    "CollaborationModule": f"{CALIBRATE} {{export}} --oracle NAME --prompts FILE",
    "UnconditionalDiffusionModule": "python -m fewstep.fast_edit learn {export} --edit NAME --pictures FOLDER",
    "FastEditModule": "python -m fewstep.fast_edit apply {export}/{edit}.safetensors PICTURES --out edited",
    "AttributeReaderModule": f"{CALIBRATE} STUDENT --oracle attributes={{export}} --prompts FILE",
    "PreferenceRewardModule": f"{CALIBRATE} STUDENT --oracle preference={{export}} --prompts FILE",
}


def next_use(folder: str, module: LightningModule) -> str | None:
    """A command to paste, its words in capitals to be filled in; None for a module that is not of this project, and
    where it takes the run's best checkpoint, which does not lie beside the folder.
    """
    best = Path(folder).parent / "checkpoints" / "best.ckpt"
    known = (USES[kind.__name__] for kind in type(module).__mro__ if kind.__name__ in USES)
    known = (use for use in known if "{best}" not in use or best.is_file())
    texts = {name: quote(value) for name, value in module.hparams.items() if isinstance(value, str)}
    return next(
        (in_its_words(use).format(**texts | {"export": quote(folder), "best": quote(str(best))}) for use in known), None
    )
