"""File-to-file quantization with the names of AMD Quark: a script written for
`quark.torch` runs when its import line says `quern`.

    from quern import LLMTemplate, ModelQuantizer

    config = LLMTemplate.get("minimax_m3_vl").get_config(scheme="mxfp4")
    ModelQuantizer(config).direct_quantize_checkpoint(
        pretrained_model_path="MiniMax-M3", save_path="MiniMax-M3-MXFP4")

Must never accept an argument that it would not honour. Proved by tests/python/quern_test.py.
"""

import dataclasses
import logging
import os

from . import _quern
from ._quern import Error, verify

__all__ = ["Chunk", "Error", "LLMTemplate", "ModelQuantizer", "QConfig", "SplitFusedExperts", "WeightConverter",
           "verify"]

_log = logging.getLogger("quern")


@dataclasses.dataclass(frozen=True)
class QConfig:
    """What `LLMTemplate.get_config` returns and `ModelQuantizer` takes."""

    scheme: str
    exclude: tuple = ()
    layer_config: tuple = ()  # (pattern, scheme) pairs, the first that matches wins


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Equal parts of a weight along `dim`."""

    dim: int = 0


@dataclasses.dataclass(frozen=True)
class SplitFusedExperts:
    """One weight an expert of a stack, or two when there are two targets: halves along `split_axis`."""

    split_axis: int = 0


@dataclasses.dataclass(frozen=True)
class WeightConverter:
    """What becomes of a tensor whose name ends in the source pattern, before it is quantized."""

    source_patterns: object
    target_patterns: object
    operations: list


def _converter_fields(converter):
    """(source, targets, operation, axis) of a WeightConverter, ours or Quark's own."""
    sources, targets = _names(converter.source_patterns), _names(converter.target_patterns)
    if len(sources) != 1:
        raise ValueError(f"weight_converters: one source pattern per converter, found {sources!r}")
    if len(converter.operations) != 1:
        raise ValueError(f"weight_converters: one operation per converter, found {converter.operations!r}")
    operation = converter.operations[0]
    name = type(operation).__name__
    axis = {"Chunk": "dim", "SplitFusedExperts": "split_axis"}.get(name)
    if axis is None:
        raise NotImplementedError(f"weight_converters: {name} is not supported by quern; Chunk and "
                                  "SplitFusedExperts are")
    return sources[0], targets, name, getattr(operation, axis)


def _names(value):
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _refuse(function, **arguments):
    for name, value in arguments.items():
        if value:
            raise NotImplementedError(f"{function}: {name}={value!r} is not supported by quern")


def _check_scheme(scheme):
    try:
        _quern.check_scheme(scheme)
    except Error as error:
        raise ValueError(str(error)) from None


