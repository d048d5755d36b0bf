"""Pipelines of diffusers with random weights, small enough for a CPU: milliseconds a step, no network, no files.

CASES is the table that tests/test_base_model_hub.py runs over: a new family joins it by one builder and one line.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from base_model.protocol import VideoSize

PROMPTS = ["a red ball rolls", "two boxes meet and part"]


@dataclass(frozen=True)
class Case:
    """A tiny pipeline and how its own call is to be read.

    call: arguments of the call beyond the common ones. guidance, frames: the arguments that take the guidance scale
        (empty: it is set in the pipeline) and the number of frames.
    to_pipeline: arguments of the call that say latents in our layout. from_pipeline: what the call returns first, in
        ours; of a model that makes sound as well it is the picture.
    tolerance: of the largest difference to the pipeline's own latents; 0 = bit for bit.
    one_by_one: whether its call takes a single prompt.
    """

    build: Callable[[], Any]
    size: VideoSize = VideoSize(9, 16, 16)
    call: dict[str, Any] = field(default_factory=dict)
    guidance: str = "guidance_scale"
    frames: str = "num_frames"
    to_pipeline: Callable[[Tensor], dict[str, Tensor]] = lambda latents: {"latents": latents}
    from_pipeline: Callable[[Tensor, tuple[int, ...]], Tensor] = lambda latents, shape: latents
    tolerance: float = 0.0
    one_by_one: bool = False


def seeded(build: Callable[[], Any]) -> Any:
    """What `build` makes under a fixed seed, networks in eval mode (a fresh T5 would drop out)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = build()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


_T5 = {"vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}


def _t5() -> dict[str, Any]:
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    config = T5Config(**_T5, feed_forward_proj="gated-gelu")
    return {"tokenizer": ByT5Tokenizer(), "text_encoder": T5EncoderModel(config)}


def _umt5() -> dict[str, Any]:
    from transformers import ByT5Tokenizer, UMT5Config, UMT5EncoderModel

    config = UMT5Config(**_T5, feed_forward_proj="gated-gelu")
    return {"tokenizer": ByT5Tokenizer(), "text_encoder": UMT5EncoderModel(config)}


def _wan_transformer(channels: int = 16, shown: int = 0, kind: Any = None, **options: Any) -> Any:
    from diffusers import WanTransformer3DModel

    return (kind or WanTransformer3DModel)(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels + shown,
        out_channels=channels,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
        **options,
    )


def _wan_vae() -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )


def wan() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    return WanPipeline(**_umt5(), vae=_wan_vae(), scheduler=scheduler, transformer=_wan_transformer())


def wan_a14b() -> Any:
    """Wan 2.2: a high-noise and a low-noise expert."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    return WanPipeline(
        **_umt5(),
        vae=_wan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=_wan_transformer(),
        transformer_2=_wan_transformer(),
        boundary_ratio=0.875,
    )


def wan_a14b_i2v() -> Any:
    """Wan 2.2 image to video: two experts, the picture beside the latents, nobody else looks at it."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline

    return WanImageToVideoPipeline(
        **_umt5(),
        vae=_wan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        image_processor=None,
        image_encoder=None,
        transformer=_wan_transformer(shown=20),
        transformer_2=_wan_transformer(shown=20),
        boundary_ratio=0.9,
    )


def wan_flf2v() -> Any:
    """Wan 2.1 first and last frame to video: CLIP looks at both, 17 tokens each."""
    pipeline = wan_i2v(pos_embed_seq_len=34)
    torch.nn.init.normal_(pipeline.transformer.condition_embedder.image_embedder.pos_embed)
    return pipeline


def wan_i2v(**options: Any) -> Any:
    """Wan 2.1 image to video: 4 channels of mask and 16 of the picture beside the latents, and CLIP's look at it."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    looks = CLIPVisionConfig(
        hidden_size=4, intermediate_size=16, num_attention_heads=2, num_hidden_layers=2, image_size=32, patch_size=8
    )
    return WanImageToVideoPipeline(
        **_umt5(),
        vae=_wan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        image_processor=CLIPImageProcessor(size=32, crop_size=32),
        image_encoder=CLIPVisionModel(looks),
        transformer=_wan_transformer(shown=20, image_dim=4, **options),
    )


def wan_vace() -> Any:
    """Wan VACE: a branch that reads what is given and references, before the first block."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanVACEPipeline, WanVACETransformer3DModel

    transformer = _wan_transformer(kind=WanVACETransformer3DModel, vace_layers=[0], vace_in_channels=96)
    torch.nn.init.normal_(transformer.vace_patch_embedding.weight, std=0.1)
    return WanVACEPipeline(
        **_umt5(), vae=_wan_vae(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), transformer=transformer
    )


