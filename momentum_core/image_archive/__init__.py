"""Archives of images become one canonical .npz: strangers' zips and tars, and folders at hand.

compression tar_members     a tar archive from front to back
archive                     zip and tar in one view, with safe paths
member_paths                what a path tells: training or test part, image or not
folder                      a folder of the operator's, in the same view
layout                      class folders, class files of shards, or no labels
image_header orientation    what an image says of itself, before it is decoded
image_form pixels           what images become: Pillow, behind all those checks
npz_writer inspection       the canonical file; all of it, on an open file

No file is ever made under a name from an archive, and no archive inside an archive is opened;
those in an operator's folder are.
"""

from momentum_core.image_archive.image_form import ImageForm

__all__ = ["ImageForm"]
