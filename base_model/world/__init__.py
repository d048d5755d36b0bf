"""The sandbox: a small physical world whose every clip comes with its ground truth.

`spec` says what a scene is, `simulate` moves it, `render` draws it, `caption` puts it into words and back, `corrupt`
spoils it the way web video is spoilt, `reader` gets the state back from pixels, and `dataset` draws clips and prompts
from seeds.
"""