def wan_5b(kind: str = "WanPipeline") -> Any:
    """Wan 2.2 TI2V: a timestep per token."""
    import diffusers
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler

    vae = AutoencoderKLWan(
        base_dim=3,
        z_dim=48,
        in_channels=12,
        out_channels=12,
        is_residual=True,
        patch_size=2,
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
        temperal_downsample=[False, True, True],
    )
    extra = {} if kind == "WanPipeline" else {"image_processor": None, "image_encoder": None}
    return getattr(diffusers, kind)(
        **_umt5(),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        transformer=_wan_transformer(48),
        expand_timesteps=True,
        **extra,
    )


def wan_5b_i2v() -> Any:
    return wan_5b("WanImageToVideoPipeline")


def ltx(kind: str = "LTXPipeline") -> Any:
    import diffusers
    from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel

    vae = AutoencoderKLLTXVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.latents_mean.normal_()
    vae.latents_std.uniform_(0.5, 2.0)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=32,
    )
    later = kind == "LTXConditionPipeline"
    scheduler = FlowMatchEulerDiscreteScheduler(
        **{} if later else {"use_dynamic_shifting": True, "shift_terminal": 0.1}
    )
    return getattr(diffusers, kind)(**_t5(), vae=vae, transformer=transformer, scheduler=scheduler)


def ltx_i2v() -> Any:
    return ltx("LTXImageToVideoPipeline")


def ltx_later() -> Any:
    return ltx("LTXConditionPipeline")


def _drawn(latents: Tensor) -> dict[str, Tensor]:
    """`LTXConditionPipeline` takes no noise for its own; this is what it will draw."""
    from diffusers.pipelines.ltx import pipeline_ltx_condition

    pipeline_ltx_condition.randn_tensor = lambda *rest, **named: latents.clone()
    return {}


def _pack(latents: Tensor) -> dict[str, Tensor]:
    return {"latents": latents.flatten(2).transpose(1, 2)}


def _unpack(latents: Tensor, shape: tuple[int, ...]) -> Tensor:
    return latents.transpose(1, 2).reshape(len(latents), *shape)


def ltx2(kind: str = "LTX2Pipeline") -> Any:
    """LTX-2: 2 channels of 2 mel bins of sound per token, 25 tokens a second."""
    import diffusers
    from diffusers import (
        AutoencoderKLLTX2Audio,
        AutoencoderKLLTX2Video,
        FlowMatchEulerDiscreteScheduler,
        LTX2VideoTransformer3DModel,
    )
    from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

    vae = AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatiotemporal",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=4,
        decoder_causal=False,
    )
    vae.latents_mean.normal_()
    vae.latents_std.uniform_(0.5, 2.0)
    transformer = LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=16,
        rope_double_precision=False,
        rope_type="split",
    )
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=4,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        mid_block_add_attention=False,
        mel_bins=8,
    )
    connectors = LTX2TextConnectors(
        caption_channels=16,
        text_proj_in_factor=3,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=8,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=8,
        rope_double_precision=False,
        rope_type="split",
    )
    for registers in (connectors.video_connector, connectors.audio_connector):
        torch.nn.init.normal_(registers.learnable_registers)
    vocoder = LTX2Vocoder(
        in_channels=16,
        hidden_channels=32,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
        output_sampling_rate=16000,
    )
    return getattr(diffusers, kind)(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1),
        vae=vae,
        audio_vae=audio_vae,
        text_encoder=_gemma(),
        tokenizer=_letters(),
        connectors=connectors,
        transformer=transformer,
        vocoder=vocoder,
    )


def ltx2_i2v() -> Any:
    return ltx2("LTX2ImageToVideoPipeline")


def _gemma() -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

    text = Gemma3TextConfig(
        vocab_size=400,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=16,
    )
    looks = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=14, patch_size=14
    )
    special = {"boi_token_index": 390, "eoi_token_index": 391, "image_token_index": 392}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=looks, mm_tokens_per_image=1, **special)
    )


