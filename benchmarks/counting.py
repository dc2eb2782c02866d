"""te.count beside torch's flop counter, on networks of timm and transformers with random weights.

    python benchmarks/counting.py                   # all of them
    python benchmarks/counting.py timm resnet50     # some of one package
    python benchmarks/counting.py transformers mixtral gpt2

Two FLOP of torch's counter are one multiply-accumulate. Attention is told to take torch's plain
path there, since the counter knows no attention of the CPU. What the counter leaves out is worked
out by hand: LSTM layers and the products of experts. Exit status 1 where a figure differs or a
parameter is in no row.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import ttq_energy as te

NAMES = """
    resnet50 mobilenetv3_large_100 efficientnet_b0 convnext_tiny vit_small_patch16_224
    deit_tiny_patch16_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 mixer_s32_224
    regnety_016 densenet121 ghostnet_100 coatnet_0_rw_224 maxvit_tiny_tf_224 inception_v4 nfnet_f0
    levit_128 mobilevit_s poolformer_s12 efficientformer_l1 xcit_nano_12_p16_224 botnet26t_256
    halonet26t lambda_resnet26t eca_botnext26ts_256 beit_base_patch16_224 cait_xxs24_224
    crossvit_9_240 edgenext_small repvgg_a0 res2net50_26w_4s resnest50d skresnet18 hrnet_w18_small
    dla34 vgg11 mnasnet_100 pvt_v2_b0 twins_pcpvt_small volo_d1_224 davit_tiny focalnet_tiny_srf
    gcvit_xxtiny hiera_tiny_224 fastvit_t8 repvit_m1 starnet_s1 mambaout_femto
    eva02_tiny_patch14_224 tnt_s_patch16_224 visformer_tiny convmixer_768_32 selecsls42b
    sequencer2d_s nest_tiny inception_next_tiny mobilenetv4_conv_small efficientvit_b0
    efficientvit_m0 tiny_vit_5m_224 vit_base_patch16_siglip_224 naflexvit_base_patch16_gap
    resnetv2_50x1_bit cspresnet50 vovnet39a ese_vovnet19b_dw rexnet_100 hardcorenas_a gernet_s
    tresnet_m dpn68 xception41 pnasnet5large nasnetalarge gmlp_s16_224 resmlp_12_224 mvitv2_tiny
    samvit_base_patch16_224 swinv2_cr_tiny_224 maxxvit_rmlp_nano_rw_256 convit_tiny
