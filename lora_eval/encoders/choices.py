"""What can be named as encoder, in words; apart from the encoders, so that help needs none of their packages."""

CHOICES = "auto, dinov2, an open_clip model as NAME/PRETRAINED, or a folder"