def _scale() -> tuple[Tensor, Tensor]:
    """Mean and deviation of the latents that the codec of `ltx2` makes."""
    vae = seeded(ltx2).vae
    return vae.latents_mean.reshape(1, -1, 1, 1, 1), vae.latents_std.reshape(1, -1, 1, 1, 1)


def _picture_and_sound(latents: Tensor) -> dict[str, Tensor]:
    """Of `ltx2` in its case's size: 3 latent frames, on its codec's scale, and behind them 5 tokens of sound."""
    mean, std = _scale()
    tokens = latents[:, :, 3:].flatten(2)[:, :, :5].transpose(1, 2)
    return {"latents": latents[:, :, :3] * std + mean, "audio_latents": tokens.unflatten(2, (2, 2)).transpose(1, 2)}


def _own_scale(latents: Tensor, shape: tuple[int, ...]) -> Tensor:
    mean, std = _scale()
    return (latents - mean) / std


def _cogvideox(kind: str = "CogVideoXPipeline", shown: int = 0, **options: Any) -> Any:
    import diffusers
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4 + shown,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=2,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=32,
        **options,
    )
    vae = AutoencoderKLCogVideoX(
        in_channels=3,
        out_channels=3,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        scaling_factor=0.7,
    )
    scheduler = CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=3.0,
        timestep_spacing="trailing",
    )
    return getattr(diffusers, kind)(**_t5(), vae=vae, transformer=transformer, scheduler=scheduler)


def cogvideox_2b() -> Any:
    return _cogvideox()


def cogvideox_5b() -> Any:
    return _cogvideox(use_rotary_positional_embeddings=True)


def cogvideox_1_5() -> Any:
    return _cogvideox(use_rotary_positional_embeddings=True, patch_size_t=2, patch_bias=False)


def cogvideox_i2v() -> Any:
    positions = {"use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True}
    return _cogvideox("CogVideoXImageToVideoPipeline", shown=4, **positions)


def cogvideox_1_5_i2v() -> Any:
    pipeline = _cogvideox(
        "CogVideoXImageToVideoPipeline",
        shown=4,
        use_rotary_positional_embeddings=True,
        patch_size_t=2,
        patch_bias=False,
        ofs_embed_dim=2,
    )
    pipeline.vae.register_to_config(invert_scale_latents=True)
    return pipeline


def _words() -> Any:
    """A tokenizer of whole words: those of HunyuanVideo's template and of PROMPTS."""
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    text = " ".join([DEFAULT_PROMPT_TEMPLATE["template"], *PROMPTS])
    words = [word for word, _ in Whitespace().pre_tokenize_str(text)]
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", *dict.fromkeys(words)])}
    model = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", unk_token="<unk>")


def _clip() -> dict[str, Any]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    tokens = ["ab", *letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[("a", "b")], model_max_length=77
    )
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=8,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        projection_dim=8,
        bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1,
    )
    return {"tokenizer_2": tokenizer, "text_encoder_2": CLIPTextModel(config)}