class LLMTemplate:
    """Which linear layers of a model type stay unquantized; patterns match whole module names."""

    _templates = {}

    def __init__(self, model_type, kv_layers_name=None, q_layer_name=None, gate_up_layers_name=None,
                 exclude_layers_name=(), algorithm_configs=None, f2f_weight_converters=None,
                 **legacy_algorithm_parameters):
        # Algorithms (awq, gptq, ...) and converters are kept as Quark keeps them: neither acts unless
        # get_config() names an algorithm or the caller passes converters to the quantizer.
        self.model_type = model_type
        self.kv_layers_name = _names(kv_layers_name)
        self.q_layer_name = _names(q_layer_name)
        self.gate_up_layers_name = _names(gate_up_layers_name) or ["gate_proj", "up_proj"]
        self.exclude_layers_name = _names(exclude_layers_name)
        self.algorithm_configs = dict(algorithm_configs or {}, **legacy_algorithm_parameters)
        self.f2f_weight_converters = f2f_weight_converters

    @classmethod
    def register_template(cls, template):
        if template.model_type in cls._templates:
            _log.warning("Template '%s' already registered, will overwrite the existing template.",
                         template.model_type)
        cls._templates[template.model_type] = template

    @classmethod
    def list_available(cls):
        return list(cls._templates)

    @classmethod
    def get(cls, model_type):
        if model_type not in cls._templates:
            raise ValueError(
                f"There is no model template defined for the model type '{model_type}'. Available "
                f"templates: {', '.join(cls._templates)}. Register one with "
                "LLMTemplate.register_template(LLMTemplate(model_type=..., exclude_layers_name=[...])).")
        return cls._templates[model_type]

    @staticmethod
    def get_supported_schemes():
        return _quern.supported_schemes()

    def get_config(self, scheme, algorithm=None, kv_cache_scheme=None, min_kv_scale=0.0,
                   attention_scheme=None, layer_config=None, layer_type_config=None,
                   exclude_layers=None, algo_configs=None, shared_scale_groups=None):
        """`exclude_layers` replaces the template's list; an empty one excludes nothing."""
        _refuse("get_config", algorithm=algorithm, kv_cache_scheme=kv_cache_scheme,
                min_kv_scale=min_kv_scale, attention_scheme=attention_scheme,
                layer_type_config=layer_type_config, algo_configs=algo_configs,
                shared_scale_groups=shared_scale_groups)
        _check_scheme(scheme)
        for layer_scheme in (layer_config or {}).values():
            _check_scheme(layer_scheme)
        exclude = self.exclude_layers_name if exclude_layers is None else exclude_layers
        return QConfig(scheme, tuple(exclude), tuple((layer_config or {}).items()))


def _converter(source, targets, operation, axis):
    return WeightConverter(source, targets, [Chunk(axis) if operation == "Chunk" else SplitFusedExperts(axis)])


for _fields in _quern.templates():
    _fields["f2f_weight_converters"] = [_converter(*fields) for fields in _fields["f2f_weight_converters"]]
    LLMTemplate.register_template(LLMTemplate(**_fields))


class ModelQuantizer:
    def __init__(self, config, multi_device=False):
        self.config = config  # multi_device chooses GPUs, of which none is used

    def direct_quantize_checkpoint(self, pretrained_model_path, save_path,
                                   keep_excluded_layers_as_original_model_state=False,
                                   *legacy_device_args, weight_converters=None, device=None,
                                   presharded_weights=None, threads=0, memory_budget=256, report=True,
                                   overwrite=False, rank=None, world_size=None):
        """Quantizes a checkpoint file to file; an unfinished run of the same job is gone on with.

        `weight_converters` takes a template's `f2f_weight_converters`. `device` is accepted and has no effect: the CPU does the work. `memory_budget` is in MiB.
        Returns the numbers of the run as a dict. Ctrl-C stops it; nothing loadable is left.
        """
        if len(legacy_device_args) > 1:
            raise TypeError(
                "direct_quantize_checkpoint accepts at most one positional argument after "
                "'keep_excluded_layers_as_original_model_state'; pass weight_converters and device by "
                "keyword.")
        if (rank is None) != (world_size is None):
            raise ValueError("rank and world_size belong together")
        options = _quern.QuantizeOptions()
        options.model_dir = os.fspath(pretrained_model_path)
        options.output_dir = os.fspath(save_path)
        options.quant_scheme = self.config.scheme
        options.exclude_layers = list(self.config.exclude)
        options.layer_config = [f"{pattern}={scheme}" for pattern, scheme in self.config.layer_config]
        options.keep_excluded_layers_as_original_model_state = keep_excluded_layers_as_original_model_state
        options.presharded_weights = list((presharded_weights or {}).items())
        options.set_weight_converters([_converter_fields(converter) for converter in weight_converters or []])
        options.threads = threads
        options.memory_budget_bytes = memory_budget << 20
        options.report = report
        options.overwrite = overwrite
        options.rank, options.world_size = (
            _quern.environment_rank() if rank is None else (rank, world_size))
        result = _quern.quantize(options)
        print(result["table"], end="")
        if result["missing_shards"]:
            print(f"{result['missing_shards']} shards are still with other ranks")
        else:
            print(f"File-to-file quantization completed. Output saved to {save_path}")
        return result
