"""The model store: one folder per trained model, named by its key.

    <outputs>/models/<key>/   config.yaml  last.ckpt  previous.ckpt  ema.safetensors  metrics.csv  DONE

DONE is written last. While it is trained the folder has another name (claims). While <key>.lock lies beside it, a
process trains the model and others wait for it.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from skipstone.store import claims, files, locks
from skipstone.store.key import model_key, normal, same_weights
from skipstone.store.stored import CONFIG, save_weights, weights_of

log = logging.getLogger(__name__)

_LATEST, _BEGINNING = "latest", 4  # the name of the model that was finished last; characters of a key, at least


class ModelStore:
    """The models below `<outputs>/models`."""

    def __init__(self, outputs: str | Path) -> None:
        self.root = Path(outputs) / "models"

    def folder(self, key: str) -> Path:
        """Where the model of this key lives, whether it exists or not."""
        return self.root / key

    def finished(self, key: str) -> bool:
        """Whether that model is trained."""
        return self.finished_at(key) is not None

    def finished_at(self, key: str) -> int | None:
        """When it was, in nanoseconds since the epoch; None if it is not."""
        return claims.finished_at(self.folder(key))

    def keys(self) -> list[str]:
        """Of all finished models."""
        there = (path.parent for path in self.root.glob(f"*/{claims.DONE}"))
        return sorted(folder.name for folder in there if claims.is_final(folder))

    def as_stored(self, weights: dict[str, Any]) -> dict[str, Any]:
        """`weights`, as `weights_config` gathered them, or the other words in which that model is stored already.

        Its data may have had another name, and older versions keyed settings as they were spelt. A finished model goes
        before one whose training was cut off.
        """
        if self.finished(model_key(weights)):
            return weights
        stored = [weights, *(other for _, other in self._configs(weights["dataset"]["fingerprint"]))]
        same = [other for other in stored if same_weights(other, weights)]
        found = max(same, key=lambda other: (self.finished(model_key(other)), other is not weights))
        if model_key(found) != model_key(weights):
            log.info("this is the model %s, which is there already", model_key(found))
        return found

    def listed(self) -> str:
        """The keys of all finished models, for people."""
        return ", ".join(self.keys()) or "none; train one first"

    def find(self, name: str, used: Callable[[Path], str | None]) -> Path:
        """The folder of the model that a person names.

        name:  its key, the beginning of it (at least 4 characters), `latest` for the one that was finished last, its
               folder, or that of a run or a job of a sweep.
        used:  the key of the model in the results of such a folder; None where it has none.

        Raises FileNotFoundError where there is none of that name, ValueError where there are several.
        """
        keys = self.keys()
        if name == _LATEST and keys:
            return self.folder(max(keys, key=lambda key: self.finished_at(key) or 0))
        folder = Path(name).expanduser()
        if folder.is_dir():
            return self._model_of(folder, used(folder))
        begun = [key for key in keys if key.startswith(name) and len(name) >= _BEGINNING]
        if len(begun) > 1 and name not in begun:
            raise ValueError(f"run={name} is the beginning of several keys: choose one of {', '.join(begun)}.")
        if self.folder(name).is_dir():
            return self.folder(name)
        if not begun:
            raise FileNotFoundError(f"run={name} is neither a folder nor a key: there is {self.listed()}.")
        return self.folder(begun[0])

    def _model_of(self, folder: Path, key: str | None) -> Path:
        """The folder of the model `key` that a run used: in this store, or in the one that the run stands beside."""
        if key is None or key != Path(key).name:  # a folder from elsewhere names no path
            return folder
        roots = [self.root, *(parent / self.root.name for parent in folder.absolute().parents)]
        there = [root / key for root in roots if claims.finished_at(root / key) is not None]
        if not there:
            raise FileNotFoundError(
                f"run={folder} is of the model {key}, which is not there: there is {self.listed()}."
            )
        return there[0]

    def ensure(
        self,
        weights: dict[str, Any],
        train: Callable[[Path], nn.Module],
        fresh: bool = False,
        renewed: Path | None = None,
    ) -> Path:
        """The folder of the finished model, trained now if it is not there, or if `fresh`.

        train(folder) trains into a folder that may hold a checkpoint to resume from, and returns the network with
        the weights to store. A fresh training replaces the old model only when it is done; one that was cut off is
        resumed by the next fresh one. A model is trained by one process at a time: others wait, and take what it
        leaves, also if they want it fresh.

        renewed: a file that `fresh` makes, and where it is there no fresh model is wanted any more.
        """
        key = model_key(weights)
        final, before = self.folder(key), self.finished_at(key)

        def wanted() -> bool:
            renew = fresh and not (renewed is not None and renewed.exists())
            return not self.finished(key) or (renew and self.finished_at(key) == before)

        def began(claim: str) -> Path | None:
            return next(self.root.glob(f"{key}*.{claim}/{CONFIG}"), None)

        if not wanted() and not claims.unsettled(final):
            return final
        self.root.mkdir(parents=True, exist_ok=True)
        with locks.held(self.root / f"{key}.lock", f"the training of {final}", began) as claim:
            list(self.root.glob(f"{key}*/*"))  # NFS may remember what was not there until a folder is read again
            claims.settle(final, claim)
            standing = self.finished_at(key)
            if wanted():
                folder = claims.take(final, claim, fresh)
                self._train(weights, train, folder)
                claims.publish(folder, final, standing)
            if fresh and renewed is not None:
                renewed.touch()
        return final

    def adopt(self, config: dict[str, Any], net: nn.Module, source: str) -> Path:
        """The folder of a model that was trained elsewhere, stored now if it is not there.

        config:  `model` and `noise` as for a trained model, and what else tells it from others
        net:     has its weights
        source:  what it was, for the log
        """

        def store(folder: Path) -> nn.Module:
            log.info("storing %s as %s", source, folder)
            return net

        return self.ensure(config, store)

    def _train(self, weights: dict[str, Any], train: Callable[[Path], nn.Module], folder: Path) -> None:
        """Train into `folder`, which is finished once DONE is in it."""
        self._say_what_changed(weights)
        files.remove_temporary(folder)
        with files.replacing(folder / CONFIG) as path:
            OmegaConf.save(OmegaConf.create(weights), path)
        key = model_key(weights)
        save_weights(train(folder), weights_of(folder), key)
        files.write(folder / claims.DONE, f"{key}\n".encode())

    def _configs(self, holding: str = "") -> Iterator[tuple[Path, dict[str, Any]]]:
        """The model folders and what was stored in each of what changes the weights, where it holds these letters."""
        for path in sorted(self.root.glob(f"*/{CONFIG}")):
            try:
                if holding not in path.read_text(encoding="utf-8"):
                    continue
                config = files.read_yaml(path)
                if claims.key_of(path.parent) == model_key(config):
                    yield path.parent, config
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                continue  # no model of ours; it is not what was asked for

    def _say_what_changed(self, weights: dict[str, Any]) -> None:
        """Warn where a model of the same settings was trained on other images under the same name."""
        new = weights["dataset"].get("fingerprint")
        for folder, other in self._configs():
            old = other["dataset"].get("fingerprint")
            if old != new and normal({**other, "dataset": {**other["dataset"], "fingerprint": new}}) == normal(weights):
                state = "was" if claims.finished_at(folder) else "is half"
                log.warning(
                    "the images of dataset %s have changed since %s %s trained on them, so a new model is trained; "
                    "the old one stays as it is",
                    weights["dataset"]["name"], folder, state,
                )  # fmt: skip