def _dialogue() -> Any:
    """As `_words`, of the template in which HunyuanVideo's image models read a picture."""
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import DEFAULT_PROMPT_TEMPLATE
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    marks = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"]
    pieces = Split(Regex(r"\n|\w+|[^\w\s]"), "removed", invert=True)
    text = " ".join([DEFAULT_PROMPT_TEMPLATE["template"], *PROMPTS])
    words = ["<pad>", "<unk>", "<begin>", *marks, *dict.fromkeys(word for word, _ in pieces.pre_tokenize_str(text))]
    vocabulary = {word: index for index, word in enumerate(words)}
    model = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = pieces
    model.post_processor = TemplateProcessing("<begin> $A", special_tokens=[("<begin>", vocabulary["<begin>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", unk_token="<unk>", additional_special_tokens=marks
    )


def hunyuan_video() -> Any:
    from diffusers import HunyuanVideoPipeline
    from transformers import LlamaConfig, LlamaModel

    text_encoder = LlamaModel(LlamaConfig(**_LLAMA, vocab_size=1000))
    return HunyuanVideoPipeline(text_encoder=text_encoder, tokenizer=_words(), **_hunyuan_video(guidance_embeds=True))


def hunyuan_video_i2v() -> Any:
    return _hunyuan_video_i2v(guidance_embeds=True, image_condition_type="token_replace")


def hunyuan_video_i2v_33() -> Any:
    return _hunyuan_video_i2v(in_channels=9, guidance_embeds=False, image_condition_type="latent_concat")


def _hunyuan_video_i2v(**options: Any) -> Any:
    from diffusers import HunyuanVideoImageToVideoPipeline
    from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    tokenizer, looks = _dialogue(), {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    llava = LlavaConfig(
        text_config=LlamaConfig(**_LLAMA, vocab_size=len(tokenizer)),
        vision_config=CLIPVisionConfig(**looks, num_hidden_layers=2, image_size=48, patch_size=2),  # 24 x 24 tokens
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    return HunyuanVideoImageToVideoPipeline(
        text_encoder=Llava(llava),
        tokenizer=tokenizer,
        image_processor=CLIPImageProcessor(size=48, crop_size=48),
        **_hunyuan_video(**options),
    )


_LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 37,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
}


def _hunyuan_video(in_channels: int = 4, **options: Any) -> dict[str, Any]:
    from diffusers import AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler, HunyuanVideoTransformer3DModel

    transformer = HunyuanVideoTransformer3DModel(
        in_channels=in_channels,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=2,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=2,
        patch_size_t=1,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
        **options,
    )
    vae = AutoencoderKLHunyuanVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.476986,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    return {**_clip(), "transformer": transformer, "vae": vae, "scheduler": scheduler}


def hunyuan_video_1_5(kind: str = "HunyuanVideo15Pipeline", task: str = "t2v", **looks: Any) -> Any:
    import diffusers
    from diffusers import (
        AutoencoderKLHunyuanVideo15,
        ClassifierFreeGuidance,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideo15Transformer3DModel,
    )
    from transformers import Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=16,
        text_embed_2_dim=32,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type=task,
    )
    vae = AutoencoderKLHunyuanVideo15(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    qwen = Qwen2_5_VLTextConfig(
        vocab_size=400,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        rope_scaling={"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    glyphs = _t5()
    return getattr(diffusers, kind)(
        text_encoder=Qwen2_5_VLTextModel(qwen),
        tokenizer=_letters(),
        text_encoder_2=glyphs["text_encoder"],
        tokenizer_2=glyphs["tokenizer"],
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        guider=ClassifierFreeGuidance(guidance_scale=4.0),
        **looks,
    )


def hunyuan_video_1_5_i2v() -> Any:
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    looks = {"hidden_size": 12, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    return hunyuan_video_1_5(
        "HunyuanVideo15ImageToVideoPipeline",
        "i2v",
        image_encoder=SiglipVisionModel(SiglipVisionConfig(**looks, image_size=16, patch_size=8)),
        feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}),
    )


def _letters() -> Any:
    """A tokenizer of single bytes with a chat template, as Qwen's has one."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    letters = ["<pad>", "<unk>", "<end>", *sorted(ByteLevel.alphabet())]
    model = Tokenizer(BPE({letter: index for index, letter in enumerate(letters)}, [], unk_token="<unk>"))
    model.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", unk_token="<unk>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    return tokenizer


def latte() -> Any:
    from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline, LatteTransformer3DModel

    transformer = LatteTransformer3DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        num_attention_heads=3,
        attention_head_dim=8,
        cross_attention_dim=24,
        caption_channels=32,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    scheduler = DDIMScheduler(clip_sample=False)
    return LattePipeline(**_t5(), vae=vae, transformer=transformer, scheduler=scheduler)


def mochi() -> Any:
    from diffusers import (
        AutoencoderKLMochi,
        FlowMatchEulerDiscreteScheduler,
        MochiPipeline,
        MochiTransformer3DModel,
    )

    transformer = MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=32,
        time_embed_dim=4,
        max_sequence_length=32,
    )
    torch.nn.init.normal_(transformer.pos_frequencies)
    vae = AutoencoderKLMochi(
        latent_channels=12,
        out_channels=3,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return MochiPipeline(**_t5(), vae=vae, transformer=transformer, scheduler=scheduler)


def sana_video(kind: str = "SanaVideoPipeline") -> Any:
    import diffusers
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaVideoTransformer3DModel
    from transformers import Gemma2Config, Gemma2Model

    transformer = SanaVideoTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=8,
        rope_max_seq_len=32,
    )
    text = Gemma2Config(
        vocab_size=300,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=4,
        query_pre_attn_scalar=4,
        attn_implementation="eager",
    )
    return getattr(diffusers, kind)(
        tokenizer=_letters(),
        text_encoder=Gemma2Model(text),
        vae=_wan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        transformer=transformer,
    )


def sana_video_i2v() -> Any:
    return sana_video("SanaImageToVideoPipeline")


_FRAMES_FIRST: dict[str, Any] = {
    "to_pipeline": lambda latents: {"latents": latents.transpose(1, 2)},
    "from_pipeline": lambda latents, shape: latents.transpose(1, 2),
}

_LTX2 = Case(
    ltx2,
    VideoSize(5, 32, 32),
    call={"stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0, "audio_guidance_rescale": 0.0}
    | {"audio_guidance_scale": None, "audio_stg_scale": None, "audio_modality_scale": None}
    | {"use_cross_timestep": False},
    to_pipeline=_picture_and_sound,
    from_pipeline=_own_scale,
    tolerance=1e-5,
)

CASES = {
    "wan": Case(wan),
    "ltx": Case(ltx, VideoSize(9, 32, 32), to_pipeline=_pack, from_pipeline=_unpack, tolerance=1e-5),
    "ltx_later": Case(ltx_later, VideoSize(9, 32, 32), to_pipeline=_drawn, tolerance=1e-5),
    "ltx2": _LTX2,
    "cogvideox": Case(
        cogvideox_2b,
        call={"max_sequence_length": 32},
        **_FRAMES_FIRST,
        tolerance=1e-4,
    ),
    "cogvideox_5b": Case(
        cogvideox_5b,
        call={"max_sequence_length": 32},
        **_FRAMES_FIRST,
        tolerance=1e-4,
    ),
    "cogvideox_1_5": Case(
        cogvideox_1_5,
        call={"max_sequence_length": 32},
        **_FRAMES_FIRST,
        tolerance=1e-4,
    ),
    "hunyuan_video": Case(hunyuan_video),
    "wan_a14b": Case(wan_a14b),
    "hunyuan_video_1_5": Case(hunyuan_video_1_5, VideoSize(9, 16, 16), guidance="", tolerance=1e-5),
    "latte": Case(latte, VideoSize(16, 16, 16), frames="video_length", tolerance=1e-4),
    "mochi": Case(mochi, VideoSize(7, 16, 16), call={"max_sequence_length": 32}, tolerance=1e-5),
    "wan_5b": Case(wan_5b, VideoSize(9, 32, 32)),
    "sana_video": Case(
        sana_video, VideoSize(9, 32, 32), call={"use_resolution_binning": False}, frames="frames", tolerance=1e-5
    ),
    "wan_vace": Case(wan_vace, tolerance=1e-5, one_by_one=True),
}

IMAGE_CASES = {
    "wan_i2v": Case(wan_i2v, tolerance=1e-5),
    "wan_a14b_i2v": Case(wan_a14b_i2v, tolerance=1e-5),
    "cogvideox_i2v": Case(
        cogvideox_i2v,
        call={"max_sequence_length": 32},
        **_FRAMES_FIRST,
    ),
    "cogvideox_1_5_i2v": Case(cogvideox_1_5_i2v, call={"max_sequence_length": 32}, **_FRAMES_FIRST),
    "wan_5b_i2v": Case(wan_5b_i2v, VideoSize(9, 32, 32)),
    "ltx_i2v": Case(ltx_i2v, VideoSize(9, 32, 32), to_pipeline=_pack, from_pipeline=_unpack, tolerance=1e-5),
    "ltx2_i2v": replace(_LTX2, build=ltx2_i2v),
    # Their calls mix a thousandth of the picture into the noise.
    "hunyuan_video_i2v": Case(hunyuan_video_i2v, tolerance=0.02),
    "hunyuan_video_i2v_33": Case(
        hunyuan_video_i2v_33,
        call={"true_cfg_scale": 4.0, "negative_prompt": ""},
        from_pipeline=lambda latents, shape: torch.cat([latents[:, :, :1], latents], 2),
        tolerance=0.02,
    ),
    "hunyuan_video_1_5_i2v": Case(hunyuan_video_1_5_i2v, tolerance=1e-5),
    "sana_video_i2v": Case(
        sana_video_i2v, VideoSize(9, 32, 32), call={"use_resolution_binning": False, "frames": 9}, tolerance=1e-5
    ),
}
"""Pipelines that are called with a picture; without a tolerance they encode it by themselves."""