"""
TIMM = NAMES.split()

WIDTHS = {
    "vocab_size": 100,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
SHARED_KEYS = {**WIDTHS, "num_key_value_heads": 2}
TOKENS, DECODED = 34, 18
"""Two sequences of 17, and of 9 for a decoder."""
EXPERT = 3 * 64 * 128
"""Multiply-accumulates of one token in one gated expert of these widths."""


def _ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 90, shape)


def _text() -> dict[str, Any]:
    return {"input_ids": _ids(2, 17)}


def _both() -> dict[str, Any]:
    return {**_text(), "decoder_input_ids": _ids(2, 9)}


Case = tuple[str, str, dict[str, Any], dict[str, Any], int]


def transformers_cases() -> list[Case]:
    """(name, class, configuration, input, multiply-accumulates of experts by hand)."""
    mixtral = {**SHARED_KEYS, "num_local_experts": 4, "num_experts_per_tok": 2}
    positions = {**WIDTHS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
    image = {"image_size": 32, "patch_size": 8}
    picture = {"pixel_values": torch.randn(2, 3, 32, 32)}
    shared = {"moe_intermediate_size": 32}
    used = 2 * TOKENS * 2 * EXPERT  # Two layers, two experts a token.
    return [
        ("bert", "BertModel", WIDTHS, _text(), 0),
        ("bert-mlm", "BertForMaskedLM", {**WIDTHS, "attn_implementation": "eager"}, _text(), 0),
        ("distilbert", "DistilBertModel", _renamed("dim n_layers n_heads hidden_dim"), _text(), 0),
        ("albert", "AlbertModel", {**WIDTHS, "embedding_size": 32}, _text(), 0),
        ("deberta", "DebertaV2Model", positions, _text(), 0),
        ("gpt2", "GPT2LMHeadModel", _renamed("n_embd n_layer n_head n_inner"), _text(), 0),
        ("opt", "OPTForCausalLM", {**_renamed("hidden_size num_hidden_layers num_attention_heads"
                                              " ffn_dim"), "word_embed_proj_dim": 64}, _text(), 0),
        ("bloom", "BloomForCausalLM", _renamed("hidden_size n_layer n_head"), _text(), 0),
        ("phi", "PhiForCausalLM", WIDTHS, _text(), 0),
        ("llama", "LlamaForCausalLM", SHARED_KEYS, _text(), 0),
        ("mistral", "MistralForCausalLM", {**SHARED_KEYS, "sliding_window": 8}, _text(), 0),
        ("gemma3", "Gemma3ForCausalLM", {**SHARED_KEYS, "head_dim": 16}, _text(), 0),
        ("mixtral", "MixtralForCausalLM", mixtral, _text(), used),
        ("mixtral-eager", "MixtralForCausalLM",
         {**mixtral, "experts_implementation": "eager"}, _text(), 0),
        ("mixtral-batched", "MixtralForCausalLM",
         {**mixtral, "experts_implementation": "batched_mm"}, _text(), 0),
        ("qwen2-moe", "Qwen2MoeForCausalLM",
         {**SHARED_KEYS, **shared, "num_experts": 4, "shared_expert_intermediate_size": 64},
         _text(), 2 * TOKENS * 4 * EXPERT // 4),
        ("deepseek-v3", "DeepseekV3ForCausalLM",
         {**WIDTHS, **shared, "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 2,
          "topk_group": 1, "num_experts_per_tok": 2, "q_lora_rank": 16, "kv_lora_rank": 16,
          "qk_rope_head_dim": 8, "v_head_dim": 16, "qk_nope_head_dim": 16,
          "first_k_dense_replace": 1}, _text(), TOKENS * 2 * EXPERT // 4),
        ("gpt-oss", "GptOssForCausalLM",
         {**SHARED_KEYS, "head_dim": 16, "intermediate_size": 64, "num_local_experts": 4},
         _text(), 2 * TOKENS * 4 * EXPERT // 2),
        ("t5", "T5ForConditionalGeneration",
         {"vocab_size": 100, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2,
          "num_heads": 4}, _both(), 0),
        ("whisper", "WhisperForConditionalGeneration",
         {"vocab_size": 100, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2,
          "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 128,
          "decoder_ffn_dim": 128, "max_source_positions": 50, "num_mel_bins": 20,
          "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
          "suppress_tokens": None, "begin_suppress_tokens": None},
         {"input_features": torch.randn(2, 20, 100), "decoder_input_ids": _ids(2, 9)}, 0),
        ("mamba", "MambaForCausalLM", _renamed("hidden_size num_hidden_layers"), _text(), 0),
        ("mamba2", "Mamba2ForCausalLM",
         {**_renamed("hidden_size num_hidden_layers"), "num_heads": 8, "head_dim": 16,
          "n_groups": 1}, _text(), 0),
        ("rwkv", "RwkvForCausalLM",
         {**_renamed("hidden_size num_hidden_layers"), "attention_hidden_size": 64}, _text(), 0),
        ("clip", "CLIPModel",
         {"text_config": WIDTHS, "vision_config": {**WIDTHS, **image}}, {**_text(), **picture}, 0),
        ("vit", "ViTForImageClassification", {**WIDTHS, **image}, picture, 0),
        ("segformer", "SegformerForSemanticSegmentation", {},
         {"pixel_values": torch.randn(1, 3, 64, 64)}, 0),
        ("wav2vec2", "Wav2Vec2Model", {**WIDTHS, "conv_dim": (32,) * 7},
         {"input_values": torch.randn(2, 4000)}, 0),
    ]  # fmt: skip


def _renamed(names: str) -> dict[str, Any]:
    """WIDTHS under the names that a configuration gives them."""
    values = (64, 2, 4, 128)
    chosen = names.split()
    if chosen == ["hidden_size", "num_hidden_layers"]:
        return {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2}
    return {"vocab_size": 100, **dict(zip(chosen, values, strict=False))}


def transformers_networks(names: list[str]) -> Iterator[tuple[str, nn.Module, Any, int]]:
    """The tiny networks, with random weights."""
    _survive_torchvision()
    import transformers

    for name, kind, config, inputs, by_hand in transformers_cases():
        if not names or name in names:
            found = getattr(transformers, kind)
            yield name, found(found.config_class(**config)), inputs, by_hand


def timm_networks(names: list[str]) -> Iterator[tuple[str, nn.Module, Any, int]]:
    """timm's, with random weights, at the size of their published ones."""
    _survive_torchvision()
    import timm

    for name in names or TIMM:
        model = timm.create_model(name, pretrained=False)
        size = model.pretrained_cfg["input_size"]
        x = torch.randn(1, *size)
        yield name, model, x, _lstm_macs(model.eval(), x)


