"""CLIP trained on captioned images: the symmetric loss, two towers, a vocabulary made of the captions."""
