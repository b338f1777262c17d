"""What a picture's pixels say without any encoder: style, distortion, and a thumb for comparison.

Every number depends on the picture alone, so it never matters in which order or company pictures are
measured. Bump ``VERSION`` when a formula changes: stored numbers are then computed again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from skimage.measure import blur_effect

VERSION = 1
THUMB = 32
STYLE_NAMES = (
    *(f"{channel}_{moment}" for moment in ("mean", "sd", "skew") for channel in ("lab_l", "lab_a", "lab_b")),
    *(f"texture_{scale}" for scale in (1, 2, 4)),
)
DISTORTION_NAMES = ("clipped", "saturation", "high_band", "laplacian", "blur", "noise")
_STYLE_SIDE = 256
_GREY = np.array([0.299, 0.587, 0.114], np.float32)

_codes = np.arange(256, dtype=np.float64) / 255
_LINEAR = np.where(_codes <= 0.04045, _codes / 12.92, ((_codes + 0.055) / 1.055) ** 2.4).astype(np.float32)
"""sRGB code -> linear light, IEC 61966-2-1."""
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_TO_XYZ = (_XYZ / np.array([[0.95047], [1.0], [1.08883]])).astype(np.float32)
"""Linear sRGB -> XYZ over the D65 white."""
_DB2 = np.array([-0.48296291314469025, 0.8365163037378079, -0.22414386804185735, -0.12940952255092145], np.float32)
"""High-pass of Daubechies' wavelet with two vanishing moments."""


@dataclass(frozen=True)
class PixelStats:
    """Attributes: ``style`` (12,), ``distortion`` (6,), ``thumb`` (32, 32) in [0, 1]; all float32."""

    style: np.ndarray
    distortion: np.ndarray
    thumb: np.ndarray


def describe(image: Image.Image) -> PixelStats:
    """All statistics of one RGB picture of at least 16 px a side."""
    image = image if image.mode == "RGB" else image.convert("RGB")
    rgb = np.asarray(image)
    return PixelStats(style_statistics(image), distortion_statistics(rgb), thumb(image))


def thumb(image: Image.Image, side: int = THUMB) -> np.ndarray:
    """(side, side) float32 in [0, 1]: the grey picture, antialiased and squeezed square."""
    small = image.convert("L").resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255


def style_statistics(image: Image.Image) -> np.ndarray:
    """(12,) float32: three moments of each CIELAB channel, and gradient energy at three scales.

    Colour moments (Stricker & Orengo, "Similarity of color images", 1995): mean, standard deviation and
    signed cube root of the third central moment, in Lab units. Texture: ``log10(1e-4 + mean |gradient|)``
    of the grey picture in [0, 1], whole, halved and quartered. Pictures over 256 px are first shrunk to
    256 px, so that one picture at two sizes has about the same style.
    """
    shrink = max(image.size) / _STYLE_SIDE
    if shrink > 1:
        size = (max(1, round(image.width / shrink)), max(1, round(image.height / shrink)))
        image = image.resize(size, Image.Resampling.BOX)
    rgb = np.asarray(image)
    channels = lab(rgb).reshape(-1, 3).astype(np.float64)
    mean = channels.mean(axis=0)
    off = channels - mean
    # products: numpy raises to a power many times slower
    square = off * off
    skew = np.cbrt((square * off).mean(axis=0))
    grey = rgb.astype(np.float32) @ _GREY / 255
    texture = []
    for scale in (1, 2, 4):
        small = _halve(grey, scale)
        energy = np.abs(np.diff(small, axis=0)).mean() + np.abs(np.diff(small, axis=1)).mean()
        texture.append(np.log10(1e-4 + float(energy)))
    return np.array([*mean, *np.sqrt(square.mean(axis=0)), *skew, *texture], np.float32)


