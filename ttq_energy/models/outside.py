"""Networks of other packages (``timm:``, ``torchvision:``, ``hf:``) and of the user's own.

All have random weights: nothing is ever downloaded.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ttq_energy import user_code
from ttq_energy.errors import InputError, nearest, unknown_name
from ttq_energy.models.registry import PREFIXES

KIND = "model"
EXTRAS = {
    "timm": 'pip install "ttq-energy[timm]"',
    "torchvision": "pip install torchvision",
    "transformers": 'pip install "ttq-energy[transformers]"',
}
"""What installs each package."""


def build(name: str, options: Mapping[str, Any]) -> nn.Module:
    """See :func:`ttq_energy.models.build`."""
    source, _, rest = name.partition(":")
    if source == "timm":
        return _timm_build(rest, options)
    if source == "torchvision":
        return _torchvision_build(rest, options)
    if source == "hf":
        return _hf_build(rest, options)
    return _own_build(name, options)


def example_input(name: str, batch_size: int, options: Mapping[str, Any]) -> torch.Tensor:
    """See :func:`ttq_energy.models.example_input`."""
    source, _, rest = name.partition(":")
    if source == "timm":
        return _normal(batch_size, *_timm_shape(rest, options))
    if source == "torchvision":
        return _normal(batch_size, *_torchvision_shape(rest))
    if source == "hf":
        return _hf_example(rest, batch_size, options)
    return _own_example(name, batch_size, options)


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _package(package: str, name: str) -> ModuleType:
    """Import a package that a model needs; a broken installation is one line, too."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name == package:
            raise InputError(
                f"{KIND} '{name}': the package '{package}' is not installed: {EXTRAS[package]}"
            ) from None
        raise InputError(f"{KIND} '{name}': {_broken(package, error)}") from error
    except Exception as error:
        # torchvision raises RuntimeError where it was built for another torch.
        raise InputError(f"{KIND} '{name}': {_broken(package, error)}") from error


def _broken(package: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    remedy = f"install the release of it that goes with torch {torch.__version__}"
    if isinstance(error, ModuleNotFoundError):
        remedy = EXTRAS[package]
    return f"the installed '{package}' cannot be imported ({reason}); {remedy}"


def _construct(name: str, function: Any, *arguments: Any, **options: Any) -> nn.Module:
    """Call a package's builder; what it dislikes in its arguments is the user's to know."""
    try:
        model = function(*arguments, **options)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{KIND} '{name}': {reason}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{KIND} '{name}': expected an nn.Module, got {type(model).__name__}")
    return model


def _refuse_pretrained(name: str, options: Mapping[str, Any]) -> None:
    for key in ("pretrained", "weights"):
        if options.get(key):
            raise InputError(
                f"{KIND} '{name}': {key}: published weights would need a network; give a "
                "'checkpoint' file instead"
            )


# -- timm -----------------------------------------------------------------------------------------


def _timm(name: str) -> Any:
    timm = _package("timm", f"timm:{name}")
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise unknown_name("timm model", name, _like(architecture, timm.list_models()))
    return timm


def _timm_build(name: str, options: Mapping[str, Any]) -> nn.Module:
    _refuse_pretrained(f"timm:{name}", options)
    timm = _timm(name)
    given = {key: value for key, value in options.items() if key != "pretrained"}
    return _construct(f"timm:{name}", timm.create_model, name, pretrained=False, **given)


def _timm_shape(name: str, options: Mapping[str, Any]) -> tuple[int, int, int]:
    config = _timm(name).models.get_pretrained_cfg(name)
    channels, height, width = config.input_size if config else (3, 224, 224)
    size = options.get("img_size", (height, width))
    height, width = (size, size) if isinstance(size, int) else size
    return int(options.get("in_chans", channels)), int(height), int(width)


def _like(name: str, valid: list[str]) -> list[str]:
    """Of a thousand names, those worth showing."""
    import difflib

    return difflib.get_close_matches(name, valid, n=8, cutoff=0.4) or sorted(valid)[:8]


# -- torchvision ----------------------------------------------------------------------------------


def _torchvision(name: str) -> Any:
    torchvision = _package("torchvision", f"torchvision:{name}")
    classifiers = torchvision.models.list_models(module=torchvision.models)
    if name not in classifiers:
        raise unknown_name("torchvision model", name, _like(name, classifiers))
    return torchvision.models


def _torchvision_build(name: str, options: Mapping[str, Any]) -> nn.Module:
    _refuse_pretrained(f"torchvision:{name}", options)
    models = _torchvision(name)
    given = {k: v for k, v in options.items() if k not in ("pretrained", "weights")}
    if name in ("googlenet", "inception_v3"):
        given.setdefault("init_weights", True)
    return _construct(f"torchvision:{name}", models.get_model, name, weights=None, **given)


def _torchvision_shape(name: str) -> tuple[int, int, int]:
    """Three channels of the size that the published weights were tested at."""
    weights = _torchvision(name).get_model_weights(name)
    size = weights["DEFAULT"].transforms().crop_size[0] if len(weights) else 224
    return 3, int(size), int(size)


# -- Hugging Face transformers --------------------------------------------------------------------


class LogitsOnly(nn.Module):
    """A transformers model that takes a tensor and returns the logits alone.

    ``input_name`` is the keyword of the wrapped model's forward: "input_ids" or "pixel_values".
    """

    def __init__(self, model: nn.Module, input_name: str) -> None:
        super().__init__()
        self.model = model
        self.input_name = input_name

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**{self.input_name: inputs}).logits
        return logits


