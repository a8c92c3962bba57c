"""What exactly is wrong with a plan file: every damaged part, not only the first one found."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskc_cache.check import verify
from maskc_cache.codec import CODECS
from maskc_cache.errors import PlanError
from maskc_cache.format import MAX_DECODED, decode, decode_sections, read_image
from maskc_cache.header import Section, parse_image

__all__ = ["Finding", "diagnose", "stored_sections"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a plan file.

    Attributes:
        section: the section, or "preamble", "header", or "file" for what concerns all of it.
        first: the first byte of the range that is wrong.
        last: the last one; before `first` if the range is empty.
        problem: what is wrong with it.
    """

    section: str
    first: int
    last: int
    problem: str

    def __str__(self) -> str:
        return f"{self.section}, bytes {self.first} to {self.last}: {self.problem}"


def diagnose(path: str | os.PathLike[str]) -> list[Finding]:
    """Everything wrong with a plan file; nothing if it is good.

    A checksum covers a whole section, so a finding is no finer than that. Without a readable header
    nobody knows where the sections are.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        image, _ = read_image(path)
    except PlanError as error:
        return [Finding("file", 0, -1, _plain(error, path))]
    try:
        _, rows = parse_image(image, MAX_DECODED)
    except PlanError as error:
        return [_of_header(image, str(error))]
    sections = [Section(*row) for row in rows]
    damaged = [finding for section in sections for finding in _of_section(image, section)]
    return damaged or _of_content(image, sections)


def _plain(error: PlanError, path: str | os.PathLike[str]) -> str:
    return str(error).removeprefix(f"{path}: ").partition(";")[0]


def _of_header(image: npt.NDArray[np.uint8], problem: str) -> Finding:
    """The range of a problem before the sections' content, which its text names if it is known."""
    if match := re.match(r"expected a file of ([\d,]+) bytes, got ([\d,]+)", problem):
        expected, got = (int(number.replace(",", "")) for number in match.groups())
        return Finding("file", min(expected, got), max(expected, got) - 1, problem)
    if match := re.search(r"(\S*?)(?: \(|^)bytes (\d+) to (\d+)\)?", problem):
        first, last = int(match[2]), int(match[3])
        if problem.startswith("bytes "):
            return Finding("padding", first, last, "not zero")
        if problem.startswith(f"{match[1]} (bytes"):
            return Finding(match[1], first, last, problem.partition(": ")[2])
        section = "preamble" if last < 64 else "header"
        return Finding(section, first, last, problem.partition(" (bytes ")[0])
    return Finding("file", 0, len(image) - 1, problem)


def _of_section(image: npt.NDArray[np.uint8], section: Section) -> list[Finding]:
    try:
        decode_sections(image, [section])
    except PlanError as error:
        problem = str(error).removeprefix(f"{section.place}: ")
        return [Finding(section.name, section.offset, section.stop - 1, problem)]
    return []


def _of_content(image: npt.NDArray[np.uint8], sections: list[Section]) -> list[Finding]:
    """What is wrong though every checksum holds: an index, or an invariant."""
    try:
        verify(decode(image, source=""))
    except PlanError as error:
        problem = str(error).removeprefix(": ").partition(";")[0]
        for section in sections:
            if problem.startswith(f"{section.name}:"):
                text = problem.removeprefix(f"{section.name}: ")
                return [Finding(section.name, section.offset, section.stop - 1, text)]
        return [Finding("file", 0, len(image) - 1, problem)]
    return []


def stored_sections(path: str | os.PathLike[str]) -> list[tuple[str, str, str, int, int]]:
    """Name, dtype[shape], codec, stored bytes and decoded bytes of each section, unchecked.

    Raises:
        OSError: the file cannot be read.
        PlanError: its header cannot.
    """
    _, rows = parse_image(read_image(path)[0], MAX_DECODED)
    sections = [Section(*row) for row in rows]
    return [
        (s.name, f"{s.dtype}{[*s.shape]}", CODECS[s.codec], s.nbytes, s.decoded) for s in sections
    ]
