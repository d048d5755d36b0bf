"""Generators people use, through diffusers' classes: one small file per family, recognised by its pipeline class.

PIPELINES maps the `_class_name` of a model_index.json to the family that runs it. docs/add_a_generator.md tells how to
add one. Left out on purpose: the pipelines' own sampling loops and schedulers' steps; noise and transitions are
`flow.py`'s for every model.
"""

PIPELINES = {
    "WanPipeline": "base_model.hub.wan:Wan",
    "WanImageToVideoPipeline": "base_model.hub.wan:Wan",
    "WanVACEPipeline": "base_model.hub.wan:Wan",
    "LTXPipeline": "base_model.hub.ltx:LTX",
    "LTXImageToVideoPipeline": "base_model.hub.ltx:LTX",
    "LTXConditionPipeline": "base_model.hub.ltx:LTX",
    "LTX2Pipeline": "base_model.hub.ltx2:LTX2",
    "LTX2ImageToVideoPipeline": "base_model.hub.ltx2:LTX2",
    "CogVideoXPipeline": "base_model.hub.cogvideox:CogVideoX",
    "CogVideoXImageToVideoPipeline": "base_model.hub.cogvideox:CogVideoX",
    "HunyuanVideoPipeline": "base_model.hub.hunyuan_video:HunyuanVideo",
    "HunyuanVideoImageToVideoPipeline": "base_model.hub.hunyuan_video:HunyuanVideo",
    "HunyuanVideo15ImageToVideoPipeline": "base_model.hub.hunyuan_video_1_5:HunyuanVideo15",
    "HunyuanVideo15Pipeline": "base_model.hub.hunyuan_video_1_5:HunyuanVideo15",
    "LattePipeline": "base_model.hub.latte:Latte",
    "MochiPipeline": "base_model.hub.mochi:Mochi",
    "SanaVideoPipeline": "base_model.hub.sana_video:SanaVideo",
    "SanaImageToVideoPipeline": "base_model.hub.sana_video:SanaVideo",
}