def _hf_config(name: str, options: Mapping[str, Any]) -> Any:
    """The configuration that a model type's defaults, or a local folder's config.json, gives."""
    transformers = _package("transformers", f"hf:{name}")
    given = {k: v for k, v in options.items() if k != "sequence_length"}
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    folder = Path(name).expanduser()
    if name in known:
        base = _hf_read(name, name, lambda: transformers.AutoConfig.for_model(name))
    elif (folder / "config.json").is_file():
        file = f"{folder}/config.json"
        base = _hf_read(
            name,
            file,
            lambda: transformers.AutoConfig.from_pretrained(folder, local_files_only=True),
        )
    elif folder.is_dir():
        raise InputError(f"{KIND} 'hf:{name}': {folder}/config.json: no such file")
    elif "/" in name:
        raise InputError(
            f"{KIND} 'hf:{name}': not a local folder, and nothing is downloaded; fetch the "
            "repository and give its folder, or give a model type such as 'llama' with options"
        )
    else:
        raise unknown_name("transformers model type", name, _like(name, list(known)))
    for key in given:
        if not hasattr(base, key):
            fields = [k for k in vars(base) if not k.startswith("_")]
            raise unknown_name("option", key, _like(key, fields), f"{KIND} 'hf:{name}'")
    return type(base).from_dict({**base.to_dict(), **given})


def _hf_read(name: str, what: str, read: Callable[[], Any]) -> Any:
    """Call a reader of transformers; names the first cause, such as a broken torchvision."""
    try:
        return read()
    except Exception as error:
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        reason = (str(first).strip().splitlines() or [type(first).__name__])[0]
        raise InputError(f"{KIND} 'hf:{name}': {what}: {reason}") from error


def _hf_class(config: Any, name: str) -> tuple[Any, str]:
    """The auto class that gives logits for this configuration, and its input's keyword."""
    transformers = _package("transformers", f"hf:{name}")
    causal, masked, sequence, image = (
        _hf_read(name, "transformers", partial(getattr, transformers, f"AutoModelFor{kind}"))
        for kind in ("CausalLM", "MaskedLM", "SequenceClassification", "ImageClassification")
    )
    wanted = " ".join(getattr(config, "architectures", None) or [])
    choices = [
        ("ForCausalLM LMHeadModel", causal, "input_ids"),
        ("ForMaskedLM", masked, "input_ids"),
        ("ForSequenceClassification", sequence, "input_ids"),
        ("ForImageClassification", image, "pixel_values"),
    ]
    fitting = [c for c in choices if type(config) in c[1]._model_mapping]
    named = [c for c in fitting if any(suffix in wanted for suffix in c[0].split())]
    if not fitting:
        raise InputError(
            f"{KIND} 'hf:{name}': expected a language model or an image or sequence classifier; "
            f"transformers has none for '{config.model_type}'"
        )
    if type(config) in image._model_mapping and not named:
        return image, "pixel_values"
    if not named and type(config) in masked._model_mapping:
        return masked, "input_ids"
    _, chosen, keyword = (named or fitting)[0]
    return chosen, keyword


def _hf_build(name: str, options: Mapping[str, Any]) -> nn.Module:
    config = _hf_config(name, options)
    chosen, keyword = _hf_class(config, name)
    return LogitsOnly(_construct(f"hf:{name}", chosen.from_config, config), keyword)


def _hf_example(name: str, batch_size: int, options: Mapping[str, Any]) -> torch.Tensor:
    config = _hf_config(name, options)
    _, keyword = _hf_class(config, name)
    if keyword == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        return _normal(batch_size, getattr(config, "num_channels", 3), height, width)
    length = int(options.get("sequence_length", 128))
    generator = torch.Generator().manual_seed(0)
    return torch.randint(config.vocab_size, (batch_size, length), generator=generator)


# -- the user's own -------------------------------------------------------------------------------


def _own_function(name: str) -> Any:
    source = name.partition(":")[0]
    if not user_code.is_user_code(name):
        raise InputError(
            f"{KIND} '{name}': expected package.module:function, timm:NAME, torchvision:NAME or "
            "hf:NAME"
        )
    try:
        return user_code.load(name, KIND)
    except InputError as error:
        close = nearest(source, PREFIXES)
        if close is None or "no module named" not in str(error):
            raise
        raise InputError(f"{error}; did you mean '{close}:'?") from None


def _own_build(name: str, options: Mapping[str, Any]) -> nn.Module:
    model = user_code.call(_own_function(name), name, KIND, options)
    if not isinstance(model, nn.Module):
        raise InputError(f"{KIND} '{name}': expected an nn.Module, got {type(model).__name__}")
    return model


def _own_example(name: str, batch_size: int, options: Mapping[str, Any]) -> torch.Tensor:
    """From ``example_input(batch_size, **options)`` in the module that holds the function."""
    _own_function(name)
    module = importlib.import_module(name.partition(":")[0])
    maker = getattr(module, "example_input", None)
    if maker is None:
        raise InputError(
            f"{KIND} '{name}': what it takes is not known; give the model a dataset, or define "
            f"example_input(batch_size) in {module.__name__}"
        )
    takes_options = any(
        p.kind is p.VAR_KEYWORD or p.name in options
        for p in inspect.signature(maker).parameters.values()
    )
    chosen = {"batch_size": batch_size, **(options if takes_options else {})}
    batch = user_code.call(maker, f"{module.__name__}:example_input", KIND, chosen)
    if not isinstance(batch, torch.Tensor):
        raise InputError(
            f"{KIND} '{name}': example_input: expected a Tensor, got {type(batch).__name__}"
        )
    return batch
