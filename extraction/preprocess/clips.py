"""Where the clips of a sound or a film lie: equally spaced, the first at its start, the last at its end."""

from fractions import Fraction

CLIP_SECONDS = 2


def clip_times(duration: float, num_clips: int) -> list[tuple[Fraction, Fraction]]:
    """Start and end, in seconds, of `num_clips` clips of CLIP_SECONDS in a recording of `duration` seconds.

    They are exact fractions, because whoever rounds them to samples or frames must round as upstream does.
    The clips of a recording shorter than one clip all start at 0 and reach beyond its end.
    Source: pytorchvideo's ConstantClipsPerVideoSampler at the commit that ImageBind pins; release 0.1.5
    places them differently.
    """
    spare = max(Fraction(duration) - CLIP_SECONDS, Fraction(0))
    starts = [spare * clip / max(num_clips - 1, 1) for clip in range(num_clips)]
    return [(start, start + CLIP_SECONDS) for start in starts]