def _survive_torchvision() -> None:
    """Let both packages import a torchvision that was built for another torch.

    Its operators are missing then; none of the networks uses them.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou) -> Tensor")
        _survive_torchvision.library = library  # type: ignore[attr-defined]


def _lstm_macs(model: nn.Module, x: torch.Tensor) -> int:
    """4 h (i + h) a step, direction and layer, from the shapes that each LSTM of it gets."""
    found = 0

    def add(module: nn.LSTM, inputs: Any, _: Any) -> None:
        nonlocal found
        steps = inputs[0].numel() // inputs[0].shape[-1]
        both = 2 if module.bidirectional else 1
        assert module.num_layers == 1
        found += steps * both * 4 * module.hidden_size * (module.input_size + module.hidden_size)

    lstms = [m for m in model.modules() if isinstance(m, nn.LSTM)]
    hooks = [m.register_forward_hook(add) for m in lstms]
    if lstms:
        with torch.no_grad():
            model(x)
    for hook in hooks:
        hook.remove()
    return found


def audit(name: str, model: nn.Module, x: Any, by_hand: int) -> bool:
    """Print one line; whether everything agrees."""
    model = model.eval().requires_grad_(False)
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        _ = model(**x) if isinstance(x, dict) else model(x)
    wanted = counter.get_total_flops() // 2 + by_hand
    began = time.process_time()
    counts = te.count(model, x)
    seconds = time.process_time() - began
    macs = int(counts["macs"].sum())
    unowned = sum(p.numel() for p in model.parameters()) - int(counts["parameters"].sum())
    unknown = counts[~counts["supported"]]
    notes = [f"{row.layer} ({row.op}): not counted" for row in unknown.itertuples()]
    notes += [f"MACs differ by {macs - wanted:+,}"] if macs != wanted else []
    notes += [f"{unowned:+,} parameters in no row"] if unowned else []
    hand = f"{by_hand / 1e6:10.3f}" if by_hand else f"{'':10s}"
    print(f"{name:30s} {macs / 1e6:11.3f} {hand} {seconds:6.2f}  {'; '.join(notes)}", flush=True)
    return macs == wanted and not unowned


def main() -> int:
    """Exit status: 0 where all agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("package", nargs="?", choices=("timm", "transformers"))
    parser.add_argument("names", nargs="*", help="networks; all of them by default")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    sources = {"timm": timm_networks, "transformers": transformers_networks}
    print(f"{'network':30s} {'million MAC':>11s} {'by hand':>10s} {'s':>6s}")
    agree = [
        audit(*network)
        for package, networks in sources.items()
        if args.package in (None, package)
        for network in networks(args.names)
    ]
    print(f"{sum(agree)} of {len(agree)} networks: MACs equal, every parameter in one row")
    return 0 if all(agree) else 1


if __name__ == "__main__":
    raise SystemExit(main())
