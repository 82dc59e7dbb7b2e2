"""EDM's .pkl (Karras et al. 2022): the averaged network of its training, with EDM's preconditioning."""

import logging
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from skipstone.exchange import names, pickles
from skipstone.exchange.foreign import Foreign
from skipstone.exchange.pickles import Thing
from skipstone.network.song import EMBEDDINGS
from skipstone.store import stored

log = logging.getLogger(__name__)

_NOISE = {"_target_": "skipstone.EDM", "num_steps": 1000, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}

# EDM's names of what its network is, ours, and EDM's default
_ARGUMENTS = {
    "img_resolution": ("image_size", None), "in_channels": ("channels", None), "label_dim": ("classes", 0),
    "model_channels": ("base", 128), "channel_mult": ("multipliers", [1, 2, 2, 2]), "num_blocks": ("blocks", 4),
    "attn_resolutions": ("attention", [16]), "embedding_type": ("embedding", "positional"),
    "channel_mult_noise": ("width", 1), "channel_mult_emb": ("depth", 4), "resample_filter": ("taps", [1, 1]),
}  # fmt: skip
_CHOICES = {
    "encoder_type": ("standard", "residual"), "decoder_type": ("standard",), "embedding_type": EMBEDDINGS,
}  # fmt: skip
_TRAINING = {"out_channels", "dropout", "label_dropout", "augment_dim"}  # of no effect on a finished network
_AUGMENT = "map_augment.weight"  # shown only in training how an image was augmented


def read(path: Path) -> Foreign:
    """The network of a pickle. Raises ValueError, with what was found, for what is not supported."""
    content = pickles.read(path)
    try:
        return _network(content, path)
    except (AttributeError, LookupError, TypeError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{path} describes no network that can be built: it is damaged, or not of EDM.") from error


def _network(content: Any, path: Path) -> Foreign:
    average = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(average, Thing):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ValueError(f"{path} holds no network `ema`, as EDM's pickles do, but {found}.")
    if average.kind != "EDMPrecond":
        raise ValueError(
            f"{path} holds a network of the class {average.kind}: only EDM's own preconditioning, EDMPrecond, is "
            "supported, because VP, VE and iDDPM show their networks another noise level."
        )
    net = (average.state.get("_modules") or {}).get("model")
    if not isinstance(net, Thing) or net.kind != "SongUNet":
        kind = net.kind if isinstance(net, Thing) else "nothing"
        raise ValueError(f"{path} holds {kind} within EDMPrecond: SongUNet, DDPM++ and NCSN++, is supported.")
    settings = {
        "_target_": "skipstone.network.song.Preconditioned",
        "betas": _NOISE,
        "sigma_data": float(average.state.get("sigma_data", 0.5)),
        **_arguments(net, path),
    }
    ours = stored.build(settings)
    state = {name: tensor for name, tensor in net.tensors().items() if name != _AUGMENT}
    names.give(ours.model, state, names.ours, path)
    if ours.model.classes:
        log.warning(
            "%s makes images of %d classes; it is shown no label but what net(x, t, labels) gives it from Python",
            path, ours.model.classes,
        )  # fmt: skip
    return Foreign(ours.eval(), instantiate(_NOISE), "EDM's pickle", {"model": settings, "noise": _NOISE})


def _arguments(net: Thing, path: Path) -> dict[str, Any]:
    """The arguments of our SongUNet, from those that EDM's was built with."""
    given = net.state.get("_init_kwargs")
    if not isinstance(given, dict) or net.state.get("_init_args"):
        raise ValueError(f"{path} does not tell how its SongUNet was built: it must have been built by EDM's training.")
    unknown = set(given) - set(_ARGUMENTS) - set(_CHOICES) - _TRAINING
    if unknown:
        raise ValueError(f"{path} has a SongUNet with {sorted(unknown)[0]}, which is not supported.")
    for name, choices in _CHOICES.items():
        if given.get(name, choices[0]) not in choices:
            raise ValueError(f"{path} has {name}={given[name]}, which is not supported: {' and '.join(choices)} are.")
    missing = [name for name, (_, default) in _ARGUMENTS.items() if default is None and name not in given]
    if missing:
        raise ValueError(f"{path} does not tell its {missing[0]}, so its network cannot be built.")
    if given.get("out_channels", given["in_channels"]) != given["in_channels"]:
        raise ValueError(
            f"{path} takes {given['in_channels']} channels and gives {given['out_channels']}: not supported."
        )
    found = {ours: given.get(name, default) for name, (ours, default) in _ARGUMENTS.items()}
    found = {name: list(value) if isinstance(value, list | tuple) else value for name, value in found.items()}
    return found | {"residual": given.get("encoder_type") == "residual"}