def distortion_statistics(rgb: np.ndarray) -> np.ndarray:
    """(6,) float32 in the order of ``DISTORTION_NAMES``, from (H, W, 3) uint8.

    * clipped: share of pixels of which a channel is 0 or 255, [0, 1].
    * saturation: mean HSV saturation ``(max - min) / max``, [0, 1].
    * high_band: share of the spectral power (mean removed, Hann window) above half the Nyquist
      frequency, [0, 1].
    * laplacian: variance of the 4-neighbour Laplacian of the grey picture in [0, 1]
      (Pech-Pacheco et al., ICPR 2000): sharpness.
    * blur: perceptual blur of ``skimage.measure.blur_effect`` (Crete et al., SPIE 6492, 2007), 0 sharp
      to 1 blurred.
    * noise: sigma of white noise in [0, 1] units, ``median |d| / 0.6745`` over the finest diagonal db2
      wavelet coefficients (Donoho & Johnstone, Biometrika 81, 1994), as
      ``skimage.restoration.estimate_sigma`` does it where PyWavelets is installed.
    """
    # channel by channel: along an axis of three numpy is slow
    top, bottom = (extreme.reduce([rgb[..., k] for k in range(3)]) for extreme in (np.maximum, np.minimum))
    clipped = float(((top == 255) | (bottom == 0)).mean())
    high = top.astype(np.float32)
    saturation = float(np.divide(high - bottom, high, out=np.zeros_like(high), where=top > 0).mean())
    grey = rgb.astype(np.float32) @ _GREY / 255
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    values = [
        clipped,
        saturation,
        high_band(grey),
        float(laplacian.var(dtype=np.float64)),
        _blur(grey),
        noise_sigma(grey),
    ]
    return np.array(values, np.float32)


def high_band(grey: np.ndarray) -> float:
    """Share of spectral power above half Nyquist, [0, 1]; 0 for a flat picture."""
    height, width = grey.shape
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]
    power = np.abs(np.fft.rfft2((grey - grey.mean()) * window)) ** 2
    # columns other than the first (and the last of an even width) stand for two of the full spectrum
    power[:, 1 : (width + 1) // 2] *= 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    total = float(power.sum())
    # by Parseval total / pixels**2 is about the variance: below this even 8 bits hold one grey level only
    return float(power[radius > 0.25].sum()) / total if total > 1e-9 * grey.size**2 else 0.0


def noise_sigma(grey: np.ndarray) -> float:
    """Standard deviation of white noise, in the units of ``grey``; see :func:`distortion_statistics`."""
    rows = sum(tap * grey[k : grey.shape[0] - 3 + k : 2] for k, tap in enumerate(_DB2))
    detail = sum(tap * rows[:, k : grey.shape[1] - 3 + k : 2] for k, tap in enumerate(_DB2))  # type: ignore[index]
    # exact zeros are flat areas, not measurements of noise; rounding leaves a little beside them
    magnitude = np.abs(np.asarray(detail))
    magnitude = magnitude[magnitude > 1e-6]
    return float(np.median(magnitude)) / 0.6744897501960817 if magnitude.size else 0.0


def lab(rgb: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 sRGB -> (..., 3) float32 CIELAB (D65): L in [0, 100], a and b about [-100, 100]."""
    xyz = _LINEAR[rgb] @ _TO_XYZ.T
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), xyz * (841 / 108) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def _halve(grey: np.ndarray, scale: int) -> np.ndarray:
    """Mean over ``scale`` x ``scale`` blocks; the ragged edge is cut."""
    height, width = (side // scale * scale for side in grey.shape)
    return grey[:height, :width].reshape(height // scale, scale, width // scale, scale).mean(axis=(1, 3))


def _blur(grey: np.ndarray) -> float:
    if float(np.ptp(grey)) < 1e-6:
        # a flat picture has no edge to judge: skimage divides by zero there
        return 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        # a picture that changes along one axis alone has no edge along the other
        value = float(blur_effect(grey, channel_axis=None))
    return value if np.isfinite(value) else 1.0
