"""Samples as files: PNG for pictures, MP4 and a strip of frames for clips, a gallery for all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vipo.visualization.canvas import Canvas, middle_frame, to_image


def write_samples(pixels: np.ndarray, captions: list[str], folder: Path, fps: int = 8, columns: int = 4) -> str:
    """Write every sample and a gallery.

    Args:
        pixels: ``(N, 3, F, Y, X)`` uint8.
        captions: N texts for the gallery.
        folder: made if it does not exist.
        fps: frames per second of clips.

    Returns:
        What to look at, as text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clips = pixels.shape[2] > 1
    for i, sample in enumerate(pixels):
        if clips:
            write_mp4(sample, folder / f'{i:04d}.mp4', fps)
            strip = np.concatenate(list(sample.transpose(1, 0, 2, 3)), axis=-1)
            Image.fromarray(np.ascontiguousarray(strip.transpose(1, 2, 0))).save(folder / f'{i:04d}_strip.png')
        else:
            Image.fromarray(np.ascontiguousarray(sample[:, 0].transpose(1, 2, 0))).save(folder / f'{i:04d}.png')
    gallery(pixels, captions, folder / 'gallery.png', columns)
    return 'gallery.png, *.mp4 and *_strip.png' if clips else 'gallery.png and *.png'


def write_mp4(sample: np.ndarray, path: Path, fps: float) -> None:
    """``(3, F, Y, X)`` uint8 -> a clip.

    Raises:
        OSError: OpenCV cannot: it has no encoder, or that takes no such size or rate.
    """
    import cv2

    _, _, height, width = sample.shape
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), fps, (width, height))
    if not writer.isOpened():
        raise OSError(f'{path} cannot be written: OpenCV encodes no MP4 of {width} x {height} at {fps:.4g} fps here')
    for frame in sample.transpose(1, 2, 3, 0):
        writer.write(np.ascontiguousarray(frame[..., ::-1]))  # OpenCV's order is BGR
    writer.release()


def gallery(pixels: np.ndarray, captions: list[str], path: Path, columns: int, side: int = 192) -> None:
    """Write one sheet with every sample and its caption; of a clip the middle frame is shown.

    Args:
        pixels: ``(N, 3, F, Y, X)`` uint8.
        path: of the PNG.
    """
    gap, words = 10, 80
    rows = -(-len(captions) // columns)
    sheet = Canvas(gap + min(columns, len(captions)) * (side + gap), rows * (side + words + gap))
    for i, caption in enumerate(captions):
        x, y = gap + (i % columns) * (side + gap), (i // columns) * (side + words + gap)
        sheet.text(caption, x, y + 4, size=11, width=side, height=words - 4)
        sheet.paste(to_image(middle_frame(pixels[i]), side), x, y + words)
    sheet.image.save(path)
