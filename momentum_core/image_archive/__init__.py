"""Strangers' archives of images: class folders in a zip or tar become one canonical .npz.

compression tar_members     a tar archive from front to back
archive                     zip and tar in one view, with safe paths
layout                      classes, training and test part, from the paths
image_header orientation    what an image says of itself, before it is decoded
pixels                      Pillow, behind all those checks
npz_writer inspection       the canonical file; all of it, on an open file

No file is ever made under a name from an archive, and no archive inside an archive is opened.
"""

from momentum_core.image_archive.pixels import ImageForm

__all__ = ["ImageForm"]
